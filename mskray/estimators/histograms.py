"""How often each visual word occurs in an image. Tasks that count import no scikit-learn."""

import numpy as np

from mskray.estimators.nearest import nearest
from mskray.imaging.keypoints import Kind, unpack

_ROWS = 1 << 16


def count_words(descriptors: np.ndarray, kind: Kind, lengths: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Count each word in every image.

    Args:
        descriptors: (total, width) of all images one after the other, as `keypoints.describe` gives them.
        lengths: how many are each image's, of any shape; their order is that of the descriptors.
        centres: (k, width of `unpack`) float32.
    Returns:
        (*lengths.shape, k) float32.
    """
    words = len(centres)
    image = np.repeat(np.arange(lengths.size), lengths.ravel())
    counts = np.zeros(lengths.size * words, np.float32)
    for start in range(0, len(descriptors), _ROWS):
        part = slice(start, start + _ROWS)
        labels, _ = nearest(unpack(descriptors[part], kind), centres)
        counts += np.bincount(image[part] * words + labels, minlength=len(counts)).astype(np.float32)
    return counts.reshape(*lengths.shape, words)
