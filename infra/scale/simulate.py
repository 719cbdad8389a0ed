"""Simulates large work on one machine, without a pixel, and prints what it cost.

    python -m infra.scale.simulate plan --rows 1000000 10000000 [--folder /var/tmp] [--json FILE]
    python -m infra.scale.simulate ingest --nodes 1000 --shards 4096 [--raylets 4] [--json FILE]
    python -m infra.scale.simulate tune --trials 100 1000 --slots 4 [--json FILE]

`--json` adds the results to a file, by the words of the command: `infra.scale.needs` makes the tables of
infra/SCALING.md of it. A plan of 100 million rows takes some 50 GB of disk (`--folder`, and TMPDIR for what planning
spills) and an hour or more; say so with `--folder` and TMPDIR on a disk with that room.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.scale.planning import measure_plan

# Of a row: the manifest, what planning spills, and the list of files.
_DISK_BYTES_A_ROW = 500


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    found: Iterator[dict[str, Any]] = options.run(options)
    for each in found:
        print(json.dumps(each, indent=1), flush=True)
        if options.json:
            record(options.json, options.what, [each])


def record(file: Path, what: str, found: list[dict[str, Any]]) -> None:
    """Add results to a JSON file; those of the same size are replaced."""
    kept = json.loads(file.read_text()) if file.is_file() else {}
    key = {"plan": ("rows",), "ingest": ("nodes", "shards", "raylets"), "tune": ("trials", "slots")}[what]
    told = {"when": f"{datetime.now(UTC):%Y-%m-%d}", "machine": _machine()}
    rows = {tuple(each[name] for name in key): each for each in kept.get(what, [])}
    rows.update({tuple(each[name] for name in key): each | told for each in found})
    kept[what] = [rows[each] for each in sorted(rows)]
    file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _plan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for place in (options.folder, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(place).free
        if free < max(options.rows) * _DISK_BYTES_A_ROW:
            need = max(options.rows) * _DISK_BYTES_A_ROW / 1e9
            raise SystemExit(f"{place} has {free / 1e9:.0f} GB free, {need:.0f} GB may be needed: see --folder, TMPDIR")
    return (measure_plan(rows, options.folder, options.seed) for rows in options.rows)


def _ingest(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from infra.scale.scheduling import measure_ingest

    sizes = (options.cpus, options.rows_a_shard, options.seconds, options.workers, options.raylets)
    return (measure_ingest(options.nodes, shards, *sizes) for shards in options.shards)


def _tune(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from infra.scale.searching import measure_tune

    return (measure_tune(trials, options.slots, options.seconds) for trials in options.trials)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    plan = commands.add_parser("plan", help="list and plan manifests of so many rows")
    plan.add_argument("--rows", type=int, nargs="+", required=True)
    plan.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where manifests are written")
    plan.add_argument("--seed", type=int, default=0)
    plan.set_defaults(run=_plan)
    ingest = commands.add_parser("ingest", help="schedule so many shards as if for so many nodes")
    ingest.add_argument("--nodes", type=int, default=1000)
    ingest.add_argument("--shards", type=int, nargs="+", required=True)
    ingest.add_argument("--cpus", type=int, default=16, help="of each of the nodes")
    ingest.add_argument("--rows-a-shard", type=int, default=254)
    ingest.add_argument(
        "--seconds", type=float, default=0.0, help="that a shard is slept for in place of being written"
    )
    ingest.add_argument("--workers", type=int, default=2, help="processes that do so, on each Ray node")
    ingest.add_argument("--raylets", type=int, default=1, help="Ray nodes that are started on this machine")
    ingest.set_defaults(run=_ingest)
    tune = commands.add_parser("tune", help="run searches of so many trials that sleep")
    tune.add_argument("--trials", type=int, nargs="+", required=True)
    tune.add_argument("--slots", type=int, default=4, help="trials side by side")
    tune.add_argument("--seconds", type=float, default=0.1, help="that a trial sleeps")
    tune.set_defaults(run=_tune)
    for command in (plan, ingest, tune):
        command.add_argument("--json", type=Path, help="file to add the results to")
    return parser


if __name__ == "__main__":
    main()
