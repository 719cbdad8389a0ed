"""Vertebral bodies found with a trained `vertebra_detector`: maps of several slices become one spine with names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mskray.bundles import Bundle, Fitted
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.families.base import Images, Prediction
from mskray.families.explanation import Explanation
from mskray.families.loading import load_predictor
from mskray.families.torch_predictor import TorchPredictor
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_cell import middles_beside, spine_cell
from mskray.imaging.spine_levels import A_SPINE, body_heights, name_levels
from mskray.imaging.volumes.volume import Volume
from mskray.models.vertebrae import SACRUM, STRIDE, Maps
from mskray.storage import Location
from mskray.training.recipe import Recipe, to_batch

FAMILY = "vertebra_detector"
NO_CLASSES = f"a {FAMILY} finds bodies, tells no classes apart: use mskray find-vertebrae or evaluate"
MOST = 16
"""Peaks that are looked at."""
_APART = 0.5  # of a body's height: nearer peaks are of one body


class FindingSection(Section):
    """How bodies are read off the maps."""

    score: float = setting(0.3, "least score of a body", gt=0, lt=1)
    slices: int = setting(5, "middle slices that are looked at, each between its neighbours", ge=1, le=9)


@dataclass(frozen=True)
class Spine:
    """The bodies of a volume from below, and what a reader must know to trust their names."""

    bodies: tuple[FoundVertebra, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Peaks:
    """What stands out of the maps of one volume, the surest first; see `FoundVertebra` and `name_levels`."""

    corners: NDArray[np.float64]
    slices: NDArray[np.float64]
    scores: NDArray[np.float64]
    sacral: NDArray[np.float64]

    def spine(self) -> Spine:
        """Name those that make a spine."""
        chain = name_levels(self.corners, self.scores, self.sacral)
        bodies = [
            FoundVertebra(level, float(self.slices[each]), self.corners[each], float(self.scores[each]))
            for each, level in zip(chain.members, chain.levels, strict=True)
        ]
        return Spine(tuple(bodies), chain.notes)


def fused(maps: Maps, middles: Tensor) -> Maps:
    """Join the maps of m slices of one volume: the median of each place, so that one odd slice decides nothing.

    Args:
        maps: of a batch of m. middles: (m,) the slice in the middle of each input.
    Returns:
        Maps of a batch of one whose `slices` count from the volume's first.
    """
    own = maps.slices + middles[:, None, None]
    return Maps(*(each.median(dim=0, keepdim=True).values for each in (maps.centres, maps.corners, own)))


def peak_scores(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (n, MOST) and places (n, MOST) in the flat map of the peaks of logits (n, kinds, h, w)."""
    score = torch.sigmoid(centres).amax(dim=1)
    top = F.max_pool2d(score[:, None], 3, stride=1, padding=1)[:, 0]
    best = (score * (score == top)).flatten(1).topk(min(MOST, score[0].numel()), dim=1)
    return best.values, best.indices


def find_peaks(maps: Maps, least: float) -> Peaks:
    """Read the bodies off the maps of one volume (a batch of one).

    Corners are the mean of what the nine places around a peak say, weighted by their scores.
    """
    scores, flat = (each[0].cpu().numpy() for each in peak_scores(maps.centres))
    flat = flat[scores >= least]
    probability = torch.sigmoid(maps.centres[0]).double().cpu().numpy()
    arrows, slices = maps.corners[0].double().cpu().numpy(), maps.slices[0].double().cpu().numpy()
    rows, columns = slices.shape
    corners, own, sacral = [], [], []
    for row, column in zip(*np.unravel_index(flat, (rows, columns)), strict=True):
        around = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        y, x = np.mgrid[around]
        weight = probability[(slice(None), *around)].max(axis=0)
        weight = weight / weight.sum()
        at = (np.stack([x, y]) + 0.5) * STRIDE
        corners.append(((at + arrows[(slice(None), slice(None), *around)]) * weight).sum(axis=(2, 3)))
        own.append((slices[around] * weight).sum())
        kinds = probability[(slice(None), *around)].max(axis=(1, 2))
        sacral.append(kinds[SACRUM] / kinds.sum())
    found = np.array(corners).reshape(-1, 4, 2)
    kept = _distinct(found)
    return Peaks(found[kept], np.array(own)[kept], scores[: len(flat)][kept].astype(float), np.array(sacral)[kept])


def _distinct(corners: NDArray[np.float64]) -> list[int]:
    """Numbers of bodies, the surest first, without those whose centre is within another that is surer."""
    middle, height, kept = corners.mean(axis=1), body_heights(corners), list[int]()
    for number in range(len(corners)):
        away = np.linalg.norm(middle[kept] - middle[number], axis=1)
        if (away >= _APART * height[kept]).all():
            kept.append(number)
    return kept


def looks(stack: NDArray[np.uint8], count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return what the network is shown of a stack (slices, rows, columns).

    Black slices at either end are padding. Where a slice has no neighbour, it stands for it.

    Args:
        count: middle slices to look at.
    Returns:
        (m, 3, rows, columns) and the slice (m,) in the middle of each.
    """
    shown = np.flatnonzero(stack.reshape(len(stack), -1).any(axis=1))
    first, last = (shown[0], shown[-1]) if len(shown) else (0, len(stack) - 1)
    count = min(count, last - first + 1)
    start = first + (last - first + 1 - count) // 2
    middles = np.arange(start, start + count)
    beside = middles[:, None] + np.array([-1, 0, 1])
    beside = np.where((beside < first) | (beside > last), middles[:, None], beside)
    return stack[beside], middles


class VertebraPredictor(TorchPredictor):
    """Finds the vertebral bodies of spines."""

    def __init__(self, recipe: Recipe, fitted: Fitted, finding: FindingSection, device: str = "cpu") -> None:
        super().__init__(recipe, fitted, device)
        self.finding = finding

    def __call__(self, images: Images) -> Prediction:
        """Raise UserError: there are no classes to tell apart."""
        raise UserError(NO_CLASSES)

    def explain(
        self,
        images: Images,
        methods: Sequence[str],
        target: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> Explanation:
        """Raise UserError: there are no classes to tell apart."""
        raise UserError(NO_CLASSES)

    @torch.inference_mode()
    def find(self, stacks: Sequence[NDArray[np.uint8]]) -> list[Spine]:
        """Find the bodies of stacks (slices, size, size) as a cohort of spines holds them; in their pixels."""
        return [self._find(stack) for stack in stacks]

    def find_in(self, volume: Volume) -> Spine:
        """Find the bodies of a volume in the order of `to_sagittal`; in pixels and slices of the volume.

        Where the middle slices show no spine, those beside them are looked at, and the surest bodies are taken.
        """
        found: list[Spine] = []
        last = len(volume.pixels) - 1
        for beside in middles_beside(volume, self.finding.slices):
            cell = spine_cell(volume, self.image["size"], self.image["slices"], beside)
            (spine,) = self.find([cell.pixels])
            there = [cell.to_volume(body) for body in spine.bodies]
            bodies = [replace(body, slice=min(max(body.slice, 0.0), float(last))) for body in there]
            found.append(replace(spine, bodies=tuple(bodies)))
            if len(bodies) >= A_SPINE:
                break
        return max(found, key=lambda spine: sum(body.score or 0.0 for body in spine.bodies))

    def _find(self, stack: NDArray[np.uint8]) -> Spine:
        form = self.recipe.config.data.input_format
        shown, middles = looks(np.stack([form(each) for each in stack]), self.finding.slices)
        batch = to_batch({"image": shown}, self.device)
        maps: Maps = self.network(batch["image"].to(memory_format=torch.channels_last))
        found = find_peaks(fused(maps, torch.from_numpy(middles).to(self.device)), self.finding.score)
        scale = stack.shape[-1] / form.size
        return Peaks(found.corners * scale, found.slices, found.scores, found.sacral).spine()


def load_vertebra_detector(uri: str | Location, device: str = "cpu") -> tuple[Bundle, VertebraPredictor]:
    """Load a vertebra detector. Raises UserError as `load_predictor`, and for a bundle of another family."""
    bundle, predictor = load_predictor(uri, device)
    if not isinstance(predictor, VertebraPredictor):
        raise UserError(
            f"bundle {uri} is a {bundle.family}: vertebrae are found by a {FAMILY} (mskray train with family: {FAMILY})"
        )
    return bundle, predictor


def check_tells_classes_apart(bundle: Bundle, uri: str | Location) -> None:
    """Raise UserError where a bundle is a vertebra detector, which has no vote."""
    if bundle.family == FAMILY:
        raise UserError(f"bundle {uri}: {NO_CLASSES}")
