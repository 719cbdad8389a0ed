"""Whether the memory of an ingest is flat: peak memory for a few and for ten times as many phantoms.

    python tests/benchmarks/ingest_memory.py                # 2,000 and 20,000 images of 64 px; minutes

Each size runs in a process of its own with a Ray session of its own. The driver and its workers are sampled ten times
a second through /proc: proportional set size, which counts shared pages once. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray

from mskray.cohorts.ingest import ingest

# Images a patient, over many: five studies for four patients and about 2.1 views a study.
IMAGES_A_PATIENT = 2.63


def children(parent: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found, new = [], [parent]
    while new:
        new = [pid for pid, above in parents.items() if above in new]
        found += new
    return found


def memory_mb(pid: int) -> float:
    """Proportional set size of a process; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def is_worker(pid: int) -> bool:
    """Ray names a worker after its task, and "ray::IDLE" between tasks."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


class Sampler(threading.Thread):
    """Peaks of the driver, of the largest worker, and of all of them together, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.worker = self.all = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            driver = memory_mb(os.getpid())
            workers = [memory_mb(pid) for pid in children(os.getpid()) if is_worker(pid)]
            self.driver = max(self.driver, driver)
            self.worker = max([self.worker, *workers])
            self.all = max(self.all, driver + sum(workers))


def measure(images: int, image_size: int) -> None:
    """Ingest phantoms and print the peaks."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    sampler = Sampler()
    sampler.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = ingest(
            "phantom",
            None,
            folder,
            {"patients": round(images / IMAGES_A_PATIENT), "image_size": image_size},
            {"size": image_size},
            key=b"a key for the benchmark",
        )
    seconds = time.perf_counter() - began
    sampler.done.set()
    sampler.join()
    print(
        f"{done.counts.images:6,d} phantoms in {seconds:4.0f} s: driver {sampler.driver:.0f} MB, "
        f"largest worker {sampler.worker:.0f} MB, all together {sampler.all:.0f} MB",
        flush=True,
    )
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[2_000, 20_000])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure(options.images[0], options.image_size)
        return
    for images in options.images:
        command = [sys.executable, __file__, "--alone", "--image-size", str(options.image_size), "--images"]
        subprocess.run([*command, str(images)], check=True)


if __name__ == "__main__":
    main()
