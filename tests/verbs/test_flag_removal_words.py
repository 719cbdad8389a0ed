"""What `mskray remove-flags` says at its end."""

from pathlib import Path

import pytest
from test_refusals import cohort

from mskray.cohorts import open_cohort
from mskray.verbs.remove_flags import FlagRemoval


@pytest.mark.parametrize(
    ("removed", "left", "words"),
    [
        (3, 1, "3 flags removed from 2 of 10 images, "),
        (0, 4, "warning: the detector found no flag at all, "),
        (0, 0, "0 flags removed from 0 of 10 images, "),
    ],
)
def test_a_blind_detector_is_no_success(tmp_path: Path, removed: int, left: int, words: str) -> None:
    opened = open_cohort(cohort(tmp_path / "cohort"), check=False)
    changed = 2 if removed else 0
    counts = {"images": 10, "changed": changed, "removed": removed, "left": left, "pixels": 0}
    said = FlagRemoval(opened, counts, written=1, kept=0, seconds=1.0).lines()
    assert said.startswith(words)
    assert f"{left} known flags left" in said
