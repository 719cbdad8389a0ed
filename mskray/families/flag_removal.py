"""Flags found and removed with a trained `flag_detector`: at ingest and before prediction, by the same code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from mskray.bundles import Bundle, Fitted
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.families.loading import load_predictor
from mskray.families.torch_predictor import TorchPredictor
from mskray.imaging.flags import Removal, remove_flags
from mskray.imaging.regions import Fit, from_canvas, intersection_over_union
from mskray.storage import Location
from mskray.training.recipe import Recipe, to_batch

FAMILY = "flag_detector"
FLAG, IMPLANT = KINDS = ("flag", "implant")
# Two boxes with this intersection over union are of one thing.
_SAME = 0.5


class RemovalSection(Section):
    """How sure the detector must be when flags are removed."""

    flag_score: float = setting(0.5, "least score of a flag that is removed", gt=0, lt=1)
    implant_score: float = setting(0.3, "least score of an implant whose pixels are left alone", gt=0, lt=1)


@dataclass(frozen=True)
class Found:
    """What is on one image, the surest first.

    Args:
        boxes: (k, 4) x, y, w, h in the image's pixels.
        kinds: (k,).
        scores: (k,).
        masks: (k, size, size) bool on the network's input; None where the method finds boxes alone.
    """

    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None

    def of(self, kind: str, least: float) -> "Found":
        """Those of a kind with at least this score."""
        return self._only(np.flatnonzero((self.kinds == kind) & (self.scores >= least)))

    def surer_than(self, others: "Found") -> "Found":
        """Those that no surer one of the others claims for itself: the detector may call one thing by both kinds."""
        rivals = intersection_over_union(self.boxes, others.boxes) >= _SAME
        lost = rivals & (others.scores[None] > self.scores[:, None])
        return self._only(np.flatnonzero(~lost.any(axis=1)))

    def _only(self, chosen: np.ndarray) -> "Found":
        masks = None if self.masks is None else self.masks[chosen]
        return Found(self.boxes[chosen], self.kinds[chosen], self.scores[chosen], masks)


@dataclass(frozen=True)
class Cleaned(Removal):
    """An image without its flags, and the boxes (m, 4) of those that were removed."""

    flags: np.ndarray


class FlagPredictor(TorchPredictor):
    """Finds flags and implants on images of any size, and removes the flags."""

    def __init__(self, recipe: Recipe, fitted: Fitted, removal: RemovalSection, device: str = "cpu") -> None:
        super().__init__(recipe, fitted, device)
        self.removal = removal

    @torch.inference_mode()
    def detect(self, pixels: Sequence[np.ndarray]) -> list[Found]:
        """Find flags and implants on (rows, columns) images, uint8 or uint16."""
        inputs = np.stack([self.prepare(each) for each in pixels])
        found = self.network(to_batch({"image": inputs}, self.device)["image"])
        return [self._on(image, each) for image, each in zip(pixels, found, strict=True)]

    def clean(self, pixels: Sequence[np.ndarray]) -> list[Cleaned]:
        """Remove the flags of (rows, columns) images, leaving implants alone."""
        return [self._cleaned(image, found) for image, found in zip(pixels, self.detect(pixels), strict=True)]

    def _cleaned(self, image: np.ndarray, found: Found) -> Cleaned:
        flags = found.of(FLAG, self.removal.flag_score)
        implants = found.of(IMPLANT, self.removal.implant_score)
        flags, implants = flags.surer_than(implants), implants.surer_than(flags)
        outlines = [] if flags.masks is None else [self._outline(mask, *image.shape) for mask in flags.masks]
        removal = remove_flags(image, flags.boxes.tolist(), implants.boxes.tolist(), outlines)
        return Cleaned(removal.pixels, removal.changed, flags.boxes)

    def _outline(self, mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Bring a mask from the network's input by way of the canvas to the image, (rows, columns) bool."""
        canvas = cv2.resize(mask.astype(np.float32), (self.image["size"], self.image["size"]))
        return cv2.resize(from_canvas(canvas, rows, columns, self.image["fit"]), (columns, rows)) >= 0.5

    def _on(self, image: np.ndarray, found: Mapping[str, Tensor]) -> Found:
        """Bring boxes from the network's input by way of the canvas to the image."""
        place = Fit(self.image["size"], self.image["fit"]).placement(*image.shape)
        to_canvas = self.image["size"] / self.recipe.config.data.image_size
        ends = found["boxes"].float().cpu().numpy() * to_canvas
        boxes = np.concatenate([ends[:, :2], ends[:, 2:] - ends[:, :2]], axis=1)
        kinds = np.array(KINDS)[found["labels"].cpu().numpy() - 1]
        own = np.array([place.to_source(box) for box in boxes], np.float32).reshape(-1, 4)
        masks = (found["masks"][:, 0] >= 0.5).cpu().numpy() if "masks" in found else None
        return Found(own, kinds, found["scores"].float().cpu().numpy(), masks)


def load_flag_detector(uri: str | Location, device: str = "cpu") -> tuple[Bundle, FlagPredictor]:
    """Load a flag detector. Raises UserError as `load_predictor`, and for a bundle of another family."""
    bundle, predictor = load_predictor(uri, device)
    check_flag_detector(bundle, uri)
    assert isinstance(predictor, FlagPredictor)
    return bundle, predictor


def check_flag_detector(bundle: Bundle, uri: str | Location) -> None:
    """Raise UserError where a bundle finds no flags."""
    if bundle.family != FAMILY:
        raise UserError(
            f"bundle {uri} is a {bundle.family}: flags are removed by a {FAMILY} (mskray train with family: {FAMILY})"
        )
