"""Every preset is a job that its family takes."""

from pathlib import Path

import pytest

from mskray.config import read_yaml
from mskray.verbs.train import parse_job

PRESETS = sorted(Path("jobs/configs").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_valid_job_and_says_how_to_run_it(preset: Path) -> None:
    job, family, _ = parse_job(read_yaml(preset), str(preset))
    assert job.family == family.name
    assert f"mskray train {preset.as_posix()}" in preset.read_text(encoding="utf-8")
