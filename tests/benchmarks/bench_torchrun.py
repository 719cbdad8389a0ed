"""Beside torchrun: from the command to the first step, and images a second with two workers on this machine.

    python tests/benchmarks/bench_torchrun.py

torchrun runs a script as one would write it: DistributedDataParallel over gloo, the training split read into memory,
half of it for each worker, with the allocator's settings that ours gives its workers. It takes network, rows and
augmentation from mskray, so that both do the same: importing these costs it some 0.4 s more than torch and Arrow alone.
Ours is `mskray train` with `resources.workers` of as many: one is the command's own process, two are Ray Train's.
Seconds count from the start of the command until the first step is done (torchrun) or told (ours). No cluster is named,
so that Ray's own processes are started, too, where it is asked for.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench_training import JOBS, prepare, trained, worker_environment
from measure import Case, Found, Reach, alternate, apart, main

OURS, ON_RAY, TORCHRUN = "mskray train", "mskray train on Ray", "torchrun"
LIMIT_S = 900.0
RESOURCES = {"workers": 2, "cpus_per_worker": 0.75}
"""So that two workers and a reader fit on two cores."""
FIRST_STEP = r"epoch 1/\d+  [1-9]"


def cases(options: argparse.Namespace) -> Iterator[Found]:
    name = next(iter(JOBS))
    cohort, settings = JOBS[name]
    with tempfile.TemporaryDirectory() as folder:
        apart(__file__, "prepare", folder=folder, share=0.15 if options.small else 1.0)
        job = {**settings, "cohort": f"{folder}/{cohort}"}
        job["data"] = {**job["data"], "batch_size": 16}
        place = Path(folder)
        for workers in (1, 2):
            starts = {
                OURS: partial(first_step, job, place, workers),
                TORCHRUN: partial(torchrun, job, place, workers, 0),
            }
            if workers == 1:
                starts[ON_RAY] = partial(first_step, job, place, workers, RAY_ADDRESS="local")
            what = f"{name}, {workers} worker{'s' * (workers > 1)}, to the first step"
            yield Case(what, "s", OURS, alternate(starts, options.rounds), [Reach(TORCHRUN, 1 / 1.5)])
        rates = {
            OURS: partial(
                trained,
                {**job, "loop": {"epochs": 2, "checkpoint_minutes": 0}, "resources": RESOURCES},
                place,
            ),
            TORCHRUN: partial(torchrun, job, place, 2, 2),
        }
        yield Case(
            f"{name}, 2 workers, 2 epochs", "images/s", OURS, alternate(rates, options.rounds), [Reach(TORCHRUN, 1.0)]
        )


def first_step(job: dict[str, Any], folder: Path, workers: int, **env: str) -> float:
    """Seconds until `mskray train` tells of its first step."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / "job.json"
        resources = {**RESOURCES, "workers": workers}
        file.write_text(json.dumps({**job, "out": f"{place}/bundle", "resources": resources, "loop": {"epochs": 100}}))
        return until([sys.executable, "-m", "mskray.cli", "train", str(file)], FIRST_STEP, **env)


def torchrun(job: dict[str, Any], folder: Path, workers: int, epochs: int) -> float:
    """Seconds to the first step (no epochs), or images/s over them."""
    file = folder / "torchrun.json"
    file.write_text(json.dumps(job))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*run, str(Path(__file__).with_name("torchrun_script.py")), str(file), str(epochs)]
    if not epochs:
        return until(command, "first step")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3600, check=True, env=environment())
    return float(re.findall(r"images/s ([\d.]+)", done.stdout)[-1])


def until(command: Sequence[str], pattern: str, **env: str) -> float:
    """Seconds until a line of a command's output matches; it is ended then."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**environment(), **env},
    )
    assert process.stdout is not None
    lines = []
    limit = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if re.search(pattern, line):
                return time.perf_counter() - started
        raise RuntimeError(f"no {pattern} from {' '.join(command)[:200]}:\n{''.join(lines)[-3000:]}")
    finally:
        limit.cancel()
        process.terminate()
        process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def environment() -> dict[str, str]:
    """Of either command."""
    return {**os.environ, **worker_environment(), "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    main(cases, prepare)
