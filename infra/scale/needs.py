"""What large work needs in nodes, hours, egress and money: computed from `needs.yaml` and what was simulated.

    python -m infra.scale.needs            prints the tables
    python -m infra.scale.needs --write    puts them into infra/SCALING.md, between its marks

`measured.json` beside it holds the results of `python -m infra.scale.simulate … --json infra/scale/measured.json`.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
INPUTS, MEASURED, PAGE = HERE / "needs.yaml", HERE / "measured.json", HERE.parent / "SCALING.md"
BEGIN, END = "<!-- made by infra.scale.needs: begin -->", "<!-- made by infra.scale.needs: end -->"
SHARD_BYTES = 16 * 2**20
SPLITS = (0.7, 0.15, 0.15)


@dataclass(frozen=True)
class Inputs:
    """The figures of `needs.yaml` and, where they were simulated, of `measured.json`."""

    content: Mapping[str, Any]
    measured: Mapping[str, list[dict[str, Any]]]

    def __getitem__(self, name: str) -> float:
        """A figure by its name, such as "ingest_a_core"."""
        for section in ("prices", "nodes", "images", "rates", "work"):
            if name in self.content[section]:
                return float(self.content[section][name]["value"])
        raise KeyError(name)

    def largest(self, what: str) -> dict[str, Any]:
        """The largest simulation of "plan" or "ingest"."""
        size = {"plan": "rows", "ingest": "shards"}[what]
        return max(self.measured[what], key=lambda each: each[size])


@dataclass(frozen=True)
class Ingest:
    """What an ingest takes.

    Args:
        planning_h: before the first task starts, on one core of the driver.
        feeding_h: least that the driver takes to hand out all shards.
        hours: of all, planning included.
    """

    images: int
    shards: int
    nodes: int
    planning_h: float
    feeding_h: float
    writing_h: float
    read_gb: float
    written_gb: float
    requests: int
    money: float

    @property
    def hours(self) -> float:
        """From the command to the cohort: writing and feeding go on side by side."""
        return self.planning_h + max(self.writing_h, self.feeding_h)


def read_inputs() -> Inputs:
    """Read `needs.yaml` and `measured.json`."""
    return Inputs(yaml.safe_load(INPUTS.read_text()), json.loads(MEASURED.read_text()))


def shards_of(images: int, side: int) -> int:
    """Shards of so many images: in each split 2^k ranges, k the least that keeps shards below 16 MiB of pixels."""
    most = SHARD_BYTES // side**2
    return sum(2 ** max(0, math.ceil(math.log2(images * share / most))) for share in SPLITS)


def ingest(inputs: Inputs, images: int, hours: float) -> Ingest:
    """What it takes to bring so many images into shards in so many hours, from the first task on."""
    plan, fed = inputs.largest("plan"), inputs.largest("ingest")
    side = int(inputs["side"])
    shards = shards_of(images, side)
    a_node = inputs["ingest_a_core"] * inputs["cpus_a_node"] * inputs["ingest_efficiency"]
    read_a_node = inputs["gbit_a_node"] * 1e9 / 8 / inputs["source_bytes"]
    rate = min(a_node, read_a_node)
    nodes = max(1, math.ceil(images / (rate * hours * 3600)))
    planning = images * plan["cpu_us_a_row"] / 1e6 / 3600
    writing = images / (nodes * rate) / 3600
    feeding = shards * fed["driver_cpu_ms_a_shard"] / 1e3 / 3600
    requests = images + 2 * shards
    all_hours = planning + max(writing, feeding)
    money = (
        nodes * max(writing, feeding) * inputs["cpu_node_hour"]
        + all_hours * inputs["head_node_hour"]
        + images * inputs["get_1000"] / 1000
        + 2 * shards * inputs["put_1000"] / 1000
    )
    read, written = images * inputs["source_bytes"] / 1e9, images * side**2 * inputs["stored_share"] / 1e9
    return Ingest(images, shards, nodes, planning, feeding, writing, read, written, requests, money)


@dataclass(frozen=True)
class Training:
    """What a training takes on so many GPUs.

    Args:
        gbit_a_node: that each node reads where the cohort does not fit into its memory.
        held: whether a node's share of the cohort fits into half of its memory.
    """

    images: int
    gpus: int
    nodes: int
    hours: float
    gbit_a_node: float
    held: bool
    money: float


def train(inputs: Inputs, images: int, gpus: int) -> Training:
    """What it takes to train on so many images an epoch."""
    nodes = math.ceil(gpus / inputs["gpus_a_node"])
    rate = inputs["train_a_gpu"] * gpus * (inputs["gpu_efficiency"] if gpus > 1 else 1.0)
    hours = images * inputs["epochs"] / rate / 3600
    cell = inputs["side"] ** 2
    gbit = rate / nodes * cell * inputs["stored_share"] * 8 / 1e9
    held = images * cell / nodes < inputs["memory_a_gpu_node"] * 1e9 / 2
    return Training(images, gpus, nodes, hours, gbit, held, nodes * hours * inputs["gpu_node_hour"])


@dataclass(frozen=True)
class Search:
    """What a search takes; `overhead_h` of its `hours` is spent beside the trials."""

    trials: int
    gpus: int
    nodes: int
    hours: float
    overhead_h: float
    money: float


def search(inputs: Inputs, trials: int, gpus: int) -> Search:
    """What a search takes whose trials have a GPU each."""
    trial_h = inputs["trial_images"] * inputs["trial_epochs"] / inputs["train_a_gpu"] / 3600
    overhead = inputs["trial_overhead"] * trials / 3600
    hours = math.ceil(trials / gpus) * trial_h + overhead
    nodes = math.ceil(gpus / inputs["gpus_a_node"])
    return Search(trials, gpus, nodes, hours, overhead, nodes * hours * inputs["gpu_node_hour"])


def tables(inputs: Inputs) -> str:
    """All tables, as Markdown."""
    wanted = ((10**6, "ingest_hours_1m"), (10**8, "ingest_hours_100m"), (10**8, "ingest_hours_fast"))
    ingests = [ingest(inputs, images, inputs[hours]) for images, hours in wanted]
    trainings = [train(inputs, images, gpus) for images in (10**6, 10**8) for gpus in (8, 64)]
    searches = [search(inputs, trials, 64) for trials in (100, 1000)]
    egress = [each.read_gb * inputs["egress_gb"] for each in ingests]
    parts = [
        "### Ingest\n",
        _table(
            ("images", "shards", "CPU nodes", "planning", "feeding, at least", "writing", "in all", "read", "written",
             "requests", "USD", "USD of egress, if the bucket is elsewhere", "USD a month to keep"),
            [
                (_n(each.images), _n(each.shards), _n(each.nodes), _h(each.planning_h), _h(each.feeding_h),
                 _h(each.writing_h), _h(each.hours), _gb(each.read_gb), _gb(each.written_gb), _n(each.requests),
                 _n(each.money), _n(out), _n(each.written_gb * inputs["storage_gb_month"]))
                for each, out in zip(ingests, egress, strict=True)
            ],
        ),
        f"\n### Training, {inputs['epochs']:g} epochs\n",
        _table(
            ("images", "GPUs", "nodes", "hours", "read by each node", "held in memory", "USD"),
            [
                (_n(each.images), _n(each.gpus), _n(each.nodes), _h(each.hours), f"{each.gbit_a_node:.2f} Gbit/s",
                 "yes" if each.held else "no", _n(each.money))
                for each in trainings
            ],
        ),
        f"\n### A search: {inputs['trial_epochs']:g} epochs of {_n(inputs['trial_images'])} images and a GPU a trial\n",
        _table(
            ("trials", "GPUs", "nodes", "hours", "of which beside the trials", "USD"),
            [
                (_n(each.trials), _n(each.gpus), _n(each.nodes), _h(each.hours), _h(each.overhead_h), _n(each.money))
                for each in searches
            ],
        ),
        "\n### Simulated\n",
        _simulated(inputs),
        f"\n### Inputs (prices as of {inputs.content['prices_as_of']}: replace them)\n",
        _listed(inputs),
    ]  # fmt: skip
    return "\n".join(parts)


def _simulated(inputs: Inputs) -> str:
    plans = _table(
        ("rows", "shards", "listing", "planning", "counting, files", "CPU a row", "driver before", "driver at its peak",
         "spilled at most", "a row", "when"),
        [
            (_n(each["rows"]), _n(each["shards"]), _s(each["listing_s"]), _s(each["planning_s"]), _s(each["closing_s"]),
             f"{each['cpu_us_a_row']:.0f} µs", f"{each['before_mb']:,.0f} MB", f"{each['peak_mb']:,.0f} MB",
             _gb(each["spilled_peak_bytes"] / 1e9), f"{each['spilled_peak_bytes_a_row']:.0f} B", each["when"])
            for each in inputs.measured["plan"]
        ],
    )  # fmt: skip
    feeds = _table(
        ("nodes", "shards", "worker processes", "shards a second", "driver's CPU a shard", "driver before",
         "driver at its peak", "rows in flight", "when"),
        [
            (_n(each["nodes"]), _n(each["shards"]), _n(each["workers"]), _n(each["shards_a_s"]),
             f"{each['driver_cpu_ms_a_shard']:.2f} ms", f"{each['before_mb']:,.0f} MB", f"{each['peak_mb']:,.0f} MB",
             f"{each['window_mb']:,.0f} MB", each["when"])
            for each in inputs.measured["ingest"]
        ],
    )  # fmt: skip
    searches = _table(
        ("trials", "side by side", "seconds", "beside the trial's own, a trial", "ledger: write one", "read all",
         "leaderboard", "all draws", "one draw at the end", "when"),
        [
            (_n(each["trials"]), _n(each["slots"]), _s(each["seconds"]), f"{each['overhead_s_a_trial']:.2f} s",
             f"{each['ledger_write_ms']:.1f} ms", f"{each['ledger_read_s']:.2f} s", f"{each['leaderboard_s']:.2f} s",
             f"{each['drawing_s']:.1f} s", f"{each['last_draw_ms']:.0f} ms", each["when"])
            for each in inputs.measured.get("tune", [])
        ],
    )  # fmt: skip
    return "\n\n".join([plans, feeds, *([searches] if "tune" in inputs.measured else [])])


def _listed(inputs: Inputs) -> str:
    rows = []
    for section in ("rates", "images", "nodes", "work", "prices"):
        for name, each in inputs.content[section].items():
            source = each.get("source", each.get("note", ""))
            rows.append((f"`{name}`", f"{each['value']:g} {each['unit']}".strip(), each.get("from", "price"), source))
    return _table(("input", "value", "measured?", "where from"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _n(value: float) -> str:
    return f"{value:,.0f}"


def _s(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _h(hours: float) -> str:
    return f"{hours * 3600:,.0f} s" if hours < 0.02 else f"{hours * 60:,.0f} min" if hours < 1 else f"{hours:,.1f} h"


def _gb(gigabytes: float) -> str:
    return f"{gigabytes / 1000:,.1f} TB" if gigabytes >= 1000 else f"{gigabytes:,.1f} GB"


def page(text: str, made: str) -> str:
    """SCALING.md with the tables between its marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into infra/SCALING.md")
    options = parser.parse_args()
    made = tables(read_inputs())
    if options.write:
        PAGE.write_text(page(PAGE.read_text(), made))
    else:
        print(made)


if __name__ == "__main__":
    main()
