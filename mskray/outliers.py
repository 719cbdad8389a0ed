"""Does an image look like those that an ensemble was made for? A network answers a photograph of a cat as surely.

Three looks, each a Gaussian of the training images (Ledoit and Wolf 2004) by whose Mahalanobis distance an image is
judged (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples"):

    features   the mean over a member's last spatial map: what is shown; left out where no member has one
    grey       the image at 16 × 16 px: where it is bright
    texture    contrast by scale and direction: how it is drawn, which noise and prints give away

A fine-tuned network alone does not do: it learns to leave out what its classes do not need, and takes noise for bone.
An image is strange when any look is: the largest of the three, each on the scale of its held-out images, is above all
but a few of theirs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.covariance import LedoitWolf

from mskray.ensemble_json import OutlierTest
from mskray.errors import UserError
from mskray.families import Prediction
from mskray.imaging.intensity import to_uint8
from mskray.imaging.regions import FitMode, fit_to_canvas, fit_to_format
from mskray.storage import Location, locate

OUTLIERS = "outliers.safetensors"
QUANTILE = 0.995
LEAST = 20
"""Images of a split below which nothing can be said of what is usual."""
_MAX_BYTES = 1 << 30
_SIDE, _GREY = 96, 16
_OCTAVES = 5
"""Halvings of the image between which contrast is measured: from one pixel of `_SIDE` to a third of it."""
_FLAT = 1e-3
"""Contrast of an image that has none, as a share of the grey levels: its logarithm stays finite."""


@dataclass(frozen=True)
class _Look:
    """A Gaussian of training images (d,) and (d, d) float32, median and quantile of held-out images' distances."""

    location: np.ndarray
    precision: np.ndarray
    median: float = 0.0
    quantile: float = 1.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Distances (n,) of values (n, d), 0 at the held-out images' median and 1 at their quantile."""
        return (self.distances(values) - self.median) / max(self.quantile - self.median, 1e-6)

    def distances(self, values: np.ndarray) -> np.ndarray:
        """Mahalanobis distances (n,); scikit-learn's own take some 15 times as long."""
        away = values - self.location
        return np.sqrt(np.maximum(np.einsum("nd,nd->n", away @ self.precision, away), 0))


class Outliers:
    """Scores images: 0 for the middle of the held-out ones, 1 for the edge of what is usual to one look."""

    def __init__(self, looks: Mapping[str, _Look]) -> None:
        self._looks = dict(looks)

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (n,) of what `look` gave."""
        scores = np.stack([each(values[name]) for name, each in self._looks.items()]).max(axis=0)
        return np.where(np.isfinite(scores), scores, np.inf)

    def to_bytes(self) -> bytes:
        """The content of the file."""
        tensors: dict[str, np.ndarray] = {}
        for name, each in self._looks.items():
            tensors[f"{name}.location"], tensors[f"{name}.precision"] = each.location, each.precision
            tensors[f"{name}.scale"] = np.array([each.median, each.quantile], np.float32)
        return save(tensors)

    @classmethod
    def of_bytes(cls, content: bytes) -> "Outliers":
        """Read what `to_bytes` gave. Raises ValueError for anything else."""
        try:
            tensors = load(content)
        except SafetensorError as error:
            raise ValueError(f"no safetensors ({error})") from None
        looks = {}
        for name in dict.fromkeys(key.rpartition(".")[0] for key in tensors):
            parts = [tensors.get(f"{name}.{part}", np.zeros(0)) for part in ("location", "precision", "scale")]
            location, precision, scale = (part.astype(np.float32) for part in parts)
            if precision.shape != (len(location), len(location)) or scale.shape != (2,) or not len(location):
                raise ValueError(f"the look {name!r} is not whole")
            looks[name] = _Look(location, precision, *scale.tolist())
        if not looks:
            raise ValueError("no look at all")
        return cls(looks)


def look(pixels: Sequence[np.ndarray], image: Mapping[str, object], prediction: Prediction) -> dict[str, np.ndarray]:
    """What is looked at of n images, (n, d) float32 by look.

    Args:
        pixels: (rows, columns) each, as the member saw them.
        image: the member's canvas (`size`, `fit`, `dtype`). prediction: what it says of them.
    """
    size, fit = int(str(image["size"])), _fit(image["fit"])
    canvases = (fit_to_format(each, size, fit, str(image["dtype"]))[0] for each in pixels)
    pictures = [fit_to_canvas(to_uint8(each), _SIDE)[0].astype(np.float32) / 255 for each in canvases]
    values = {
        "grey": np.stack([cv2.resize(each, (_GREY, _GREY), interpolation=cv2.INTER_AREA).ravel() for each in pictures]),
        "texture": np.stack([_texture(each) for each in pictures]),
    }
    return values if prediction.features is None else {"features": prediction.features, **values}


def fit(train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> tuple[Outliers, float]:
    """Learn what is usual from what `look` gave of training images; scale and threshold are of held-out ones.

    Returns:
        The scores' maker, and the score that all but 1 − `QUANTILE` of the held-out images stay below.
    """
    looks = {}
    for name, values in train.items():
        gaussian = LedoitWolf().fit(values.astype(np.float64))
        made = _Look(gaussian.location_.astype(np.float32), gaussian.get_precision().astype(np.float32))
        distances = made.distances(held_out[name])
        looks[name] = replace(made, median=float(np.median(distances)), quantile=_high(distances))
    outliers = Outliers(looks)
    return outliers, _high(outliers(held_out))


def write_outliers(outliers: Outliers, threshold: float, fitted_on: str, member: int, folder: Location) -> OutlierTest:
    """Write the file into an ensemble's folder and return what `ensemble.json` says of it."""
    content = outliers.to_bytes()
    folder.join(OUTLIERS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return OutlierTest(
        file=OUTLIERS, hash=digest, threshold=threshold, quantile=QUANTILE, fitted_on=fitted_on, member=member
    )


def read_outliers(test: OutlierTest) -> Outliers:
    """Read the file, `test` as `ensemble.describe` gives it. Raises UserError: it is missing or was changed."""
    place = locate(test.file)
    content = place.read_bytes(_MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != test.hash:
        raise UserError(f"{place} is not what the ensemble was made with: make the ensemble again")
    try:
        return Outliers.of_bytes(content)
    except ValueError as error:
        raise UserError(f"{place} cannot be read ({error}): make the ensemble again") from None


def _texture(picture: np.ndarray) -> np.ndarray:
    """Logarithms of contrasts, (8,): by scale and direction as shares of the whole, and the whole."""
    whole = float(picture.std()) + _FLAT
    shares, finer = [], picture
    for _ in range(_OCTAVES):
        coarser = cv2.pyrDown(finer)
        shares.append(float((finer - cv2.pyrUp(coarser, dstsize=finer.shape[::-1])).std()))
        finer = coarser
    slopes = [float(cv2.Sobel(picture, cv2.CV_32F, *axes).std()) for axes in ((1, 0), (0, 1))]
    return np.log(np.array([*(each / whole + _FLAT for each in (*shares, *slopes)), whole], np.float32))


def _high(values: np.ndarray) -> float:
    return float(np.quantile(values, QUANTILE, method="higher"))


def _fit(mode: object) -> FitMode:
    return "stretch" if mode == "stretch" else "pad"
