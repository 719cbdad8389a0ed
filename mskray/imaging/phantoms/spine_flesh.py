"""What lies around the bodies and discs of a phantom spine: canal, arches, muscle, fat, vessels, bowel, skin.

Everything follows the front and the back wall of the column of bodies: a point is placed by its row, by its distance
behind or before the wall there, and by its distance from the middle of the spine. It is there so that a detector has to
tell bodies from what resembles them. Signals are relative to cerebrospinal fluid = 1, lengths in mm.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mskray.imaging.phantoms.spine_arch import FAT, LIGAMENT, Arch
from mskray.imaging.phantoms.spine_build import Array, Body
from mskray.imaging.phantoms.spine_paint import Grid, Noise, over, ramp

_MUSCLE, _CORD = 0.17, 0.46
CANAL = 100  # in masks, as SPIDER has it


@dataclass(frozen=True)
class Habitus:
    """A patient's soft parts: sizes in mm and signals.

    canal: its depth; conus: how far below the middle of L1 the cord ends; belly: from the column to the skin in front.
    before: signal of the abdomen; stripe: fat on the front of the column; streaks: how much fat the muscles have.
    marrow: of the arches.
    """

    canal: float
    conus: float
    back_fat: float
    front_fat: float
    belly: float
    before: float
    stripe: float
    muscle: float
    streaks: float
    aorta: float
    marrow: float
    fluid: float


def habitus(rng: np.random.Generator, marrow: float) -> Habitus:
    """Draws a patient's soft parts."""
    return Habitus(
        canal=float(rng.uniform(12.5, 17.5)),
        conus=float(rng.uniform(-18, 22)),
        back_fat=float(rng.uniform(5, 34)),
        front_fat=float(rng.uniform(4, 38)),
        belly=float(rng.uniform(70, 150)),
        before=float(rng.uniform(0.25, 1.0)),
        stripe=float(rng.uniform(1.5, 7)),
        muscle=float(rng.uniform(34, 52)),
        streaks=float(rng.uniform(0.2, 1.1)),
        aorta=float(rng.uniform(13, 19)),
        marrow=marrow,
        fluid=float(rng.uniform(0.88, 1.05)),
    )


class Flesh:
    """Draws the slices of one patient, before discs and bodies are put in."""

    def __init__(self, rng: np.random.Generator, grid: Grid, bodies: tuple[Body, ...], given: Habitus):
        """bodies: from below."""
        self._grid, self._given, self._bodies = grid, given, bodies
        rows = grid.rows
        walls = [np.concatenate([body.corners[pair] for body in reversed(bodies)]) for pair in ([0, 3], [1, 2])]
        front, back = (_curve(rows, wall) for wall in walls)
        self._front, self._back = front[:, None], back[:, None]
        self._lean = np.cos(np.arctan(np.gradient(back, rows)))[:, None].astype(np.float32)
        middles = np.array([(body.middle[1], body.lateral) for body in reversed(bodies)])
        self._drift = _smooth(np.interp(rows, *middles.T), rows, 10)[:, None].astype(np.float32)
        named = {body.name: body for body in bodies}
        self._conus = float(named["L1"].middle[1]) + given.conus
        self._sac_end = float(named["S2"].middle[1])
        self._fork = float(named["L4"].middle[1])
        # The skin of the back hangs between the chest and the sacrum and follows the column loosely.
        behind = _smooth(back, rows, 45) + given.canal + given.muscle
        self._skin = (behind + given.back_fat * (1 + 0.2 * _wave(rng, rows)))[:, None].astype(np.float32)
        self._fascia = behind[:, None].astype(np.float32)
        self._belly = (_smooth(front, rows, 90) - given.belly * (1 + 0.12 * _wave(rng, rows)))[:, None].astype(
            np.float32
        )
        self._stripe = (given.stripe * (1 + 0.6 * _wave(rng, rows, 40)))[:, None].clip(0.8).astype(np.float32)
        self._coarse = Noise(rng, grid, 17, 13, 9)
        self._fine = Noise(rng, grid, 3.5, 3, 5)
        self._strands = Noise(rng, grid, 16, 2.4, 5)
        self._roots = Noise(rng, grid, 60, 1.3, 4)
        self._vary = rng.normal(0, 1, (len(bodies), 6)).astype(np.float32)

    def draw(self, index: int, mask: Array) -> Array:
        """Slice `index` (rows, columns) float32; marks the canal in its mask (rows, columns) uint8."""
        grid, given = self._grid, self._given
        columns = grid.columns[None]
        off = np.float32(grid.x[index]) - self._drift
        behind = (columns - self._back) * self._lean
        before = (self._front - columns) * self._lean
        coarse, fine, strands = self._coarse.slice(index), self._fine.slice(index), self._strands.slice(index)
        soft = np.float32(grid.pixel)

        signal = self._abdomen(before, coarse, fine, off)
        # Muscles of the back with strands of fat; beside the bodies the psoas.
        wasted = np.float32(0.55 * given.streaks)
        lean = _MUSCLE * (1 + 0.12 * fine) + wasted * ramp(strands - (2.1 - given.streaks), 1.2)
        over(signal, lean, ramp(behind + 4, 6))
        psoas = ramp(np.abs(off) - 21, 6)
        over(signal, _MUSCLE * (1.1 + 0.12 * fine), psoas * ramp(12 - before, 6) * ramp(6 - behind, 6))
        self._arches(signal, behind, off, fine, soft)
        self._canal(signal, mask, behind, off, self._along_canal(behind, self._roots.slice(index)), soft)
        # Under the skin, and outside it.
        over(signal, FAT * (1 + 0.05 * fine), ramp(columns - self._fascia, 2 * soft + 1))
        septum = np.exp(-(((columns - (self._fascia + 0.45 * (self._skin - self._fascia))) / 0.7) ** 2))
        signal *= 1 - np.float32(0.5) * septum
        over(signal, FAT * (1 + 0.05 * fine), ramp(self._belly + given.front_fat - columns, 2 * soft + 1))
        over(signal, 0.45, ramp(columns - self._skin, soft) + ramp(self._belly - columns, soft))
        over(signal, 0.0, ramp(columns - self._skin - 1.6, soft) + ramp(self._belly - 1.6 - columns, soft))
        return signal

    def _abdomen(self, before: Array, coarse: Array, fine: Array, off: Array) -> Array:
        """Bowel, its fat and gas, the muscle of the wall, vessels and the fat before the column."""
        given, soft = self._given, np.float32(self._grid.pixel)
        rows, columns = self._grid.rows[:, None], self._grid.columns[None]
        mixed = 0.75 * coarse + 0.5 * fine
        signal = 0.26 + 0.12 * mixed
        over(signal, 0.6 + 0.1 * fine, ramp(mixed - 1.3, 0.5))
        over(signal, 0.04, ramp(-1.2 - mixed, 0.5))
        np.maximum(signal, 0.02, out=signal)
        signal *= given.before
        wall = self._belly + given.front_fat
        over(signal, _MUSCLE * (1 + 0.1 * fine), ramp(columns - wall, 2) * ramp(wall + 11 - columns, 3))
        # The aorta lies to the left of the middle, the vena cava to the right; both fork before L4.
        for side, wide in ((11.0, given.aorta), (-12.0, given.aorta + 3)):
            across = np.clip(1 - ((off - np.float32(side)) / np.float32(0.62 * wide)) ** 2, 0, 1)
            bore = np.float32(wide / 2) * np.sqrt(across) * ramp(self._fork - rows, 14)
            centre = self._stripe + np.float32(2.5 + wide / 2)
            over(signal, 0.05 + 0.03 * np.abs(fine), ramp(bore - np.abs(before - centre), 1.5 * soft))
        stripe = ramp(before - 1.0, soft) * ramp(self._stripe + 1.0 - before, 1.5 * soft + 0.6)
        over(signal, FAT * (0.95 + 0.12 * coarse), stripe)
        over(signal, LIGAMENT, ramp(1.1 - before, soft) * ramp(before + 6, soft))
        return np.asarray(signal, np.float32)

    def _canal(self, signal: Array, mask: Array, behind: Array, off: Array, roots: Array, soft: np.float32) -> None:
        """The dural sac with fluid, cord and roots, fat around it, ligaments before and behind."""
        given, rows = self._given, self._grid.rows[:, None]
        round_ = np.sqrt(np.clip(1 - (off / np.float32(11.5)) ** 2, 0, 1))
        taper = np.clip((self._sac_end - rows) / 75, 0, 1) ** 0.5
        wide = np.float32(given.canal) * round_
        sac = wide * taper
        middle = np.float32(1.3 + given.canal * 0.47) + np.float32(given.canal * 0.12) * (1 - taper)
        fat = ramp(wide / 2 + 0.8 - np.abs(behind - np.float32(1 + given.canal / 2)), 1.5 * soft)
        over(signal, FAT * 0.9, fat)
        inside = sac / 2 - np.abs(behind - middle)
        over(signal, LIGAMENT * 1.5, ramp(inside + 0.9, soft) * (taper > 0))
        fluid = given.fluid * (1 - 0.05 * np.abs(roots))
        # Below the conus the roots lie at the back of the sac, spread less and less.
        share = np.clip((rows - self._conus + 8) / 16, 0, 1)
        tail = share * ramp(behind - middle - 0.12 * sac + 2.5 * (rows - self._conus) / 100, 3)
        fluid -= np.float32(0.42) * tail * ramp(roots + 0.1, 1.4)
        over(signal, fluid, ramp(inside, 1.2 * soft) * (taper > 0))
        cord = np.float32(3.7) * np.sqrt(np.clip((self._conus - rows) / 28, 0, 1)) * np.clip(1 - (off / 6) ** 2, 0, 1)
        over(signal, _CORD, ramp(cord - np.abs(behind - middle), 1.5 * soft) * (cord > 0))
        mask[inside > 0] = CANAL

    def _along_canal(self, behind: Array, texture: Array) -> Array:
        """A texture (rows, columns) bent so that its columns follow the canal."""
        place = (behind + 20) * np.float32(1 / self._grid.pixel)
        rows = np.repeat(np.arange(len(place), dtype=np.float32)[:, None], place.shape[1], axis=1)
        return np.asarray(cv2.remap(texture, place, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))

    def _arches(self, signal: Array, behind: Array, off: Array, fine: Array, soft: np.float32) -> None:
        """Spinous processes in the middle, laminae beside them, then pedicles, facets and foramina."""
        back = np.float32(self._given.canal + 1)
        for body, vary in zip(self._bodies, self._vary, strict=True):
            if body.name in ("S3", "S4"):
                continue
            high, low = float(body.corners[1, 1]), float(body.corners[2, 1])
            left, right = float(body.corners[1:3, 0].min()), float(body.corners[1:3, 0].max())
            window = self._grid.window(np.array(((left - 14, high - 6), (right + 58, low + 32))), 0.0)
            if window is None:
                continue
            arch = Arch(self._grid.rows[window[0], None], behind[window], np.abs(off[window[0]]), high, low, back, soft)
            marrow = np.float32(self._given.marrow) * (1 + 0.1 * fine[window])
            aside = float(arch.away.min())
            if aside < 23 and float(arch.away.max()) > 8:
                arch.sides(signal[window], marrow, vary)
            if aside < 10:
                arch.middle(signal[window], marrow, vary, body.name)


def _curve(rows: Array, wall: Array) -> Array:
    """Column of a wall at each row, through (n, 2) corners from above."""
    order = np.argsort(wall[:, 1])
    return _smooth(np.interp(rows, wall[order, 1], wall[order, 0]), rows, 4).astype(np.float32)


def _smooth(values: Array, rows: Array, sigma: float) -> Array:
    """A Gaussian average of a curve; sigma in mm."""
    pixels = sigma / float(rows[1] - rows[0])
    kernel = cv2.getGaussianKernel(2 * int(3 * pixels) + 1, pixels).ravel()
    return np.convolve(np.pad(values, len(kernel) // 2, mode="edge"), kernel, mode="valid")


def _wave(rng: np.random.Generator, rows: Array, period: float = 300) -> Array:
    """A slow undulation of amplitude about 1."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    return 0.6 * np.sin(2 * np.pi * rows / period + phase[0]) + 0.4 * np.sin(
        2 * np.pi * rows / (0.47 * period) + phase[1]
    )
