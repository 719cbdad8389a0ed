"""A sagittal volume to vertebral bodies and the grades of its discs: what a replica that reads spines holds.

reader = SpineReader("bundles/spinenet", "bundles/vertebrae")
for said in reader.read(volume, copies=8): ...      # Reached, again and again, then the SpineReading
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mskray.ensemble import distinct_names
from mskray.families.disc_grading import CutDisc, DiscGrader, discs_between, load_disc_grader
from mskray.families.vertebra_finding import Spine, VertebraPredictor, load_vertebra_detector
from mskray.imaging.intensity import full_range
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_levels import ASSUMED, NOTHING
from mskray.imaging.volumes import Volume
from mskray.serving.answers import by_class, member_info
from mskray.serving.schemas.common import Doubt
from mskray.serving.schemas.models import MemberInfo, SpineModelInfo
from mskray.serving.schemas.spines import (
    BodyResult,
    DiscResult,
    Grade,
    Hotspots,
    Placement,
    Reached,
    SpineReading,
    VolumeInfo,
)

FINDING, GRADING, EXPLAINING = "finding vertebral bodies", "grading discs", "explaining grades"
_CODES = {ASSUMED: "levels-assumed", NOTHING: "no-spine"}
_BODIES, _VOLUME = "bodies-doubtful", "volume-doubtful"
"""Codes of other notes: of the detector, and of the reader of the file."""


class SpineReader:
    """Finds the bodies of volumes and grades the discs between them; `described` says with what.

    Args:
        grader_uri: bundle of a `spinenet` that learned from discs.
        detector_uri: bundle of a `vertebra_detector`.
    Raises:
        UserError: a bundle cannot be loaded, or is of another family.
    """

    def __init__(self, grader_uri: str, detector_uri: str, device: str = "cpu") -> None:
        found_by, self._detector = load_vertebra_detector(detector_uri, device)
        graded_by, self._grader = load_disc_grader(grader_uri, device)
        model = SpineModelInfo(
            name=graded_by.name,
            hash=hashlib.sha256(f"{found_by.hash}{graded_by.hash}".encode()).hexdigest(),
            tasks={task: list(classes) for task, classes in self._grader.tasks.items()},
        )
        bundles = ((found_by, detector_uri), (graded_by, grader_uri))
        names = distinct_names([bundle.name for bundle, _ in bundles])
        members = [
            member_info("spines", bundle, uri, name, 1.0) for (bundle, uri), name in zip(bundles, names, strict=True)
        ]
        self.described: tuple[SpineModelInfo, list[MemberInfo]] = model, members
        _warm_up(self._detector, self._grader)

    def read(self, volume: Volume, copies: int | None = None) -> Iterator[Reached | SpineReading]:
        """Read a volume in the order of `to_sagittal`: how far it is, again and again, then the reading.

        Args:
            copies: augmented ones that hotspots of the called classes are averaged over, 1 for plain saliency; None
                for no hotspots.
        """
        yield Reached(0, 0, FINDING)
        yield from self.read_known(volume, self._detector.find_in(volume), copies)

    def read_known(self, volume: Volume, spine: Spine, copies: int | None = None) -> Iterator[Reached | SpineReading]:
        """As `read`, of a volume whose bodies are known."""
        between = list(discs_between({body.level: body for body in spine.bodies}))
        discs = {level: self._grader.cut(volume, *bodies) for level, bodies in between}
        cut = {level: disc.cut for level, disc in discs.items() if disc.cut is not None}
        tasks = () if copies is None else tuple(self._grader.tasks)
        done, total = 0, len(cut) * (1 + len(tasks))
        yield Reached(done, total, GRADING)
        places = {level: _placed(disc, volume) for level, disc in cut.items()}
        grades: dict[str, dict[str, Grade]] = {}
        # One disc at a time: a batch of all would be silent until its end.
        for level, disc in cut.items():
            grades[level] = self._grades(disc)
            yield Reached(done := done + 1, total, GRADING)
        hotspots = []
        for level, disc in cut.items():
            for task in tasks:
                evidence = self._evidence(disc, task, grades[level][task], copies or 1)
                hotspots.append(Hotspots(level, task, _shown(evidence, places[level])))
                yield Reached(done := done + 1, total, EXPLAINING)
        yield SpineReading(
            volume=_described(volume),
            bodies=[_body(body) for body in reversed(spine.bodies)],
            discs=[
                DiscResult(
                    level=level,
                    grades=grades.get(level, {}),
                    placement=places[level].placement if level in places else None,
                    note=disc.reason or None,
                )
                for level, disc in discs.items()
            ],
            warnings=_warnings(volume, spine),
            model=self.described[0].hash,
            hotspots=hotspots,
        )

    def _grades(self, disc: CutDisc) -> dict[str, Grade]:
        (said,) = self._grader.grade([disc])
        return {
            task: Grade(
                label=classes[int(said[task].argmax())], probabilities=by_class(classes, said[task]), hotspots=None
            )
            for task, classes in self._grader.tasks.items()
        }

    def _evidence(self, disc: CutDisc, task: str, grade: Grade, copies: int) -> NDArray[np.float32]:
        return self._grader.hotspots(disc, task, self._grader.tasks[task].index(grade.label), copies)


@dataclass(frozen=True)
class _Placed:
    """How a disc's maps lie in the volume, and which of them do: slices beyond it are padding."""

    placement: Placement
    inside: list[int]


def _placed(disc: CutDisc, volume: Volume) -> _Placed:
    slices, rows, columns = disc.shape
    (_, yy, yx, y), (_, xy, xx, x) = disc.matrix[1:].tolist()
    place = disc.matrix[0, 0] * np.arange(slices) + disc.matrix[0, 3]
    inside = np.flatnonzero((place > -0.5) & (place < len(volume.pixels) - 0.5))
    # The matrix is of indices, which are at the middle of a pixel, CSS counts from its edge: half a pixel both ways.
    shift_x, shift_y = x + 0.5 - (xx + xy) / 2, y + 0.5 - (yx + yy) / 2
    placement = Placement(
        slices=place[inside].tolist(), matrix=(xx, yx, xy, yy, shift_x, shift_y), rows=rows, columns=columns
    )
    return _Placed(placement, inside.tolist())


def _shown(evidence: NDArray[np.float32], placed: _Placed) -> NDArray[np.uint8]:
    """Maps as pictures: 255 is the most of all that are shown."""
    shown = evidence[placed.inside]
    most = float(shown.max())
    return full_range(shown / most if most else shown, np.uint8)


def _described(volume: Volume) -> VolumeInfo:
    slices, rows, columns = volume.pixels.shape
    return VolumeInfo(slices=slices, rows=rows, columns=columns, spacing_mm=volume.spacing_mm)


def _body(body: FoundVertebra) -> BodyResult:
    corners = [(float(x), float(y)) for x, y in body.corners]
    return BodyResult(level=body.level, slice=float(body.slice), corners=corners, score=body.score)


def _warnings(volume: Volume, spine: Spine) -> list[Doubt]:
    """What the reader of the file and the detector noted."""
    noted = [(_VOLUME, note) for note in volume.notes] + [(_CODES.get(note, _BODIES), note) for note in spine.notes]
    return [Doubt(code=code, views=[], message=note) for code, note in noted]


def _warm_up(detector: VertebraPredictor, grader: DiscGrader) -> None:
    """What is loaded and chosen at first use is not a client's to wait for."""
    detector.find_in(Volume(np.zeros((3, 64, 64), np.float32), (4.0, 1.0, 1.0), np.eye(4)))
    grader.grade([grader.blank()])
