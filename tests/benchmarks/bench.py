"""Every comparison in one go: bench.json and bench.html.

    make bench                                        # all areas, hours; peers come with the extra "bench"
    python tests/benchmarks/bench.py ingest feeding --rounds 3 --out build/bench

Each area is a process of its own (`bench_AREA.py`). One that fails is told in the page and makes the exit code 1; what
it had measured before is kept.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from measure import machine, tell
from page import page

HERE = Path(__file__).parent
HOURS = 3600.0
AREAS = tuple(sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")))
USUAL = tuple(area for area in AREAS if area != "gpu")  # that one has a command of its own, where there is a GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)}; all but gpu without")
    parser.add_argument("--rounds", type=int, help="how often each subject runs; an area's own number without")
    parser.add_argument("--small", action="store_true", help="little work: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of bench.json and bench.html")
    parser.add_argument("--hours", type=float, default=3.0, help="after which an area is stopped")
    options = parser.parse_args()
    if unknown := sorted(set(options.areas) - set(AREAS)):
        parser.error(f"no such area: {', '.join(unknown)}; there are {', '.join(AREAS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "small": options.small, "areas": []}
    for number, area in enumerate(options.areas or USUAL, start=1):
        tell(f"== {area} ({number} of {len(options.areas or USUAL)})")
        result["areas"].append(measure(area, options))
        (options.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "bench.html").write_text(page(result), encoding="utf-8")
    print(f"{options.out / 'bench.html'} and {options.out / 'bench.json'}")
    sys.exit(any(area["error"] for area in result["areas"]))


def measure(area: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run an area to its end, or for as long as it may take."""
    file = options.out / f"{area}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"bench_{area}.py"), "--json", str(file)]
    command += ["--small"] if options.small else []
    command += [] if options.rounds is None else ["--rounds", str(options.rounds)]
    started, error = time.monotonic(), ""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(options.hours * HOURS)
        error = f"ended with exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        error = f"stopped after {options.hours:g} hours"
    finally:
        end(process)
    found = json.loads(file.read_text()) if file.is_file() else []
    return {"area": area, "seconds": round(time.monotonic() - started, 1), "error": error, "found": found}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End an area and whatever it has started, in sessions of its own too: it would run beside the next one."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    for each in psutil.wait_procs(started, timeout=10)[1]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()


if __name__ == "__main__":
    main()
