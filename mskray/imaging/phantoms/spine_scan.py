"""How a phantom spine is scanned: field of view, slices, then coil, blur and noise.

Magnitude images have Rician noise: the root of the squares of two channels, signal and noise in one, noise in the other
(Gudbjartsson and Patz 1995).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mskray.imaging.phantoms.spine_build import Array, Body
from mskray.imaging.phantoms.spine_paint import Grid, Noise
from mskray.imaging.spine import LEVELS


@dataclass(frozen=True)
class Protocol:
    """How a volume is taken. `thickness`, `pitch` in mm; `blur` of rows and columns in px; `noise` relative to fluid.

    coil: how far (mm) the signal of the coil behind the patient reaches before it falls to 1/e.
    """

    grid: Grid
    thickness: float
    pitch: float
    blur: tuple[float, float]
    noise: float
    noise_blur: float
    coil: float
    reach: float
    bias: float
    scale: float


def protocol(rng: np.random.Generator, bodies: tuple[Body, ...]) -> Protocol:
    """Draws a protocol that has all named bodies in its field of view."""
    corners = np.concatenate([body.corners for body in bodies if body.name in LEVELS])
    low, high = corners.min(axis=0), corners.max(axis=0)
    pixel = float(rng.triangular(0.5, 0.8, 1.2))
    top, bottom = rng.uniform(8, 40), rng.uniform(10, 55)
    height = high[1] - low[1] + top + bottom
    room = max(height * rng.uniform(0.75, 1.25) - (high[0] - low[0]), 50.0)
    left = low[0] - 12 - (room - 24) * rng.beta(4, 3)
    rows, columns = round(height / pixel), round((high[0] - low[0] + room) / pixel)
    slices = int(rng.integers(9, 16))
    thickness = float(rng.uniform(3.0, 5.0))
    pitch = thickness * float(rng.uniform(1.0, 1.2))
    middle = (slices - 1) / 2 + float(rng.uniform(-0.8, 0.8))
    grid = Grid(
        x=((np.arange(slices) - middle) * pitch).astype(np.float32),
        rows=(low[1] - top + np.arange(rows) * pixel).astype(np.float32),
        columns=(left + np.arange(columns) * pixel).astype(np.float32),
    )
    return Protocol(
        grid=grid,
        thickness=thickness,
        pitch=pitch,
        # Fewer phase than frequency encoding steps: one direction is blurred more.
        blur=(float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7))),
        noise=float(math.exp(rng.uniform(math.log(0.008), math.log(0.055)))),
        noise_blur=float(rng.choice((0.0, 0.5, 0.8))),
        coil=float(rng.uniform(55, 260)),
        reach=float(rng.uniform(150, 320)),
        bias=float(rng.uniform(0.03, 0.14)),
        scale=float(math.exp(rng.uniform(math.log(150), math.log(2500)))),
    )


def scan(rng: np.random.Generator, taken: Protocol, signal: Array, bodies: tuple[Body, ...]) -> Array:
    """What the scanner gives for a signal (slices, rows, columns), overwritten: whole numbers as float32."""
    grid = taken.grid
    middle = np.mean([body.middle for body in bodies if body.name in LEVELS], axis=0)
    # Normalised at the column of bodies: brighter towards the coil behind, darker towards the belly.
    depth = np.exp(np.clip((grid.columns - np.float32(middle[0])) / np.float32(taken.coil), -3, 0.4))[None]
    along = np.exp(-(((grid.rows - np.float32(middle[1])) / np.float32(taken.reach)) ** 2))[:, None]
    gain = (depth * along).astype(np.float32)
    bias = Noise(rng, grid, 110, 90, 60)
    uneven = rng.normal(1, 0.025, len(signal))
    for index, plane in enumerate(signal):
        blurred = cv2.GaussianBlur(plane, (0, 0), sigmaX=taken.blur[1], sigmaY=taken.blur[0])
        blurred *= gain
        blurred *= np.exp(np.float32(taken.bias) * bias.slice(index)) * np.float32(uneven[index])
        real, imaginary = rng.standard_normal((2, *plane.shape), dtype=np.float32)
        if taken.noise_blur:
            # Interpolated by the scanner: the noise of neighbouring pixels is alike, as strong as before.
            for channel in (real, imaginary):
                cv2.GaussianBlur(channel, (0, 0), taken.noise_blur, dst=channel)
                channel *= np.float32(1 / _kept(taken.noise_blur))
        real *= np.float32(taken.noise)
        imaginary *= np.float32(taken.noise)
        real += blurred
        cv2.magnitude(real, imaginary, signal[index])
    signal *= np.float32(taken.scale)
    return np.asarray(np.rint(signal, out=signal))


def _kept(sigma: float) -> float:
    """Standard deviation of white noise of 1 after a Gaussian blur of the plane."""
    kernel = cv2.getGaussianKernel(2 * round(3 * sigma) + 1, sigma)
    return float((kernel**2).sum())
