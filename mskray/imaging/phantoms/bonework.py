"""From rays through a bone to attenuation: cortex, trabeculae, and the normal variants that look like disease.

Growth plates cross a child's bone like fractures do; nutrient canals are dark lines in the cortex; bone islands and
soft lucencies mimic lesions. They occur at the same rate in normal and abnormal studies, so a model has to learn
more than "a dark line" or "a spot".
"""

from functools import lru_cache

import cv2
import numpy as np

from mskray.imaging.phantoms.shapes import Array, Paint, look_up

# Net of the soft tissue that the bone replaces, per mm, at about 55 kV.
CORTEX_PER_MM = 0.062
SPONGE_PER_MM = 0.017

_TILE = 512
_TILE_PX_PER_MM = 5.0
_LEVELS = 5


def attenuation(paint: Paint, size: float, rng: np.random.Generator) -> Array:
    """Attenuation (rows, columns) of a painted bone; `size` turns reference mm into the patient's own.

    Long bones hold marrow in mid-shaft and spongy bone at their ends, whence the factor along the length.
    """
    tube = paint.shadow.tube
    inner = paint.inner
    grain = _trabeculae(paint, rng)
    grain *= np.float32(0.2)
    grain += 1
    if tube.length > 60:
        along = np.linspace(-1, 1, 65, dtype=np.float32)[None]
        grain *= look_up(0.45 + 0.55 * along**2, paint.along * np.float32(1 / paint.shadow.length))
    grain *= inner
    grain *= np.float32(SPONGE_PER_MM / CORTEX_PER_MM)
    grain += paint.outer
    grain -= inner
    grain *= np.float32(CORTEX_PER_MM * tube.density * size)
    return grain


def vary(paint: Paint, bone: Array, rng: np.random.Generator, child: bool) -> None:
    """Draws normal variants into the attenuation of one bone, in place."""
    tube, shadow = paint.shadow.tube, paint.shadow
    for place in tube.growth if child else ():
        _growth_plate(paint, bone, place, rng)
    chance = rng.random(4)
    spot = rng.uniform(0.2, 0.8), rng.uniform(-0.5, 0.5)
    half = shadow.station(spot[0])[1]
    if half < 1.5:
        return
    if tube.length > 35 and chance[0] < 0.25:
        _nutrient_canal(paint, bone, spot[0], half, rng)
    if chance[1] < 0.05:
        _spot(paint, bone, spot, rng.uniform(0.1, 0.2) * half, 0.45)
    if chance[2] < 0.10:
        _spot(paint, bone, (rng.uniform(0.1, 0.9), spot[1]), rng.uniform(0.4, 0.8) * half, -0.2)
    if tube.name == "humerus":
        # The olecranon fossa: thin bone above the elbow.
        _spot(paint, bone, (0.925, -0.1), 0.42 * shadow.station(0.925)[1] * abs(shadow.side[0]), -0.34)


def _growth_plate(paint: Paint, bone: Array, place: float, rng: np.random.Generator) -> None:
    scale = paint.shadow.px_per_mm
    thick = rng.uniform(0.6, 1.1) * scale * min(1.0, 0.35 + paint.shadow.tube.half_width(place) / 14)
    wave = rng.uniform(0.3, 1.0) * scale
    turn = paint.across * np.float32(rng.uniform(0.25, 0.45) / scale) + np.float32(rng.uniform(0, 6))
    distance = np.abs(paint.along - np.float32(place * paint.shadow.length) + np.float32(wave) * np.sin(turn))
    distance *= np.float32(1 / max(thick, 0.55))
    gap = np.exp(-(distance**2))
    border = np.exp(-((distance - 2.2) ** 2))
    bone *= 1 - np.float32(rng.uniform(0.35, 0.6)) * gap + np.float32(0.15) * border


def _nutrient_canal(paint: Paint, bone: Array, place: float, half: float, rng: np.random.Generator) -> None:
    """A thin dark oblique line that ends within the bone."""
    side = 1 if rng.random() < 0.5 else -1
    run = rng.uniform(1.2, 2.4) * half
    along = paint.along - np.float32(place * paint.shadow.length)
    across = paint.across * np.float32(side)
    distance = across - np.float32(0.75 * half) + along * np.float32(rng.uniform(0.25, 0.5))
    width = max(rng.uniform(0.3, 0.5) * paint.shadow.px_per_mm, 0.5)
    ends = np.clip(1.5 - np.abs(along) * np.float32(2.0 / run), 0, 1)
    bone *= 1 - np.float32(rng.uniform(0.18, 0.32)) * ends * np.exp(-((distance * np.float32(1 / width)) ** 2))


def _spot(paint: Paint, bone: Array, place: tuple[float, float], radius: float, strength: float) -> None:
    """A soft round brightening (bone island) or darkening (normal lucency) at (fraction of length, of half-width)."""
    if radius < 0.5:
        return
    half = paint.shadow.station(place[0])[1]
    along = paint.along - np.float32(place[0] * paint.shadow.length)
    across = paint.across - np.float32(place[1] * half)
    along *= along
    across *= across
    along += across
    along *= np.float32(-1 / radius**2)
    np.exp(along, out=along)
    along *= np.float32(strength)
    along += 1
    bone *= along


def _trabeculae(paint: Paint, rng: np.random.Generator) -> Array:
    """Unit-variance grain that runs along the bone, sampled at the image's own scale."""
    px_per_mm = paint.shadow.px_per_mm
    level = min(max(int(np.floor(np.log2(_TILE_PX_PER_MM / px_per_mm) + 0.5)), 0), _LEVELS - 1)
    tile = _tiles()[level]
    step = np.float32(_TILE_PX_PER_MM / 2**level / px_per_mm)
    start = rng.uniform(0, tile.shape[0], 2).astype(np.float32)
    return cv2.remap(
        tile,
        paint.across * step + start[0],
        paint.along * step + start[1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


@lru_cache(maxsize=1)
def _tiles() -> tuple[Array, ...]:
    """The grain at 5, 2.5 … px per mm: struts along and across the bone over a cloudy ground; seamless.

    One fixed texture serves all bones; each takes its own random stretch of it.
    """
    rng = np.random.default_rng(20_170_601)
    white = [rng.standard_normal((_TILE, _TILE)).astype(np.float32) for _ in range(3)]
    parts = [
        _smoothed(noise, *sigma) * weight
        for noise, sigma, weight in zip(white, ((9.0, 1.1), (1.1, 4.0), (7.0, 7.0)), (1.0, 0.45, 0.7), strict=True)
    ]
    grain = np.sum(parts, axis=0)
    levels = []
    for _ in range(_LEVELS):
        levels.append(np.ascontiguousarray(grain / grain.std(), np.float32))
        grain = cv2.resize(grain, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # Averaging tames grain; what is left after it must not be blown up to full strength again.
    return tuple(level * np.float32(0.85**i) for i, level in enumerate(levels))


def _smoothed(noise: Array, down: float, right: float) -> Array:
    frequency = np.fft.fftfreq(_TILE)
    gain = np.exp(-2 * np.pi**2 * ((frequency[:, None] * down) ** 2 + (frequency[None] * right) ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(noise) * gain).real
    return np.asarray(smooth / smooth.std(), np.float32)
