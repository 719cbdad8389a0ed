"""Images with boxes, for detectors. No torch: it runs in the tasks that read shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mskray.imaging.flags import flag_mask
from mskray.imaging.inputs import InputFormat
from mskray.imaging.regions import fit_mask_to_canvas
from mskray.training.samples import Arrays, shaped

MOST = 8
"""Boxes of an image that are learned from, as many as a byte has bits; the largest where there are more."""
_LEAST = 2.0  # px: less of a box inside the image shows nothing


@dataclass(frozen=True)
class BoxSamples:
    """Every image is a sample: `image`, `label`, `boxes`, `kinds` and, with `masks`, `masks`.

    - `label` (n,): 1 where the cohort has a box of `kinds[0]` for the image.
    - `boxes` (n, MOST, 4) float32: x0, y0, x1, y1 in pixels of the network's input.
    - `kinds` (n, MOST) int64: 1 + place in `kinds`, 0 where there is no box.
    - `masks` (n, size, size) uint8: bit k is set on the pixels of box k. Those of flags are found in the image, those
      of other kinds taken from the cohort's masks; without such the whole box stands for them, which served ZHAW well
      (section IV-B2).

    Args:
        kinds: kinds of findings to learn, the one that `label` asks for first.
        masks: whether to make masks.
        stored_masks: whether the cohort has a column of masks.
    """

    kinds: tuple[str, ...]
    masks: bool = False
    stored_masks: bool = False
    unit: ClassVar[str] = "images"

    @property
    def images_each(self) -> int:
        return 2 if self.masks else 1

    @property
    def columns(self) -> tuple[str, ...]:
        return ("findings", "mask") if self.masks and self.stored_masks else ("findings",)

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        wanted = self.kinds[0]
        return np.array([any(each["kind"] == wanted for each in found) for found in rows["findings"]], np.int64)

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        images = shaped(rows["image"], form)
        boxes, kinds = np.zeros((len(images), MOST, 4), np.float32), np.zeros((len(images), MOST), np.int64)
        scale = form.size / rows["image"].shape[1] if len(images) else 1.0
        for place, findings in enumerate(rows["findings"]):
            for number, (kind, box) in enumerate(self._boxes(findings, scale, form.size)):
                kinds[place, number], boxes[place, number] = kind, box
        samples = {"image": images, "label": self.labels(rows), "boxes": boxes, "kinds": kinds}
        return {**samples, "masks": self._masks(rows, samples)} if self.masks else samples

    def _boxes(self, findings: Sequence[Mapping[str, Any]], scale: float, size: int) -> list[tuple[int, list[float]]]:
        """(kind, [x0, y0, x1, y1]) of what is inside the image, the largest first, at most MOST."""
        found = []
        for each in findings:
            if each["kind"] not in self.kinds:
                continue
            ends = (each["x"], each["y"], each["x"] + each["w"], each["y"] + each["h"])
            box = [min(max(end * scale, 0.0), float(size)) for end in ends]
            if min(box[2] - box[0], box[3] - box[1]) >= _LEAST:
                found.append((1 + self.kinds.index(each["kind"]), box))
        return sorted(found, key=lambda one: (one[1][0] - one[1][2]) * (one[1][3] - one[1][1]))[:MOST]

    def _masks(self, rows: Mapping[str, np.ndarray], samples: Arrays) -> np.ndarray:
        images = samples["image"]
        masks = np.zeros(images.shape, np.uint8)
        for place, bits in enumerate(masks):
            stored = fit_mask_to_canvas(rows["mask"][place], images.shape[1]) > 0 if self.stored_masks else None
            for number, (kind, (x0, y0, x1, y1)) in enumerate(
                zip(samples["kinds"][place], samples["boxes"][place], strict=True)
            ):
                inside = np.zeros(bits.shape, bool)
                inside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = kind > 0
                own = flag_mask(images[place], (x0, y0, x1 - x0, y1 - y0)) if kind == 1 else stored
                pixels = inside if own is None or not (inside & own).any() else inside & own
                bits[pixels] |= np.uint8(1 << number)
        return masks
