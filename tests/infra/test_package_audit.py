"""`make audit` never says that nothing is wrong where nothing was looked up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from infra_files import ROOT

from infra.audit import FOUND, UNKNOWN, check_code, read_packages

CLEAN = {"name": "six", "version": "1.17.0", "vulns": []}
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": []}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "no known hole in 1"),
        ([CLEAN | {"vulns": [HOLE]}], FOUND, "six 1.17.0: PYSEC-1, fixed in 2.0"),
        ([CLEAN | {"vulns": [HOLE | {"fix_versions": []}]}], FOUND, "fixed in none"),
        ([SKIPPED], UNKNOWN, "NOT checked: 1 of 1 (six)"),
        ([CLEAN, SKIPPED], UNKNOWN, "NOT checked: 1 of 2"),
        ([CLEAN | {"vulns": [HOLE]}, SKIPPED], FOUND, "1 known holes"),
        ([], UNKNOWN, "NOT checked: 0 of 0"),
    ],
)
def test_a_report_is_read_for_what_it_does_not_say(packages: list, code: int, said: str) -> None:
    verdict = read_packages(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert verdict.code == code
    assert said in "\n".join(verdict.lines)


def test_no_report_is_not_taken_for_a_good_one() -> None:
    verdict = read_packages("", "Traceback …\nConnectionError: no route to host")
    assert verdict.code == UNKNOWN
    assert "no route to host" in verdict.lines[0]


def test_a_database_out_of_reach_is_said(tmp_path: Path) -> None:
    """The real pip-audit, with a proxy that nobody is behind."""
    lock = tmp_path / "one.lock"
    lock.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    dead = "http://127.0.0.1:9"
    code = "import sys; from pathlib import Path; from infra.audit import check_packages\n"
    code += "found = check_packages(Path(sys.argv[1])); print(found.lines[0]); sys.exit(found.code)"
    proxies = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), dead)
    done = subprocess.run(
        [sys.executable, "-c", code, str(lock)],
        cwd=ROOT,
        env=os.environ | proxies | {"NO_PROXY": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UNKNOWN, done.stdout + done.stderr
    assert "NOT checked" in done.stdout


def test_bandit_finds_nothing_in_our_code() -> None:
    verdict = check_code("mskray", "jobs", "serve", "infra")
    assert verdict.code == 0, "\n".join(verdict.lines)


def test_bandit_is_not_asleep(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import pickle\npickle.loads(open('x', 'rb').read())\n", encoding="utf-8")
    verdict = check_code(str(tmp_path))
    assert verdict.code == FOUND
    assert any("B301" in line for line in verdict.lines)
