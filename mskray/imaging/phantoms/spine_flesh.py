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
        self._skin = (behind + given.back_fat * (1 + 0.2 * _wave(rng, rows)))[:, None].astype(np.float32)
        self._fascia = behind[:, None].astype(np.float32)
        self._belly = (_smooth(front, rows, 90) - given.belly * (1 + 0.12 * _wave(rng, rows)))[:, None].astype(np.float32)
        self._stripe = (given.stripe * (1 + 0.6 * _wave(rng, rows, 40)))[:, None].clip(0.8).astype(np.float32)
        self._coarse = Noise(rng, grid, 17, 13, 9)
        self._fine = Noise(rng, grid, 3.5, 3, 5)
        self._strands = Noise(rng, grid, 16, 2.4, 5)
        self._roots = Noise(rng, grid, 60, 1.3, 4)
        arches = len(bodies)
        self._vary = rng.normal(0, 1, (arches, 6)).astype(np.float32)

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
        psoas = ramp(np.abs(off) - 21, 6)
        _over(signal, _MUSCLE * (1.1 + 0.12 * fine), psoas * ramp(12 - before, 6) * ramp(6 - behind, 6))
        self._arches(signal, behind, off, fine, soft)
        self._canal(signal, mask, behind, off, self._along_canal(behind, self._roots.slice(index)), soft)
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
        mixed = 0.75 * coarse + 0.5 * fine
        signal = 0.26 + 0.12 * mixed
        _over(signal, 0.6 + 0.1 * fine, ramp(mixed - 1.3, 0.5))
        _over(signal, 0.04, ramp(-1.2 - mixed, 0.5))
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
        taper = np.clip((self._sac_end - rows) / 75, 0, 1) ** 0.5
        wide = np.float32(given.canal) * round_
        sac = wide * taper
        middle = np.float32(1.3 + given.canal * 0.47) + np.float32(given.canal * 0.12) * (1 - taper)
        fat = ramp(wide / 2 + 0.8 - np.abs(behind - np.float32(1 + given.canal / 2)), 1.5 * soft)
        _over(signal, _FAT * 0.9, fat)
        inside = sac / 2 - np.abs(behind - middle)
        _over(signal, _LIGAMENT * 1.5, ramp(inside + 0.9, soft) * (taper > 0))
        fluid = given.fluid * (1 - 0.05 * np.abs(roots))
        # Below the conus the roots lie at the back of the sac, spread less and less.
        share = np.clip((rows - self._conus + 8) / 16, 0, 1)
        tail = share * ramp(behind - middle - 0.12 * sac + 2.5 * (rows - self._conus) / 100, 3)
        fluid -= np.float32(0.42) * tail * ramp(roots + 0.1, 1.4)
        _over(signal, fluid, ramp(inside, 1.2 * soft) * (taper > 0))
        cord = np.float32(3.7) * np.sqrt(np.clip((self._conus - rows) / 28, 0, 1)) * np.clip(1 - (off / 6) ** 2, 0, 1)
        _over(signal, _CORD, ramp(cord - np.abs(behind - middle), 1.5 * soft) * (cord > 0))
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
            arch = _Arch(self._grid.rows[window[0], None], behind[window], np.abs(off[window[0]]), high, low, back, soft)
            marrow = np.float32(self._given.marrow) * (1 + 0.1 * fine[window])
            aside = float(arch.away.min())
            if aside < 23 and float(arch.away.max()) > 8:
                arch.sides(signal[window], marrow, vary)
            if aside < 10:
                arch.middle(signal[window], marrow, vary, body.name)


@dataclass(frozen=True)
class _Arch:
    """The arch of one vertebra on a window: rows (n, 1), distance behind the wall (n, m), `away` from the middle (n, 1).

    high, low: rows of the back corners of its body; back: depth of the canal.
    """

    rows: Array
    q: Array
    away: Array
    high: float
    low: float
    back: np.float32
    soft: np.float32

    def sides(self, part: Array, marrow: Array, vary: Array) -> None:
        """Foramen with its root, pedicle, articular processes with their joint."""
        rows, q, height = self.rows, self.q, self.low - self.high
        lateral = ramp(self.away - 10.5, 4) * ramp(21 - self.away, 5)
        hole_row = self.low + 1.5
        hole = 1 - np.hypot((q - 5.5) * np.float32(1 / 6.5), (rows - hole_row) * np.float32(1 / (0.36 * height)))
        _over(part, _FAT * 0.85, ramp(hole, 0.25) * lateral)
        root = 1 - np.hypot(q - 5.5, rows - (hole_row - 3)) * np.float32(1 / 2.8)
        _over(part, 0.3, ramp(root, 0.3) * lateral)
        self._bone(part, marrow, _box(q - 5, rows - (self.high + 0.34 * height), 9.5, 6.3 + 0.5 * vary[0]), lateral)
        facets = ramp(self.away - 10, 4) * ramp(23 - self.away, 5)
        across, along = q - (self.back + 4 + vary[1]), rows - (self.low + 0.5 + vary[2])
        self._bone(part, marrow, _oval(across + 0.2 * along, along, 7.0, 0.55 * height), facets)
        joint = np.exp(-(((across - 0.35 * along) * np.float32(1 / 0.9)) ** 2)) * (np.abs(along) < 8)
        part *= 1 - np.float32(0.85) * joint * facets

    def middle(self, part: Array, marrow: Array, vary: Array, name: str) -> None:
        """Lamina, the fat between arches, the spinous process."""
        rows, q, height = self.rows, self.q, self.low - self.high
        across, along = q - (self.back + 2.5), rows - (self.low - 0.05 * height)
        lamina = _oval(across - 0.12 * along, along, 3.2 + 0.3 * vary[3], 0.42 * height)
        self._bone(part, marrow, lamina, ramp(self.away - 3, 3) * ramp(11 - self.away, 4))
        if name.startswith("S"):
            return
        lumbar = name.startswith("L")
        # Fat behind the sac, between the arches.
        gap = _oval(q - (self.back + 2), rows - (self.low + 0.5 * height), 3.5 + vary[3], 0.4 * height)
        _over(part, _FAT * 0.95, ramp(gap, 1.5) * ramp(8 - self.away, 5))
        long = (28 if lumbar else 24) + 2.5 * vary[4]
        droop = (0.28 if lumbar else 0.6) + 0.1 * vary[5]
        out = q - (self.back + 5 + long / 2)
        spike = _blunt(out, rows - (self.low + 1.5 * vary[2] + droop * (out + long / 2)), long / 2, (0.27 + 0.04 * vary[0]) * height)
        self._bone(part, marrow, spike, ramp(4 - self.away, 4))

    def _bone(self, part: Array, marrow: Array, depth: Array, presence: Array) -> None:
        """Marrow inside, dark compact bone of about 1 mm around it."""
        value = _LIGAMENT + (marrow - _LIGAMENT) * ramp(depth - 1.2, 1.2 * self.soft)
        _over(part, value, ramp(depth, 1.2 * self.soft) * presence)


def _over(signal: Array, value: "Array | float", cover: Array) -> None:
    """Lays `value` over `signal` where `cover` is 1, in place."""
    signal += (value - signal) * np.minimum(cover, 1)


def _box(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm) inside a rectangle."""
    return np.minimum(half_across - np.abs(across), half_along - np.abs(along))


def _oval(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm, roughly) inside an ellipse."""
    far = np.hypot(across * np.float32(1 / half_across), along * np.float32(1 / half_along))
    return np.asarray((1 - far) * np.float32(min(half_across, half_along)))


def _blunt(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm, roughly) inside a rectangle with blunt ends."""
    far = (across * np.float32(1 / half_across)) ** 4 + (along * np.float32(1 / half_along)) ** 4
    return np.asarray((1 - np.sqrt(np.sqrt(far))) * np.float32(min(half_across, half_along)))


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
    return 0.6 * np.sin(2 * np.pi * rows / period + phase[0]) + 0.4 * np.sin(2 * np.pi * rows / (0.47 * period) + phase[1])
