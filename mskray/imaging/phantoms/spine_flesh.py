"""What lies around the bodies and discs of a phantom spine: canal, arches, muscle, fat, vessels, bowel, skin.

Everything follows the front and the back wall of the column of bodies: a point is placed by its row, by its distance
behind or before the wall there, and by its distance from the middle of the spine. It is there so that a detector has to
tell bodies from what resembles them. Signals are relative to cerebrospinal fluid = 1, lengths in mm.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mskray.imaging.phantoms.spine_bone import Grid, ramp
from mskray.imaging.phantoms.spine_build import Array, Body

_MUSCLE, _FAT, _CORD, _LIGAMENT, _FLUID = 0.17, 0.88, 0.46, 0.06, 1.0
CANAL = 100  # in masks, as SPIDER has it


@dataclass(frozen=True)
class Habitus:
    """A patient's soft parts. `marrow` is that of the arches."""

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


class Noise:
    """Smooth random textures of a volume, standard normal: one draw, any slice."""

    def __init__(self, rng: np.random.Generator, grid: Grid, rows_mm: float, columns_mm: float, slices_mm: float):
        """Grain of a given size (mm) along the three axes."""
        slices, rows, columns = grid.shape
        pitch = abs(float(grid.x[1] - grid.x[0]))
        self._size = columns, rows
        self._step = pitch / max(slices_mm, pitch)
        coarse = (
            int((slices - 1) * self._step) + 2,
            max(int(rows * grid.pixel / rows_mm), 2),
            max(int(columns * grid.pixel / columns_mm), 2),
        )
        self._planes = rng.standard_normal(coarse, dtype=np.float32)

    def slice(self, index: int) -> Array:
        """(rows, columns) float32."""
        at, part = divmod(index * self._step, 1)
        first = self._planes[int(at)]
        plane = first if part == 0 else first * np.float32(1 - part) + self._planes[int(at) + 1] * np.float32(part)
        plane = plane * np.float32(1.3 / np.hypot(1 - part, part))
        return np.asarray(cv2.resize(plane, self._size, interpolation=cv2.INTER_CUBIC))


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
        self._skin = (behind + given.back_fat * (1 + 0.25 * _wave(rng, rows)))[:, None].astype(np.float32)
        self._fascia = behind[:, None].astype(np.float32)
        self._belly = (_smooth(front, rows, 90) - given.belly * (1 + 0.12 * _wave(rng, rows)))[:, None].astype(np.float32)
        self._stripe = (given.stripe * (1 + 0.6 * _wave(rng, rows, 40)))[:, None].clip(0.8).astype(np.float32)
        self._coarse = Noise(rng, grid, 13, 10, 8)
        self._fine = Noise(rng, grid, 3.5, 3, 5)
        self._strands = Noise(rng, grid, 16, 2.4, 5)
        self._roots = Noise(rng, grid, 60, 1.3, 4)

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
        _over(signal, lean, ramp(behind + 4, 6))
        psoas = ramp(np.abs(off) - 19, 6) * ramp(before - 2, 8)[:, :] * 0 + ramp(np.abs(off) - 21, 6)
        _over(signal, _MUSCLE * (1.1 + 0.12 * fine), psoas * ramp(12 - before, 6) * ramp(6 - behind, 6))
        self._arches(signal, behind, off, fine, soft)
        self._canal(signal, mask, behind, off, self._roots.slice(index), soft)
        # Under the skin, and outside it.
        _over(signal, _FAT * (1 + 0.05 * fine), ramp(columns - self._fascia, 2 * soft + 1))
        septum = np.exp(-(((columns - (self._fascia + 0.45 * (self._skin - self._fascia))) / 0.7) ** 2))
        signal *= 1 - np.float32(0.5) * septum
        _over(signal, _FAT * (1 + 0.05 * fine), ramp(self._belly + given.front_fat - columns, 2 * soft + 1))
        _over(signal, 0.45, ramp(columns - self._skin, soft) + ramp(self._belly - columns, soft))
        _over(signal, 0.0, ramp(columns - self._skin - 1.6, soft) + ramp(self._belly - 1.6 - columns, soft))
        return signal

    def _abdomen(self, before: Array, coarse: Array, fine: Array, off: Array) -> Array:
        """Bowel, its fat and gas, the muscle of the wall, vessels and the fat before the column."""
        given, soft = self._given, np.float32(self._grid.pixel)
        rows, columns = self._grid.rows[:, None], self._grid.columns[None]
        signal = 0.28 + 0.13 * coarse + 0.07 * fine
        _over(signal, 0.75 + 0.08 * fine, ramp(coarse - 1.15, 0.25))
        _over(signal, 0.03, ramp(-1.25 - coarse, 0.25))
        np.maximum(signal, 0.02, out=signal)
        signal *= given.before
        wall = self._belly + given.front_fat
        _over(signal, _MUSCLE * (1 + 0.1 * fine), ramp(columns - wall, 2) * ramp(wall + 11 - columns, 3))
        # The aorta lies to the left of the middle, the vena cava to the right; both fork before L4.
        for side, wide in ((11.0, given.aorta), (-12.0, given.aorta + 3)):
            across = np.clip(1 - ((off - np.float32(side)) / np.float32(0.62 * wide)) ** 2, 0, 1)
            bore = np.float32(wide / 2) * np.sqrt(across) * ramp(self._fork - rows, 14)
            centre = self._stripe + np.float32(2.5 + wide / 2)
            _over(signal, 0.05 + 0.03 * np.abs(fine), ramp(bore - np.abs(before - centre), 1.5 * soft))
        stripe = ramp(before - 1.0, soft) * ramp(self._stripe + 1.0 - before, 1.5 * soft + 0.6)
        _over(signal, _FAT * (0.95 + 0.12 * coarse), stripe)
        _over(signal, _LIGAMENT, ramp(1.1 - before, soft) * ramp(before + 6, soft))
        return np.asarray(signal, np.float32)

    def _canal(self, signal: Array, mask: Array, behind: Array, off: Array, roots: Array, soft: np.float32) -> None:
        """The dural sac with fluid, cord and roots, fat around it, ligaments before and behind."""
        given, rows = self._given, self._grid.rows[:, None]
        round_ = np.sqrt(np.clip(1 - (off / np.float32(11.5)) ** 2, 0, 1))
        taper = np.clip((self._sac_end - rows) / 70, 0, 1) ** 0.6
        wide = np.float32(given.canal) * round_
        sac = wide * (0.35 + 0.65 * taper) * (taper > 0)
        middle = np.float32(1.3 + given.canal * 0.47) + np.float32(given.canal * 0.1) * (1 - taper)
        fat = ramp(wide / 2 + 0.8 - np.abs(behind - np.float32(1 + given.canal / 2)), 1.5 * soft)
        _over(signal, _FAT * 0.9, fat)
        inside = sac / 2 - np.abs(behind - middle)
        _over(signal, _LIGAMENT * 1.5, ramp(inside + 0.9, soft))
        fluid = given.fluid * (1 - 0.05 * np.abs(roots))
        # Below the conus the roots lie at the back of the sac, spread less and less.
        share = np.clip((rows - self._conus + 8) / 16, 0, 1)
        tail = share * ramp(behind - middle - 0.12 * sac + 2.5 * (rows - self._conus) / 100, 3)
        fluid -= np.float32(0.42) * tail * ramp(roots + 0.1, 1.4)
        _over(signal, fluid, ramp(inside, 1.2 * soft))
        cord = np.float32(3.7) * np.sqrt(np.clip((self._conus - rows) / 28, 0, 1)) * np.clip(1 - (off / 6) ** 2, 0, 1)
        _over(signal, _CORD, ramp(cord - np.abs(behind - middle), 1.5 * soft) * (cord > 0))
        mask[inside > 0] = CANAL

    def _arches(self, signal: Array, behind: Array, off: Array, fine: Array, soft: np.float32) -> None:
        """Spinous processes in the middle, laminae beside them, then pedicles, facets and foramina."""
        given, grid = self._given, self._grid
        bone = np.float32(given.marrow) * (1 + 0.1 * fine)
        back = np.float32(given.canal + 1)
        away = np.abs(off)
        for above, body in zip((*self._bodies[1:], None), self._bodies, strict=True):
            if body.name in ("S3", "S4"):
                continue
            low, high = float(body.corners[2, 1]), float(body.corners[1, 1])
            window = grid.window(np.array(((-500.0, high - 25), (500.0, low + 35))), 0.0)
            if window is None:
                continue
            here = window[0]
            rows, q, side = grid.rows[here, None], behind[here], away[here]
            sacral = body.name.startswith("S")
            height = low - high
            part = signal[here]
            # Fat in the foramen below the pedicle, with the root in its upper half.
            hole_row = low + 1.5
            lateral = ramp(side - 10.5, 4) * ramp(21 - side, 5)
            hole = 1 - np.hypot((q - 5.5) / 6.5, (rows - hole_row) / np.float32(0.36 * height))
            _over(part, _FAT * 0.85, ramp(hole, 0.25) * lateral)
            root = 1 - np.hypot(q - 5.5, rows - (hole_row - 3)) / 2.8
            _over(part, 0.3, ramp(root, 0.3) * lateral)
            self._bone(part, bone[here], _box(q - 5, rows - (high + 0.34 * height), 9.5, 6.3), lateral, soft)
            # Articular processes: bony columns behind the foramina, parted by dark joints.
            facet = _oval(q - (back + 3.5), rows - (low + 0.5), 6.5, 0.5 * height)
            self._bone(part, bone[here], facet, ramp(side - 9, 4) * ramp(23 - side, 5), soft)
            joint = np.exp(-(((q - (back + 3.5) - 0.25 * (rows - low)) / 0.9) ** 2)) * (np.abs(rows - low) < 8)
            part *= 1 - np.float32(0.85) * joint * ramp(side - 9, 4) * ramp(23 - side, 5)
            lamina = _oval(q - (back + 2.5 + 0.12 * (rows - low)), rows - (low - 0.05 * height), 3.2, 0.42 * height)
            self._bone(part, bone[here], lamina, ramp(side - 2, 3) * ramp(13 - side, 4), soft)
            if not sacral and above is not None:
                length = 28 if body.name in LONG else 24
                droop = 0.28 if body.name in LONG else 0.6
                spike = _box(
                    q - (back + 5 + length / 2), rows - (low - 0.02 * height + droop * (q - back - 5)), length / 2, 0.32 * height
                )
                middle = ramp(5 - side, 4)
                # Fat behind the sac, between the arches: a triangle on the midline.
                gap = _oval(q - (back + 2), rows - (low + 0.5 * height), 4.2, 0.42 * height)
                _over(part, _FAT * 0.95, ramp(gap, 1.5) * ramp(8 - side, 5))
                self._bone(part, bone[here], spike, middle, soft)

    def _bone(self, part: Array, marrow: Array, depth: Array, presence: Array, soft: np.float32) -> None:
        """Marrow inside a depth of 1 mm, dark compact bone around it."""
        value = _LIGAMENT + (marrow - _LIGAMENT) * ramp(depth - 1.2, 1.2 * soft)
        _over(part, value, ramp(depth, 1.2 * soft) * presence)


LONG = ("L1", "L2", "L3", "L4", "L5")


def _over(signal: Array, value: "Array | float", cover: Array) -> None:
    """Lays `value` over `signal` where `cover` is 1, in place."""
    signal += (value - signal) * np.minimum(cover, 1)


def _box(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm) inside a rectangle."""
    return np.minimum(half_across - np.abs(across), half_along - np.abs(along))


def _oval(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm, roughly) inside an ellipse."""
    far = np.hypot(across / np.float32(half_across), along / np.float32(half_along))
    return np.asarray((1 - far) * np.float32(min(half_across, half_along)))


def _curve(rows: Array, wall: Array) -> Array:
    """Column of a wall at each row, through (n, 2) corners from above."""
    order = np.argsort(wall[:, 1])
    return _smooth(np.interp(rows, wall[order, 1], wall[order, 0]), rows, 4).astype(np.float32)


def _smooth(values: Array, rows: Array, sigma: float) -> Array:
    """A Gaussian average of a curve; sigma in mm."""
    pixels = sigma / float(rows[1] - rows[0])
    kernel = cv2.getGaussianKernel(2 * int(3 * pixels) + 1, pixels).ravel()
    return np.convolve(np.pad(values, len(kernel) // 2, mode="edge"), kernel, mode="valid")


def _wave(rng: np.random.Generator, rows: Array, period: float = 110) -> Array:
    """A slow undulation of amplitude about 1."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    return 0.6 * np.sin(2 * np.pi * rows / period + phase[0]) + 0.4 * np.sin(2 * np.pi * rows / (0.47 * period) + phase[1])
