"""How long listing and planning take and what they hold, by rows of the manifest: the code of an ingest, no pixel.

Each size runs in a process of its own, so that its peak memory is its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from infra.scale.synthetic import write_manifest

SIDE = 224
_MB = 1e6
_LOOK_S = 0.2


def measure_plan(rows: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write a manifest of so many rows and plan it in another process.

    Returns:
        rows, shards, patients; seconds of `listing_s`, `planning_s` and `closing_s`, and `cpu_s` of work in all; MB of
        driver memory with everything imported (`before_mb`), after planning and at the peak; bytes on disk of the
        manifest, of what was spilled in all and at most at once; some of these a row.
    """
    with tempfile.TemporaryDirectory(prefix="mskray-scale-", dir=folder) as name:
        manifest = Path(name) / "studies.parquet"
        began = time.monotonic()
        write_manifest(manifest, rows, seed)
        _say(f"{rows:,} rows: manifest of {manifest.stat().st_size / _MB:,.0f} MB in {time.monotonic() - began:.0f} s")
        found = subprocess.run(
            [sys.executable, "-m", "infra.scale.planning", str(manifest), name], stdout=subprocess.PIPE, check=True
        )
        return json.loads(found.stdout)


def plan_here(manifest: Path, folder: Path) -> dict[str, Any]:
    """Plan a manifest as an ingest of 224 px radiographs would, and do what it does with the plan before and after."""
    from mskray.cohorts import changes
    from mskray.cohorts.counting import count
    from mskray.cohorts.plan import make_plan
    from mskray.cohorts.schema import ImageFormat
    from mskray.cohorts.sources import Item, Rejected, get_source
    from mskray.imaging.deidentify import Pseudonymiser
    from mskray.storage import locate

    source, place = get_source("manifest"), locate(manifest)
    options = source.Options()
    tasks = source.tasks(place, options)
    counts: Counter[str] = Counter()
    times = {"listed": 0.0}
    told = 0.0

    def listed() -> Any:
        nonlocal told
        item: Item | Rejected
        for item in source.items(place, options):
            counts["rows"] += 1
            if counts["rows"] % 100_000 == 0 and time.monotonic() - told > 10:
                told = time.monotonic()
                _say(f"  listing {counts['rows']:,} ({counts['rows'] / (told - began):,.0f}/s)")
            yield item
        times["listed"] = time.monotonic()

    def planned(done: int, images: int) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            _say(f"  planning {done:,} of {images:,}")

    memory = Memory()
    began, cpu = time.monotonic(), time.process_time()
    plan = make_plan(
        listed(), tasks, Pseudonymiser(b"a key for simulations"), fractions=(0.7, 0.15, 0.15), resplit=False, seed=0,
        image_bytes=ImageFormat(size=SIDE, dtype="uint8", fit="pad").bytes, shard_rows=1024, context={},
        planned=planned,
    )  # fmt: skip
    with closing(plan):
        ended = time.monotonic()
        in_planning = memory.peak()
        _say("  counting, comparing files")
        held = count(plan, [], tasks)
        changes.compare_files(locate(folder / "cohort"), plan)
        closed = time.monotonic()
        assert held.images == counts["rows"], f"{held.images} of {counts['rows']}"
        rows = counts["rows"]
        found = {
            "rows": rows,
            "shards": len(plan.shards),
            "patients": sum(split.patients for split in held.splits.values()),
            "listing_s": times["listed"] - began,
            "planning_s": ended - times["listed"],
            "closing_s": closed - ended,
            "cpu_s": time.process_time() - cpu,
            "before_mb": memory.before / _MB,
            "planning_peak_mb": in_planning / _MB,
            "peak_mb": memory.peak() / _MB,
            "manifest_bytes": manifest.stat().st_size,
            "spilled_bytes": plan.spill.bytes,
            "spilled_peak_bytes": plan.spill.peak,
        }
    memory.end()
    return found | {
        "us_a_row": 1e6 * (closed - began) / rows,
        "cpu_us_a_row": 1e6 * found["cpu_s"] / rows,
        "memory_bytes_a_row": (found["peak_mb"] - found["before_mb"]) * _MB / rows,
        "spilled_peak_bytes_a_row": found["spilled_peak_bytes"] / rows,
    }


class Memory:
    """Watches the resident memory of this process, in bytes: as it was, and its peak since."""

    def __init__(self) -> None:
        self.before = self._most = resident()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self._most = max(self._most, resident())

    def peak(self) -> int:
        """Most bytes so far, of the whole process."""
        return max(self._most, resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(json.dumps(plan_here(Path(sys.argv[1]), Path(sys.argv[2]))))
