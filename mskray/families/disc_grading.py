"""The discs of a spine whose bodies are known: cut as a cohort's would be, graded with a trained `spinenet`.

bundle, grader = load_disc_grader("bundles/spinenet")
discs = [grader.cut(volume, upper, lower) for _, (upper, lower) in discs_between(bodies)]
grades = grader.grade([disc for disc in discs if disc.cut])

`mskray grade` and the server both grade here, so that they agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mskray.bundles import Bundle
from mskray.cohorts.schema import ImageFormat
from mskray.cohorts.shards import to_cell
from mskray.errors import UserError
from mskray.families.base import Images
from mskray.families.loading import load_predictor
from mskray.families.spinenet import SpineNetPredictor
from mskray.imaging.decode import DecodeError
from mskray.imaging.discs import disc_volume
from mskray.imaging.intensity import full_range
from mskray.imaging.regions import Placement
from mskray.imaging.spine import DISCS, Vertebra
from mskray.imaging.volumes.volume import Volume
from mskray.storage import Location
from mskray.training.disc_samples import StackInput

Grades = Mapping[str, NDArray[np.float32]]
"""Of a disc: task → probabilities (classes,)."""


@dataclass(frozen=True, eq=False)
class CutDisc:
    """A disc as a cohort stores it.

    Args:
        cell: (slices, rows, columns) of the cohort's dtype.
        matrix: (3, 4): (slice, row, column, 1) of a voxel's index in the network's input, which is also what hotspots
            are of → (slice, row, column) index in the volume.
        shape: slices, rows and columns of that input.
    """

    cell: np.ndarray
    matrix: NDArray[np.float64]
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Disc:
    """A disc, or in `reason` why it could not be cut."""

    cut: CutDisc | None
    reason: str = ""


def discs_between(bodies: Mapping[str, Vertebra]) -> Iterator[tuple[str, tuple[Vertebra, Vertebra]]]:
    """Each disc, from above, of which both bodies are known: its level, the bodies above and below."""
    for level in DISCS:
        upper, lower = level.split("/")
        if upper in bodies and lower in bodies:
            yield level, (bodies[upper], bodies[lower])


class DiscGrader:
    """Grades discs of sagittal volumes. `tasks` has the classes of each task."""

    def __init__(self, bundle: Bundle, predictor: SpineNetPredictor) -> None:
        self.tasks = bundle.tasks
        self._image = ImageFormat.model_validate(bundle.image)
        self._predictor = predictor

    def cut(self, volume: Volume, upper: Vertebra, lower: Vertebra) -> Disc:
        """Cut the disc between two bodies out of a volume in the order of `to_sagittal`."""
        try:
            disc = disc_volume(volume, upper, lower, slices=self._image.slices)
        except DecodeError as error:
            return Disc(None, error.reason)
        cell, placement = to_cell(full_range(disc.pixels, np.uint16), self._image)
        given = self._predictor.recipe.given
        return Disc(CutDisc(cell, _then(disc.matrix, _of_input(given, cell.shape, placement)), given.shape))

    def blank(self) -> CutDisc:
        """A black disc that lies nowhere: what a grader is warmed up with."""
        cell = np.zeros(self._image.shape, self._image.dtype)
        return CutDisc(cell, np.zeros((3, 4)), self._predictor.recipe.given.shape)

    def grade(self, discs: Sequence[CutDisc]) -> list[Grades]:
        """Grade discs, all in one batch."""
        if not discs:
            return []
        said = self._predictor(Images([disc.cell for disc in discs])).parts
        return [{task: said[task][place] for task in self.tasks} for place in range(len(discs))]

    def hotspots(self, disc: CutDisc, task: str, target: int, copies: int) -> NDArray[np.float32]:
        """Evidence for a class of a task, 0 or more: (slices, rows, columns) as `CutDisc.matrix` places them.

        Args:
            copies: see `StackExplainer.hotspots`.
        Raises:
            UserError: as that.
        """
        (found,) = self._predictor.hotspots(Images([disc.cell]), task, np.array([target]), copies)[1]
        return np.asarray(found, np.float32)


def load_disc_grader(uri: str | Location, device: str = "cpu") -> tuple[Bundle, DiscGrader]:
    """Load a grader of discs. Raises UserError as `load_predictor`, and for a bundle that grades none."""
    bundle, predictor = load_predictor(uri, device)
    if bundle.kind != "disc" or not isinstance(predictor, SpineNetPredictor):
        raise UserError(f"bundle {uri} is a {bundle.family} of {bundle.kind}s: discs are graded by a spinenet")
    return bundle, DiscGrader(bundle, predictor)


def _of_input(given: StackInput, cell: tuple[int, ...], placement: Placement) -> NDArray[np.float64]:
    """(3, 4): voxel of the network's input → of the stack that was brought to the cell by `placement`."""
    context = given.context
    first, top, left = (part.start for part in given.middle[1:])
    # Sides of pixels of the context, in pixels of the cell.
    tall, wide = cell[1] / context.rows, cell[2] / context.columns
    # Half a pixel: placements and sides count from a pixel's edge, indices from its centre.
    down = ((top + 0.5) * tall - placement.offset_y) / placement.scale_y - 0.5
    across = ((left + 0.5) * wide - placement.offset_x) / placement.scale_x - 0.5
    before = (cell[0] - context.slices) // 2
    return np.array(
        [
            [1, 0, 0, before + first],
            [0, tall / placement.scale_y, 0, down],
            [0, 0, wide / placement.scale_x, across],
        ],
        np.float64,
    )


def _then(after: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (3, 4) map that is `before` and then `after`."""
    return after @ np.vstack([before, [0, 0, 0, 1]])
