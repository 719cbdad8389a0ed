"""What is wrong with each disc of a phantom spine: grades in realistic shares, and which of them are not labelled.

A patient's age and a disc's level make it degenerate; Pfirrmann grade, narrowing and changes of endplate and marrow all
lean on that, none follows from another. What a defect looks like is drawn apart from whether it is there, so that a
spine has a healthy twin: the same seed with `changes=0`.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: Degeneration by level from T12/L1 to L5/S1, in standard deviations of the population.
_LEVELS = np.array((-0.45, -0.35, -0.15, 0.1, 0.45, 0.4))

_PFIRRMANN = (0.06, 0.33, 0.30, 0.22, 0.09)
_NARROWING = (0.54, 0.23, 0.14, 0.09)
_CHANGES = {"upper_endplate": 0.16, "lower_endplate": 0.18, "upper_marrow": 0.13, "lower_marrow": 0.14}

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Change:
    """Where a defect or a marrow change lies on its endplate, and how large it is. Lengths in mm.

    along: its middle on the endplate, −1 (front edge) to 1 (back edge); lateral: from the middle of the body.
    bright: of marrow, whether it is brighter than the rest.
    """

    along: float
    lateral: float
    half: float
    half_lateral: float
    depth: float
    bright: bool = False


@dataclass(frozen=True)
class DiscGrades:
    """The truth of a disc, and what of it is labelled. Keys are those of `SPINE_TASKS`.

    changes: of "upper_endplate", "lower_endplate", "upper_marrow" and "lower_marrow", those whose grade is 1.
    """

    grades: dict[str, int]
    labels: dict[str, int | None]
    changes: dict[str, Change]


def draw_discs(
    grade: np.random.Generator, place: np.random.Generator, changes: float, missing: float
) -> tuple[DiscGrades, ...]:
    """The discs T12/L1 … L5/S1.

    Args:
        grade: the random stream of grades and of labels that are missing.
        place: … of where changes lie and how large they are; as much is drawn from it when there are none.
        changes: factor on the shares of endplate defects and marrow changes.
        missing: share of labels that are missing. Half of them because the whole disc was not read.
    """
    age = grade.normal()
    discs = []
    for level in _LEVELS:
        grades = _grades(grade, float(0.6 * age + level + 0.72 * grade.normal()), changes)
        unread = grade.random() < 0.5 * missing
        gaps = grade.random(len(grades)) < 0.5 * missing
        labels = {task: None if unread or gap else grades[task] for task, gap in zip(grades, gaps, strict=True)}
        where = {task: _change(place, task) for task in _CHANGES}
        discs.append(DiscGrades(grades, labels, {task: where[task] for task in where if grades[task]}))
    return tuple(discs)


def _grades(rng: np.random.Generator, wear: float, changes: float) -> dict[str, int]:
    pfirrmann = _class_of(wear, _PFIRRMANN)
    narrowing = _class_of(0.6 * wear + 0.8 * float(rng.normal()), _NARROWING)
    # By their definition a disc of grade V is collapsed, and one of grade I has its height.
    narrowing = max(narrowing, 2) if pfirrmann == 4 else min(narrowing, 1) if pfirrmann == 0 else narrowing
    grades = {"pfirrmann": pfirrmann, "narrowing": narrowing}
    for task, share in _CHANGES.items():
        lean = _NORMAL.cdf(0.35 * wear + 0.94 * float(rng.normal()))
        grades[task] = int(lean > 1 - share * changes)
    return grades


def _class_of(wear: float, shares: tuple[float, ...]) -> int:
    """The class into which a standard normal value falls, when classes have these shares."""
    return int(np.searchsorted(np.cumsum(shares)[:-1], _NORMAL.cdf(wear)))


def _change(rng: np.random.Generator, task: str) -> Change:
    endplate = task.endswith("endplate")
    return Change(
        along=float(rng.uniform(-0.62, 0.62)),
        lateral=float(rng.uniform(-8, 8)),
        half=float(rng.uniform(2.8, 5.2) if endplate else rng.uniform(6, 13)),
        half_lateral=float(rng.uniform(5, 9) if endplate else rng.uniform(6, 11)),
        depth=float(rng.uniform(3.5, 6.5) if endplate else rng.uniform(6, 12)),
        bright=bool(rng.random() < 0.6),
    )
