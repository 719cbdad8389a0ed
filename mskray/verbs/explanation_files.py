"""What `mskray explain` leaves of one image or disc: overlays, `maps.npz`, `explanation.json`.

`maps.npz` holds each map as float32 in [0, 1] on the model's canvas, (size, size), by method, or by `member/method` of
an ensemble. `explanation.json` says where the image lies on that canvas; its own boxes are in pixels of the image. One
that covers nothing of the image is left out: nothing was found.

Of a disc, maps are (slices, rows, columns), as large as the network's input, and the largest value of all is 1. The
pictures show them smoothed within the slice, since gradients of neighbouring voxels differ by chance; arrays and `peak`
(slice, row, column) are as they came.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mskray.ensemble import Vote, Voter
from mskray.explain.hotspots import blurred
from mskray.explain.localisation import volume_peaks
from mskray.families import Explanation
from mskray.imaging.intensity import full_range
from mskray.imaging.overlay import Mark, draw, png
from mskray.imaging.regions import Box, Fit, clipped, from_canvas, has_area
from mskray.imaging.volumes.montage import heat_montage
from mskray.storage import Location

EXPLANATION, MAPS, BOXES = "explanation.json", "maps.npz", "boxes.png"
SCHEMA_VERSION = 1
_BLUR = 0.01
"""Standard deviation of a disc's drawn maps, as a share of the columns."""


def write_explanation(
    folder: Location,
    path: str,
    pixels: np.ndarray,
    index: int,
    voter: Voter,
    vote: Vote,
    explanations: Sequence[Explanation | None],
) -> None:
    """Write the files of image `index` of a batch; `explanation.json` last.

    Args:
        path: of the image, as it shall be told.
        pixels: (rows, columns), as decoded.
        explanations: an entry a member.
    """
    single = len(explanations) == 1
    arrays: dict[str, np.ndarray] = {}
    members: list[dict[str, Any]] = []
    target = next(int(each.target[index]) for each in explanations if each is not None)
    for number, explanation in enumerate(explanations):
        name, bundle = voter.names[number], voter.bundles[number]
        entry: dict[str, Any] = {
            "name": name,
            "uri": voter.ensemble.members[number].uri,
            "hash": bundle.hash,
            "family": bundle.family,
            "probabilities": _by_class(vote.members[name][index], voter.classes),
            "explained": explanation is not None,
        }
        if explanation is not None:
            share = f"probability {vote.members[name][index][target]:.2f}"
            title = f"{voter.classes[target]}, {share}" if single else f"{name}: {voter.classes[target]}, {share}"
            entry |= _draw_member(folder, "" if single else f"{name}-", title, pixels, index, bundle.image, explanation)
            entry["parts"] = {
                part: _by_class(each[index], voter.classes) for part, each in explanation.prediction.parts.items()
            }
            arrays |= {
                method if single else f"{name}/{method}": each[index] for method, each in explanation.maps.items()
            }
        members.append(entry)
    folder.join(MAPS).write_bytes(_npz(arrays))
    folder.join(EXPLANATION).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "image": path,
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "model": voter.ensemble.name,
            "class": voter.classes[target],
            "probabilities": _by_class(vote.probabilities[index], voter.classes),
            "threshold": voter.threshold,
            "members": members,
        }
    )


@dataclass(frozen=True)
class Graded:
    """What is known of one disc: probabilities (classes,) of a task, and its label where the cohort has one."""

    name: str
    level: str
    model: str
    task: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    label: int | None


def write_hotspots(
    folder: Location, disc: Graded, target: int, stack: np.ndarray, maps: Mapping[str, np.ndarray]
) -> None:
    """Write the files of one disc; `explanation.json` last.

    Args:
        target: index of the class that is explained.
        stack: (slices, rows, columns) in [0, 1], what the network was given.
        maps: evidence of each method, 0 or more, as large.
    """
    share = f"probability {disc.probabilities[target]:.2f}"
    truth = "not known" if disc.label is None else disc.classes[disc.label]
    subject = " ".join(filter(None, ["disc", disc.level, disc.name[:8]]))
    methods: dict[str, Any] = {}
    for method, each in maps.items():
        smooth = blurred(torch.from_numpy(each)[None], _BLUR * each.shape[2])[0].numpy()
        title = f"{subject}: {method} for {disc.task} {disc.classes[target]}, {share}, label {truth}"
        folder.join(f"{method}.png").write_bytes(png(heat_montage(full_range(stack, np.uint8), _shares(smooth), title)))
        (peak,) = volume_peaks(each[None])
        methods[method] = {"overlay": f"{method}.png", **({"peak": peak.astype(int).tolist()} if each.any() else {})}
    folder.join(MAPS).write_bytes(_npz({method: _shares(each) for method, each in maps.items()}))
    folder.join(EXPLANATION).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "image": disc.name,
            "level": disc.level,
            **dict(zip(("slices", "rows", "columns"), stack.shape, strict=True)),
            "model": disc.model,
            "task": disc.task,
            "class": disc.classes[target],
            "probabilities": _by_class(disc.probabilities, disc.classes),
            "label": None if disc.label is None else disc.classes[disc.label],
            "methods": methods,
        }
    )


def _shares(values: np.ndarray) -> np.ndarray:
    """Values, 0 or more, as shares of the largest; 0 where all are."""
    return values / max(float(values.max()), 1e-30)


def _draw_member(
    folder: Location,
    prefix: str,
    title: str,
    pixels: np.ndarray,
    index: int,
    image: dict[str, Any],
    explanation: Explanation,
) -> dict[str, Any]:
    """Write a member's overlays and return what `explanation.json` says of its maps and boxes."""
    rows, columns = pixels.shape
    placement = Fit(image["size"], image["fit"]).placement(rows, columns)

    def in_image(box: np.ndarray) -> Box:
        return clipped(placement.to_source(box.tolist()), rows, columns)

    own = [
        Mark(name, box)
        for name, boxes in explanation.boxes.items()
        if name not in explanation.maps and has_area(box := in_image(boxes[index]))
    ]
    if own and not explanation.maps:
        folder.join(f"{prefix}{BOXES}").write_bytes(png(draw(pixels, None, own, title)))
    methods = {}
    for method, maps in explanation.maps.items():
        box, overlay = in_image(explanation.boxes[method][index]), f"{prefix}{method}.png"
        shares = from_canvas(maps[index], rows, columns, image["fit"])
        picture = draw(pixels, shares, [Mark(f"{method} box", box), *own], f"{method} for {title}")
        folder.join(overlay).write_bytes(png(picture))
        methods[method] = {"overlay": overlay, **({"box": _rounded(box)} if has_area(box) else {})}
    canvas = {"size": image["size"], "fit": image["fit"], **asdict(placement)}
    return {"methods": methods, "boxes": {mark.name: _rounded(mark.box) for mark in own}, "canvas": canvas}


def _by_class(values: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(classes, values, strict=True)}


def _rounded(box: Box) -> list[float]:
    return [round(side, 2) for side in box]


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # typed as if a name could be allow_pickle
    return buffer.getvalue()
