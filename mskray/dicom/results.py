"""What a model said, in the form from which DICOM objects are made: neither HTTP's schemas nor a table's rows.

    algorithm = Algorithm("knees", "0.1.0", ensemble_hash, members=(Algorithm("densenet169", "0.1.0", bundle_hash),))
    finding = Finding("abnormality", "abnormal", {"normal": 0.18, "abnormal": 0.82}, threshold=0.5)
    group = Group("image 1", (finding,), images=(0,), boxes=(Box(120, 80, 64, 64),))

Nothing is checked against a file here: `structured_report` and its neighbours do that, with the sources beside them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from mskray.errors import UserError

NOT_A_DEVICE = "Not a medical device: for research, not for diagnosis or treatment."


@dataclass(frozen=True)
class Algorithm:
    """A model, enough to know which one spoke and to ask it the same again.

    name, version: of the ensemble or bundle and of the software that ran it.
    hash: over the weights and all else that decides a prediction, "" where there is none.
    parameters: what else was set, by name.
    members: of an ensemble; `Finding.votes` goes by their names.
    manufacturer: who made it.
    """

    name: str
    version: str
    hash: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    members: tuple["Algorithm", ...] = ()
    manufacturer: str = "mskray"

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.version.strip():
            raise UserError("an algorithm without a name or version: DICOM results must say what made them")
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise UserError(f"two members of {self.name} have the same name: give each its own")

    @property
    def settings(self) -> dict[str, str]:
        """The hash and the parameters, as they are written into the objects."""
        return ({"hash": self.hash} if self.hash else {}) | {key: str(self.parameters[key]) for key in self.parameters}

    def equipment(self, serial_number: str | None = None) -> dict[str, Any]:
        """The general equipment of an object that it made; `serial_number` stands for a hash that it lacks."""
        return {
            "manufacturer": self.manufacturer,
            "manufacturer_model_name": self.name[:64],
            "software_versions": self.version[:64],
            "device_serial_number": self.hash[:16] or serial_number,
        }

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from another one."""
        inner = [part for member in self.members for part in member.identity]
        return (self.name, self.version, *(f"{key}={value}" for key, value in self.settings.items()), *inner)


@dataclass(frozen=True)
class Box:
    """A key area of an image.

    x, y, width, height: in px of the stored image, corners and sizes; pixel i covers i to i + 1.
    image: index of the image among the sources.
    score: in [0, 1], None where there is none.
    """

    x: float
    y: float
    width: float
    height: float
    image: int = 0
    score: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.x, self.y, self.width, self.height)):
            raise UserError(f"a box whose corners are no numbers: {self}")
        if self.width <= 0 or self.height <= 0:
            raise UserError(f"a box without area: {self.width} × {self.height} px")


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    task: the question, such as `abnormality` or `pfirrmann`.
    label: the class that is called.
    probabilities: by class, calibrated; `label` is one of them.
    threshold: probability from which the second of two classes is called.
    votes: each member's own probabilities, by member and class.
    """

    task: str
    label: str
    probabilities: Mapping[str, float]
    threshold: float | None = None
    votes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label not in self.probabilities:
            raise UserError(f"{self.task}: {self.label!r} is called, and its probability is not given")
        for whose, by_class in (("", self.probabilities), *self.votes.items()):
            strange = [name for name in by_class if name not in self.probabilities]
            if strange:
                raise UserError(f"{self.task}: {whose} votes on {strange[0]!r}, which is no class of the ensemble")
            for name, value in by_class.items():
                _check_share(value, f"the probability of {name!r} in {self.task}")
        if self.threshold is not None:
            _check_share(self.threshold, f"the threshold of {self.task}")


@dataclass(frozen=True)
class Group:
    """All that is said of one thing: an image, a study, a pair, a disc. It becomes one measurement group.

    about: what it is, for people; distinct within a report ("study", "image 2", "L4/L5").
    images: indices of the sources that it was seen in; () for all.
    boxes: key areas; each becomes a group of its own, with the region in its image.
    level: of a disc, such as "L4/L5"; "" otherwise.
    notes: what a reader must know, a sentence each.
    """

    about: str
    findings: tuple[Finding, ...]
    images: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    level: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.about.strip():
            raise UserError("a group of findings that does not say what it is about")
        tasks = [finding.task for finding in self.findings]
        if len(set(tasks)) != len(tasks):
            raise UserError(f"{self.about}: the same question is answered twice")


@dataclass(frozen=True, eq=False)
class Segment:
    """A marked part of an image or a volume: boxes, a mask, or both.

    label: for people; at most 64 characters are kept.
    mask: (rows, columns) for one image, else (slices, rows, columns) in the order of the sources; bool.
    category, kind: coded; None for "spatial concept" and "region of interest".
    """

    label: str
    boxes: tuple[Box, ...] = ()
    mask: NDArray[np.bool_] | None = None
    category: Code | None = None
    kind: Code | None = None


def _check_share(value: float, what: str) -> None:
    if not 0 <= value <= 1:  # NaN is not either
        raise UserError(f"{what} is {value}: it must lie between 0 and 1")
