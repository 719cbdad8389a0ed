"""Published figures name figures that exist, and none of a hidden set can be taken for comparable."""

import pytest

from mskray.evaluation.metrics import FIGURES
from mskray.evaluation.published import published_figures


@pytest.mark.parametrize(
    ("source", "task", "least"),
    [("mura", "abnormality", 10), ("knee-oa", "kl_grade", 1), ("knee-oa", "abnormality", 0), ("phantom", "x", 0)],
)
def test_figures_of_a_cohort(source, task, least):
    found = published_figures(source, task)
    assert len(found) >= least
    assert bool(found) == bool(least)
    for figure in found:
        assert figure.metric in FIGURES
        assert figure.level in ("image", "study")
        assert 0 < figure.value < 1
        if "hidden" in figure.on:
            assert figure.samples is None


def test_the_baseline_has_a_kappa_for_each_part():
    parts = [figure.body_part for figure in published_figures("mura", "abnormality") if figure.body_part]
    assert sorted(parts) == ["ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"]
