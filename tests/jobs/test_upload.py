"""What `ray job submit --working-dir .` sends along: Ray leaves out what git ignores."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("cohorts/phantoms/cohort.json", True),
        ("bundles/knees/weights.safetensors", True),
        ("ensembles/ab/ensemble.json", True),
        ("demo-out/report/report.html", True),
        ("predictions.parquet", True),
        ("mskray/cohorts/new.py", False),
        ("jobs/configs/new.yaml", False),
    ],
)
def test_outputs_in_a_checkout_are_ignored(path: str, ignored: bool) -> None:
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--quiet", path]
    code = subprocess.run(command, capture_output=True).returncode if shutil.which("git") else 128
    if code > 1:
        pytest.skip("not a git checkout")
    assert (code == 0) == ignored
