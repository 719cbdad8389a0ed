"""What every benchmark shares: subjects in turn on the same work, medians, ratios, peaks of memory, the machine.

An area is a file `bench_AREA.py` with `cases(options)`, which yields what it measured, and ends in `main(cases)`:

    python tests/benchmarks/bench_ingest.py [--rounds 5] [--small] [--json FILE]

All subjects of a case do the same work, one after the other in every round, so that what the machine does beside them
strikes all. A ratio is taken within each round; its median and its extremes are told. Subjects that would disturb each
other (threads, memory, caches of imports) run in processes of their own: `apart`.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What tests make their files with serves here, too.
TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS), str(TESTS / "imaging"), str(TESTS / "serving")]

APART = "--apart"
APART_SECONDS = 3600.0
PACKAGES = ("torch", "torchvision", "ray", "numpy", "opencv-python-headless", "pydicom", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Reach:
    """What a case is to reach: ours is at least `times` as good as the peer (fewer seconds and bytes are better)."""

    peer: str
    times: float


@dataclass(frozen=True)
class Case:
    """Subjects on the same work.

    Args:
        what: the work, so that it can be repeated.
        unit: of the values; those that end in "/s" are better when larger, all others when smaller.
        ours: our subject's name; the others are peers or limits.
        runs: subject → a value for each round, in the order of the rounds.
        notes: what a reader must know beside the figures.
    """

    what: str
    unit: str
    ours: str
    runs: Mapping[str, Sequence[float]]
    reach: Sequence[Reach] = ()
    notes: Sequence[str] = ()

    def times(self, peer: str) -> list[float]:
        """How many times as good as a peer ours is, round by round."""
        pairs = zip(self.runs[self.ours], self.runs[peer], strict=True)
        return [ours / theirs if self.unit.endswith("/s") else theirs / ours for ours, theirs in pairs]

    def to_json(self) -> dict[str, Any]:
        peers = {name: _spread(self.times(name)) for name in self.runs if name != self.ours}
        reached = [
            {**asdict(each), "reached": bool(statistics.median(self.times(each.peer)) >= each.times)}
            for each in self.reach
        ]
        return {
            "kind": "case",
            **asdict(self),
            "runs": {name: list(values) for name, values in self.runs.items()},
            "values": {name: _spread(values) for name, values in self.runs.items()},
            "times": peers,
            "reach": reached,
        }


@dataclass(frozen=True)
class Growth:
    """How a cost grows with the size of the work.

    Args:
        size, cost: what is counted, and in which unit the cost is told (seconds, MB).
        points: subject → (size, cost) from the smallest to the largest.
        steady: whether the cost is to stay as it is (memory); else at most in proportion to the size.
    """

    what: str
    size: str
    cost: str
    points: Mapping[str, Sequence[tuple[float, float]]]
    steady: bool = False
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "growth",
            **asdict(self),
            "points": {name: [list(each) for each in points] for name, points in self.points.items()},
            "exponents": {name: exponent(points) for name, points in self.points.items()},
        }


Found = Case | Growth
Measure = Callable[[argparse.Namespace], Iterator[Found]]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through the points on two logarithmic axes, by least squares."""
    slope, _ = statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points])
    return slope


def alternate(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run all subjects `rounds` times, each round beginning with another of them."""
    runs: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = subjects[name]()
            runs[name].append(value)
            tell(f"round {number + 1}/{rounds}  {name}  {value:,.4g}")
    return runs


def rate(count: int, work: Callable[[], Any]) -> float:
    """How many of `count` things `work` does in a second."""
    return count / seconds(work)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def apart(
    script: str, name: str, timeout: float = APART_SECONDS, env: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """Call the function `name` of an area's file in a process of its own and return what it returns (JSON)."""
    command = [sys.executable, script, APART, name, json.dumps(arguments)]
    return last_json(command, timeout, env)


def last_json(command: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Any:
    """Run a command; its last line is JSON."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(
    cases: Measure,
    *functions: Callable[..., Any],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """The command of an area's file; `functions` are those that run apart, `options` adds options of its own."""
    if APART in sys.argv[1:2]:
        known = {each.__name__: each for each in functions}
        print(json.dumps(known[sys.argv[2]](**json.loads(sys.argv[3]))))
        return
    module = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each subject runs")
    parser.add_argument("--small", action="store_true", help="little work: shows that it runs, measures nothing")
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    options(parser)
    given = parser.parse_args()
    found = []
    for each in cases(given):
        found.append(each.to_json())
        tell(summary(found[-1]))
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")


def summary(found: Mapping[str, Any]) -> str:
    """What was measured, in a few lines of text."""
    lines = [found["what"]]
    if found["kind"] == "growth":
        for name, points in found["points"].items():
            line = ", ".join(f"{size:,.0f}: {cost:,.4g}" for size, cost in points)
            lines.append(f"  {name}: exponent {found['exponents'][name]:.2f} ({line} {found['cost']})")
        return "\n".join(lines)
    wanted = {each["peer"]: each for each in found["reach"]}
    for name, value in found["values"].items():
        line = f"  {name}: {value['median']:,.4g} {found['unit']} ({value['low']:,.4g} to {value['high']:,.4g})"
        if name in found["times"]:
            times = found["times"][name]
            line += f", ours {times['median']:.2f} times as good ({times['low']:.2f} to {times['high']:.2f})"
        if name in wanted:
            line += f", to reach {wanted[name]['times']:g}: {'reached' if wanted[name]['reached'] else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    versions = {}
    for name in (*PACKAGES, "monai", "lightning", "captum", "optuna", "litserve"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def keep_to(cores: int) -> None:
    """Have this process, and what it starts from now on, use no more cores than these."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
