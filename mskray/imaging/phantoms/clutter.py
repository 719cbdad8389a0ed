"""What else is on real films and is no disease: skin folds, muscle edges, and metal that is worn, not implanted.

All of it is drawn from the view's own random stream, in normal and abnormal studies alike.
"""

import cv2
import numpy as np

from mskray.imaging.phantoms.shapes import Array

_COARSE = 512


def folds(shape: tuple[int, int], rng: np.random.Generator) -> Array | None:
    """Attenuation of skin folds and muscle edges, (rows, columns): long curved lines, bright or dark; often none."""
    count = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15)))
    if not count:
        return None
    factor = min(1.0, _COARSE / max(shape))
    rows, columns = round(shape[0] * factor), round(shape[1] * factor)
    sheet = np.zeros((rows, columns), np.float32)
    for _ in range(count):
        angle = rng.uniform(0, np.pi)
        direction = np.array((np.cos(angle), np.sin(angle)))
        normal = np.array((-direction[1], direction[0]))
        run = np.linspace(-0.8, 0.8, 24)[:, None]
        bend = rng.normal(0, 0.25) * run**2 + rng.normal(0, 0.3) * run**3
        middle = rng.uniform(0.2, 0.8, 2)
        path = (middle + run * direction + bend * normal) * max(rows, columns)
        line = np.zeros((rows, columns), np.uint8)
        width = max(1, round(max(rows, columns) * rng.uniform(0.003, 0.008)))
        start, stop = sorted(rng.integers(0, 25, 2))
        if stop - start < 6:
            start, stop = 0, 24
        cv2.polylines(line, [np.round(path[start:stop] * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(line, (0, 0), rng.uniform(0.4, 1.4) * width)
        sheet += soft.astype(np.float32) * np.float32(rng.choice((-1, 1)) * rng.uniform(0.03, 0.11) / 255)
    return np.asarray(cv2.resize(sheet, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def worn_metal(shape: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[slice, slice], Array] | None:
    """A snap fastener, a ring or a hair pin lying on the field: (window, attenuation there); usually None."""
    chance, style = rng.random(2)
    centre = rng.uniform(0.08, 0.92, 2) * (shape[1], shape[0])
    radius = rng.uniform(0.015, 0.04) * max(shape)
    angle = rng.uniform(0, np.pi)
    strength = rng.uniform(0.7, 2.2)
    if chance > 0.1:
        return None
    reach = 3.2 * radius if style > 0.75 else 1.2 * radius + 2
    window = (
        slice(max(int(centre[1] - reach), 0), min(int(centre[1] + reach) + 2, shape[0])),
        slice(max(int(centre[0] - reach), 0), min(int(centre[0] + reach) + 2, shape[1])),
    )
    y, x = np.ogrid[window]
    across = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)).astype(np.float32)
    along = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)).astype(np.float32)
    if style > 0.75:
        shape_of = np.clip(3 * radius - np.abs(along), 0, 1) * np.clip(0.16 * radius + 0.5 - np.abs(across), 0, 1)
    else:
        squash = 1.0 if style < 0.4 else 0.45
        distance = np.hypot(across / squash, along)
        shape_of = np.clip(radius + 0.5 - distance, 0, 1)
        if style > 0.2:
            shape_of = shape_of * np.clip(distance - 0.7 * radius + 0.5, 0, 1)
    return window, np.asarray(shape_of, np.float32) * np.float32(strength)
