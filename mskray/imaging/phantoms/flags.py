"""The lead letter that says which side: drawn as on real films, in some corner, turned, sometimes with initials.

A flag is not an abnormality. Its pixels are known exactly, so that finding and removing flags can be measured.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mskray.imaging.phantoms.plan import FLAG, PhantomSpec, PhantomStudy, stream
from mskray.imaging.phantoms.shapes import Array

_SUPERSAMPLING = 4
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)
_INITIALS = "ABCDEFGHJKMNPQSTUVWXYZ"  # never L or R: the letter is the side's alone


@dataclass(frozen=True)
class Flag:
    """A marker on the image: `stamp` (h, w) float32 is its opacity 0–1, at `box` (x, y, w, h) px."""

    letter: str
    stamp: Array
    box: tuple[int, int, int, int]


def letter_of(spec: PhantomSpec, study: PhantomStudy, rng: np.random.Generator) -> str:
    """The true side, or, as far as `flag_bias` goes, the letter that tells the label."""
    tells = rng.random() < 2 * spec.flag_bias - 1
    return ("L" if study.label else "R") if tells else study.laterality


def flag_of(
    spec: PhantomSpec,
    study: PhantomStudy,
    view_index: int,
    shape: tuple[int, int],
    field: tuple[float, float, float, float],
    focus: tuple[float, float, float, float],
) -> Flag | None:
    """The flag of one image, or None: inside the exposed `field`, off the bones in `focus` where there is room.

    Boxes `field` and `focus` are (x0, y0, x1, y1) px. The corner is one of the free ones, at random.
    """
    rng = stream(spec.seed, FLAG, study.index, view_index)
    if rng.random() >= spec.flag_fraction:
        return None
    letter = letter_of(spec, study, stream(spec.seed, FLAG, study.index))
    stamp = _stamp(letter, rng.uniform(0.055, 0.11) * max(shape), rng)
    rows, columns = stamp.shape
    x0, y0, x1, y1 = field
    slack = rng.uniform(0.01, 0.05, 2) * max(shape)
    places = [
        (x, y)
        for x in (x0 + slack[0], x1 - columns - slack[0])
        for y in (y0 + slack[1], y1 - rows - slack[1], (y0 + y1 - rows) / 2)
    ]
    order = rng.permutation(len(places))
    x, y = min((places[i] for i in order), key=lambda place: _overlap(place, stamp.shape, focus))
    left = int(np.clip(round(x), 1, shape[1] - columns - 1))
    top = int(np.clip(round(y), 1, shape[0] - rows - 1))
    return Flag(letter, stamp, (left, top, columns, rows))


def _overlap(place: tuple[float, float], shape: tuple[int, int], box: tuple[float, float, float, float]) -> float:
    wide = min(place[0] + shape[1], box[2]) - max(place[0], box[0])
    high = min(place[1] + shape[0], box[3]) - max(place[1], box[1])
    return max(wide, 0.0) * max(high, 0.0)


def _stamp(letter: str, height: float, rng: np.random.Generator) -> Array:
    """Opacity of a marker whose letter is `height` px tall, cropped to its tight bounds."""
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    tall = height * _SUPERSAMPLING
    factor = tall / 22.0
    weight = max(1, round(tall * rng.uniform(0.1, 0.17)))
    side = int(4.2 * tall)
    plate = np.zeros((side, side), np.uint8)
    _write(plate, letter, font, factor, weight, (0.5, 0.45))
    style = rng.random()
    if style < 0.3:
        cv2.circle(plate, (side // 2, int(0.45 * side)), int(0.82 * tall), 255, max(1, weight // 2), cv2.LINE_AA)
    elif style < 0.5:
        initials = "".join(rng.choice(list(_INITIALS), 2))
        _write(plate, initials, font, 0.5 * factor, max(1, weight // 2), (0.5, 0.72))
    turn = rng.choice((0.0, 0.0, 0.0, 90.0, 180.0, 270.0)) + rng.normal(0, 8)
    small = side // _SUPERSAMPLING
    centring = np.array(((0, 0, small / 2 - side / 2),) * 2)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, 1 / _SUPERSAMPLING) + centring
    soft = cv2.GaussianBlur(plate, (0, 0), 0.45 * _SUPERSAMPLING)
    opacity = cv2.warpAffine(soft, matrix, (small, small), flags=cv2.INTER_LINEAR)
    ys, xs = np.nonzero(opacity > 127)
    return np.asarray(opacity[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], np.float32) / 255


def _write(plate: Array, text: str, font: int, factor: float, weight: int, centre: tuple[float, float]) -> None:
    (wide, high), _ = cv2.getTextSize(text, font, factor, weight)
    at = int(centre[0] * plate.shape[1] - wide / 2), int(centre[1] * plate.shape[0] + high / 2)
    cv2.putText(plate, text, at, font, factor, 255, weight, cv2.LINE_AA)
