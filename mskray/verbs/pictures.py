"""Pictures of a report: images of a cohort with what is known to be there and where the model looked."""

from collections.abc import Sequence

import cv2
import numpy as np

from mskray.cohorts import Cohort
from mskray.ensemble import Ensemble, load_members
from mskray.errors import UserError
from mskray.evaluation.report import Box, Picture
from mskray.explain.methods import normalised
from mskray.families import Images
from mskray.imaging.intensity import to_uint8
from mskray.imaging.overlay import colours
from mskray.imaging.regions import Box as PixelBox
from mskray.imaging.regions import Fit, clipped
from mskray.progress import Progress, Report, silent
from mskray.verbs.explain import Explaining

_METHOD = "grad_cam"
_HEAT_SIDE = 96
"""Pixels a side of a map in the page: it is smooth, so that the browser may enlarge it and the file stays small."""
_BATCH = 8


def explained_pictures(
    ensemble: Ensemble, name: str, cohort: Cohort, split: str, instance_ids: Sequence[str], report: Report = silent
) -> list[Picture]:
    """Make a picture of each instance: true findings, the members' mean Grad-CAM, and the boxes of a single model.

    With two classes the map is that of the finding, whatever was called; else that of the class called. A model of
    which nothing can be explained gives pictures without a map.

    Args:
        name: of the model, for messages.
    """
    images = cohort.images(split, instance_ids)
    table = cohort.metadata(split, ["instance_id", "body_part", "findings"])
    known = {row["instance_id"]: row for row in table.to_pylist() if row["instance_id"] in images}
    report(Progress("explaining errors and right calls"))
    try:
        explaining = Explaining(load_members(ensemble, name), [_METHOD], strict=False)
    except UserError:
        explaining = None
    pictures = []
    for start in range(0, len(instance_ids), _BATCH):
        names = instance_ids[start : start + _BATCH]
        batch = Images([images[each] for each in names], [known[each]["body_part"] for each in names])
        heat, looked = _explain(explaining, batch) if explaining else (None, {})
        for index, each in enumerate(names):
            shares = None if heat is None else colours(heat[index])
            truth = [Box(**box) for box in known[each]["findings"] or []]
            mine = [Box(*boxes[index], kind) for kind, boxes in looked.items()]
            pictures.append(Picture(each, to_uint8(images[each]), truth, mine, shares))
    return pictures


def _explain(explaining: Explaining, images: Images) -> tuple[np.ndarray | None, dict[str, list[PixelBox]]]:
    """Return the mean map (n, side, side) of the members that have one, and a single model's boxes in the images."""
    voter = explaining.voter
    _, explanations = explaining(images, 1 if len(voter.classes) == 2 else None)
    maps = [each.maps[_METHOD] for each in explanations if each is not None and _METHOD in each.maps]
    small = [np.stack([cv2.resize(each, (_HEAT_SIDE, _HEAT_SIDE)) for each in member]) for member in maps]
    heat = normalised(np.mean(small, axis=0)) if small else None
    if len(explanations) > 1 or explanations[0] is None:
        return heat, {}
    image = voter.bundles[0].image
    fit = Fit(image["size"], image["fit"])
    shapes = [pixels.shape for pixels in images.pixels]
    return heat, {
        name: [
            clipped(fit.placement(*shape).to_source(box.tolist()), *shape)
            for box, shape in zip(boxes, shapes, strict=True)
        ]
        for name, boxes in explanations[0].prediction.boxes.items()
    }
