"""Pictures of a report: images of a cohort with what is known to be there and where the model looked."""

from collections.abc import Sequence

import cv2
import numpy as np

from mskray.cohorts import Cohort
from mskray.cohorts.contact_sheet import shown
from mskray.ensemble import Ensemble, load_members
from mskray.errors import UserError
from mskray.evaluation.report import Box, Picture
from mskray.explain.methods import METHODS, normalised
from mskray.explaining import Explaining
from mskray.families import Images
from mskray.imaging.intensity import to_uint8
from mskray.imaging.overlay import colours
from mskray.imaging.regions import Box as PixelBox
from mskray.imaging.regions import Fit, clipped
from mskray.progress import Progress, Report, silent

_HEAT_SIDE = 96
"""Pixels a side of a map in the page: it is smooth, so that the browser may enlarge it and the file stays small."""
_BATCH = 8


def explained_pictures(
    ensemble: Ensemble, name: str, cohort: Cohort, split: str, instance_ids: Sequence[str], report: Report = silent
) -> list[Picture]:
    """Make a picture of each instance: true findings, the members' mean maps, and the boxes of a single model.

    With two classes the maps are those of the finding, whatever was called; else those of the class called. A model of
    which nothing can be explained gives pictures without maps. A pair is shown side by side, and of a
    stack its middle slice.

    Args:
        name: of the model, for messages.
    """
    images = cohort.images(split, instance_ids)
    table = cohort.metadata(split, ["instance_id", "body_part", "findings"])
    known = {row["instance_id"]: row for row in table.to_pylist() if row["instance_id"] in images}
    report(Progress("explaining errors and right calls"))
    try:
        explaining = Explaining(load_members(ensemble, name), list(METHODS))
    except UserError:
        explaining = None
    pictures = []
    for start in range(0, len(instance_ids), _BATCH):
        names = instance_ids[start : start + _BATCH]
        batch = Images([images[each] for each in names], [known[each]["body_part"] for each in names])
        maps, looked = _explain(explaining, batch) if explaining and explaining.possible else ({}, {})
        for index, each in enumerate(names):
            heats = {method: colours(each[index]) for method, each in maps.items()}
            truth = [Box(**box) for box in known[each]["findings"] or []]
            mine = [Box(*boxes[index], kind) for kind, boxes in looked.items()]
            pictures.append(Picture(each, to_uint8(shown(images[each])), truth, mine, heats))
    return pictures


def _explain(explaining: Explaining, images: Images) -> tuple[dict[str, np.ndarray], dict[str, list[PixelBox]]]:
    """Return each method's map (n, side, side), mean of the members that allow it, and a single model's boxes."""
    voter = explaining.voter
    _, explanations = explaining(images, 1 if len(voter.classes) == 2 else None)
    maps: dict[str, np.ndarray] = {}
    for method in METHODS:
        given = [each.maps[method] for each in explanations if each is not None and method in each.maps]
        small = [np.stack([cv2.resize(each, (_HEAT_SIDE, _HEAT_SIDE)) for each in member]) for member in given]
        if small:
            maps[method] = normalised(np.mean(small, axis=0))
    if len(explanations) > 1 or explanations[0] is None:
        return maps, {}
    image = voter.bundles[0].image
    fit = Fit(image["size"], image["fit"])
    shapes = [pixels.shape for pixels in images.pixels]
    return maps, {
        name: [
            clipped(fit.placement(*shape).to_source(box.tolist()), *shape)
            for box, shape in zip(boxes, shapes, strict=True)
        ]
        for name, boxes in explanations[0].prediction.boxes.items()
    }
