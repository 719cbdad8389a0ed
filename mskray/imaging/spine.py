"""The words of a lumbar spine: its levels, its graded tasks, and a vertebral body as four corners. No torch here.

Sources of spines and discs, `vertebra_detector` and `spinenet` all take these names from here.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: The bodies that are named, from above; "L4/L5" is the disc between two of them.
LEVELS: tuple[str, ...] = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")

#: The discs between them, from above.
DISCS: tuple[str, ...] = tuple(f"{upper}/{lower}" for upper, lower in pairwise(LEVELS))

#: What is graded on a disc, and each task's classes in order (SpineNet section 2.1).
SPINE_TASKS: dict[str, tuple[str, ...]] = {
    "pfirrmann": ("I", "II", "III", "IV", "V"),
    "narrowing": ("none", "slight", "moderate", "severe"),
    "upper_endplate": ("normal", "defect"),
    "lower_endplate": ("normal", "defect"),
    "upper_marrow": ("normal", "change"),
    "lower_marrow": ("normal", "change"),
}

#: Those whose classes are grades: one more is one worse.
GRADED_TASKS: tuple[str, ...] = ("pfirrmann", "narrowing")


@dataclass(frozen=True, eq=False)
class Vertebra:
    """A vertebral body in a sagittal volume.

    level: one of `LEVELS`.
    slice: the slice through its middle, counted from 0; a fraction lies between two.
    corners: (4, 2) as (column, row) in px: upper anterior, upper posterior, lower posterior, lower anterior. Pixel i
        covers i to i + 1, as for boxes (`mskray.imaging.regions`): its centre is at i + 0.5.
    """

    level: str
    slice: float
    corners: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FoundVertebra(Vertebra):
    """A body that was found; `score` says how sure the detector is, in [0, 1], None where a person drew it."""

    score: float | None
