"""Zoom the prototype's way, one image at a time: captum on the network, numpy and OpenCV for the rest.

`bench_explain.py` measures ours against it. It shares none of our code but the config: entropy by box filters, region,
crop.
"""

from typing import Any

import cv2
import numpy as np
import torch
from captum.attr import GuidedBackprop
from torch import Tensor

from mskray.families.zoom import ZoomRecipe


def one_image(network: Any, image: Tensor, recipe: ZoomRecipe) -> np.ndarray:
    """Look at one image (1, side, side) twice; return the box (4,) of the second look."""
    zoom, size = recipe.config.zoom, recipe.size
    canvas = image[0].numpy()
    side = len(canvas)
    small = torch.from_numpy(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA))[None, None]
    with torch.no_grad():
        target = network(small).softmax(dim=1).argmax(dim=1)
    values = GuidedBackprop(network).attribute(small.requires_grad_(), target=target)[0, 0].detach().numpy()
    grey = 0.5 + 0.5 * (values - values.mean()) / values.std()
    entropy = _entropy(np.clip(grey * zoom.bins, 0, zoom.bins - 1).astype(np.uint8), zoom.neighbourhood, zoom.bins)
    mask = entropy >= entropy.min() + zoom.threshold * (entropy.max() - entropy.min())
    box = _extended(_around_peak(mask, entropy) * (side / size), size, side)
    x, y, length = box[:3]
    middle = (x + length / 2 - 0.5, y + length / 2 - 0.5)
    patch = cv2.getRectSubPix(canvas, (round(length), round(length)), middle)
    patch = cv2.resize(patch, (size, size), interpolation=cv2.INTER_LINEAR)
    with torch.no_grad():
        network(torch.from_numpy(patch)[None, None]).softmax(dim=1)
    return box


def _entropy(levels: np.ndarray, neighbourhood: int, bins: int) -> np.ndarray:
    window, border = (neighbourhood, neighbourhood), cv2.BORDER_CONSTANT
    count = cv2.boxFilter(np.ones(levels.shape, np.float32), -1, window, normalize=False, borderType=border)
    result = np.zeros(levels.shape, np.float32)
    for level in range(bins):
        here = (levels == level).astype(np.float32)
        share = cv2.boxFilter(here, -1, window, normalize=False, borderType=border) / count
        result -= share * np.log2(np.maximum(share, 1e-30))
    return result


def _around_peak(mask: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    row, column = np.unravel_index(entropy.argmax(), entropy.shape)
    top, bottom = _stretch(mask.any(axis=1), row)
    left, right = _stretch(mask[top:bottom].any(axis=0), column)
    top, bottom = _stretch(mask[:, left:right].any(axis=1), row)
    return np.array([left, top, right - left, bottom - top], np.float32)


def _stretch(profile: np.ndarray, at: np.intp) -> tuple[int, int]:
    off = np.flatnonzero(~profile)
    return int(off[off < at].max(initial=-1)) + 1, int(off[off > at].min(initial=len(profile)))


def _extended(box: np.ndarray, least: int, side: int) -> np.ndarray:
    length = max(*box[2:], least)
    x, y = (min(max(box[axis] + box[2 + axis] / 2 - length / 2, 0), side - length) for axis in (0, 1))
    return np.array([x, y, length, length], np.float32)
