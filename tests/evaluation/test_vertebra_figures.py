"""Figures of found vertebrae, by hand on blocks."""

import numpy as np
import pytest

from mskray.evaluation.vertebrae import Bodies, SpineResult, match_bodies, vertebra_figures

BLOCK = np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 20.0], [0.0, 20.0]])


def column(count: int, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return np.array([BLOCK + np.array([0.0, 26.0 * number]) + np.array(shift) for number in range(count)]).reshape(
        -1, 4, 2
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (column(3), [0, 1, 2]),
        (column(3)[::-1], [2, 1, 0]),
        (column(3)[1:2], [-1, 0, -1]),
        (column(3, (9.9, 0.0)), [0, 1, 2]),  # nearer than half the height
        (column(3, (10.1, 0.0)), [-1, -1, -1]),  # two thirds of each overlap: 20/40
        (np.empty((0, 4, 2)), [-1, -1, -1]),
        (np.concatenate([column(1, (3.0, 0.0)), column(1)]), [1, -1, -1]),  # the nearer one is it
    ],
)
def test_a_body_is_found_once_by_what_lies_nearest(found: np.ndarray, expected: list[int]) -> None:
    if len(found) == 3 and expected[0] == -1:
        found = found + np.array([0.1, 0.0])
    assert match_bodies(column(3), found).tolist() == expected


def result(patient: str, levels: tuple[str, ...], found: tuple[str, ...], shift: float = 0.0) -> SpineResult:
    return SpineResult(patient, Bodies(levels, column(len(levels))), Bodies(found, column(len(found), (shift, 0.0))))


def test_figures_count_bodies_names_errors_and_strays() -> None:
    names = ("L3", "L4", "L5")
    spines = [result(f"p{number}", names, names, 1.0) for number in range(3)]
    spines.append(result("p3", names, ("L2", "L3", "L4"), 3.0))  # all found, named wrongly
    spines.append(result("p4", names, ("L3", "L4"), 1.0))  # one missed
    spines.append(result("p5", names, (*names, "S1"), 1.0))  # one stray
    made = vertebra_figures(spines, resamples=200)
    figures = made.figures
    assert made.spines == 6
    assert figures["found"].value == pytest.approx(17 / 18, abs=1e-6)
    assert figures["levels"].value == pytest.approx(4 / 6, abs=1e-6)
    assert figures["corner_mm"].value == pytest.approx(1.0)
    assert figures["stray"].value == pytest.approx(1 / 6, abs=1e-6)
    assert figures["found"].n == 18
    assert figures["corner_mm"].n == 4 * 17
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
    assert vertebra_figures(spines, resamples=200) == made


def test_too_few_patients_give_a_reason() -> None:
    made = vertebra_figures([result("p", ("L5",), ("L5",))], resamples=10)
    assert made.figures["found"].value is None
    assert made.figures["found"].reason == "1 patient: an interval by patient needs at least 5"


def test_corners_of_bodies_that_nobody_found_have_no_error() -> None:
    figures = vertebra_figures([result(f"p{number}", ("L5",), ()) for number in range(6)], resamples=50).figures
    assert figures["found"].value == 0
    assert (figures["corner_mm"].value, figures["corner_mm"].reason) == (None, "no vertebral body to measure")


def test_a_figure_that_most_resamples_lack_is_withheld() -> None:
    """Only one patient of eight has a body that is found: in a third of the resamples no corner is measured."""
    spines = [result(f"p{number}", ("L5",), ("L5",) if number == 0 else ()) for number in range(8)]
    corner = vertebra_figures(spines, resamples=200).figures["corner_mm"]
    assert corner.value is None
    assert "of 200 resamples lack one" in corner.reason
