"""Looks for known holes in the locked packages (pip-audit) and for risky patterns in our own code (bandit).

    python infra/audit.py [--lock requirements.lock]      # make audit

Exit code 0: nothing found. 1: something was. 2: it could not be looked up, which is not the same as nothing: pip-audit
itself says "No known vulnerabilities found" where its database knows none of the packages or cannot be reached.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOUND, UNKNOWN = 1, 2


@dataclass(frozen=True)
class Verdict:
    """What a check says: its exit code, and lines for people."""

    code: int
    lines: list[str]


def read_packages(report: str, errors: str) -> Verdict:
    """Judge pip-audit's JSON report; `errors` is what it wrote to standard error."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        last = errors.strip().splitlines()[-1:] or ["it said nothing"]
        return Verdict(UNKNOWN, [f"packages NOT checked: the database of holes could not be asked: {last[0][:300]}"])
    holes = [
        f"{package['name']} {package['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'none'}"
        for package in packages
        for hole in package.get("vulns", [])
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    checked = len(packages) - len(skipped)
    if holes:
        return Verdict(FOUND, [f"{len(holes)} known holes in {checked} packages:", *holes])
    if skipped or not packages:
        named = ", ".join(skipped[:5]) + (" …" if len(skipped) > 5 else "")
        return Verdict(
            UNKNOWN,
            [
                f"packages NOT checked: {len(skipped)} of {len(packages)} ({named}): the database of holes does not "
                "know them or cannot be reached from here; run it where the internet is, CI with network or a laptop"
            ],
        )
    return Verdict(0, [f"packages: no known hole in {checked}"])


def check_packages(lock: Path) -> Verdict:
    command = ["pip-audit", "--progress-spinner=off", "--disable-pip", "--require-hashes", "--format=json"]
    done = _run([*command, "--requirement", str(lock)])
    return read_packages(done.stdout, done.stderr)


def check_code(*folders: str) -> Verdict:
    """Run bandit, less its remarks on excuses that cover one of several finds in a line."""
    done = _run(["bandit", "--quiet", "--configfile", str(ROOT / "pyproject.toml"), "--recursive", *folders])
    if done.returncode == 0:
        return Verdict(0, [f"code: bandit finds nothing in {' '.join(folders)}"])
    remarks = [line for line in done.stderr.splitlines() if "nosec encountered" not in line]
    return Verdict(FOUND, ["code: bandit found:", *done.stdout.splitlines(), *remarks])


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    program = Path(sysconfig.get_path("scripts")) / command[0]
    if not program.exists():
        sys.exit(f"{command[0]} is not installed: make install")
    return subprocess.run([str(program), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Look for known holes and risky code.")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock", help="(%(default)s)")
    options = parser.parse_args()
    verdicts = [check_code("mskray", "jobs", "serve", "infra"), check_packages(options.lock)]
    for verdict in verdicts:
        print("\n".join(verdict.lines))
    codes = {verdict.code for verdict in verdicts}
    sys.exit(FOUND if FOUND in codes else max(codes))


if __name__ == "__main__":
    main()
