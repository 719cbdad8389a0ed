"""`mskray cohort show`: counts of every task and of what is not labelled, before anything is written."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mskray.cohorts import Cohort, Task
from mskray.verbs import cohort as verb

GRADE = Task(name="kl_grade", classes=("0", "1", "2"), ordinal=True)
ABNORMAL = Task(name="abnormality", classes=("normal", "abnormal"))


def shown(cohort: Cohort, folder: Path) -> str:
    return verb.show(str(cohort.location), str(folder / "sheet.png"))


def test_a_cohort_without_labels(tiny_cohort: Callable[..., Cohort], tmp_path: Path) -> None:
    text = shown(tiny_cohort((), [{}, {}]), tmp_path)
    assert "tasks   none" in text
    assert re.search(r"test +HAND +2 +1 +1", text)
    assert (tmp_path / "sheet.png").is_file()


def test_every_task_is_counted_with_what_is_not_labelled(tiny_cohort: Callable[..., Cohort], tmp_path: Path) -> None:
    labels = [{"abnormality": 1, "kl_grade": 2}, {"abnormality": 0}, {"abnormality": 1, "kl_grade": 0}]
    text = shown(tiny_cohort((ABNORMAL, GRADE), labels), tmp_path)
    assert re.search(r"abnormality\nsplit +part +normal +abnormal +unlabelled\ntest +HAND +1 +2 +0\n", text)
    assert re.search(r"kl_grade\nsplit +part +0 +1 +2 +unlabelled\ntest +HAND +1 +0 +1 +1\n", text)


def test_nothing_is_written_when_the_counts_fail(
    tiny_cohort: Callable[..., Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = tiny_cohort((), [{}])
    monkeypatch.setattr(verb, "_counts", lambda cohort: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shown(cohort, tmp_path)
    assert not (tmp_path / "sheet.png").exists()
