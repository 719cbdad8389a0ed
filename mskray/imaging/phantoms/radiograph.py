"""Puts a phantom radiograph together: anatomy, abnormalities, clutter, flag, exposure; pixels and exact truth.

`render` is a pure function of (spec, study index, view index), so images can be made by any worker in any order.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mskray.errors import UserError
from mskray.imaging.phantoms import abnormalities, clutter, exposure
from mskray.imaging.phantoms.anatomy import Build, Framing, Skeleton, build_of, frame, request_of, skeleton_of
from mskray.imaging.phantoms.bonework import attenuation, vary
from mskray.imaging.phantoms.diagnosis import diagnose
from mskray.imaging.phantoms.flags import Flag, flag_of
from mskray.imaging.phantoms.plan import NOISE, VIEW, PhantomSpec, PhantomStudy, stream, study
from mskray.imaging.phantoms.shapes import Array, Camera, Tube, cast, paint

_MUSCLE_PER_MM = 0.0175
_FAT_PER_MM = 0.0135
_METAL_PER_MM = 0.6
_LEAD = 4.5
_TISSUE_SIDE = 384  # soft tissue has no finer detail than this on any image
_LUNG_PER_MM = 0.006


@dataclass(frozen=True, eq=False)
class Finding:
    """Something with a place. kind: "fracture", "implant" or "lesion" (abnormal), or "flag" (not abnormal).

    Args:
        box: (x, y, w, h) in whole pixels, the tight bounds of the finding's pixels.
        mask: (h, w) uint8, 1 on those pixels.
    """

    kind: str
    box: tuple[int, int, int, int]
    mask: Array


@dataclass(frozen=True, eq=False)
class PhantomImage:
    """One image and all that is true of it.

    Args:
        pixels: (rows, columns) uint8 or uint16, MONOCHROME2.
        findings: what the image shows; an abnormal study's image may show nothing abnormal (an occult view).
        mask: (rows, columns) uint8, 1 = abnormal: the union of the abnormal findings.
        label: the study's, 0 normal, 1 abnormal.
        pixel_spacing_mm: (row, column).
    """

    pixels: Array
    findings: tuple[Finding, ...]
    mask: Array
    view: str
    view_index: int
    label: int
    study: PhantomStudy
    pixel_spacing_mm: tuple[float, float]


@dataclass
class Layers:
    """What lies in the beam, (rows, columns) each: attenuation of the patient and of metal, and the truth."""

    anatomy: Array
    metal: Array | None
    bone: Array  # bool: where any bone is
    truths: list[tuple[str, tuple[slice, slice], Array]]


@dataclass
class Scene:
    """One image before it is exposed."""

    study: PhantomStudy
    build: Build
    framing: Framing
    layers: Layers
    worn: tuple[tuple[slice, slice], Array] | None
    flag: Flag | None
    shown: exposure.Technique
    corners: Array


def render(spec: PhantomSpec, study_index: int, view_index: int) -> PhantomImage:
    """Makes one image. UserError when the cohort has no such study or the study no such view."""
    scene = scene_of(spec, study_index, view_index)
    layers, flag = scene.layers, scene.flag
    total = layers.anatomy.copy()
    if layers.metal is not None:
        total += layers.metal
    if scene.worn is not None:
        total[scene.worn[0]] += scene.worn[1]
    lead = None if flag is None else (_slices(flag), np.float32(_LEAD) * flag.stamp)

    mm_per_px = scene.build.size / scene.framing.camera.px_per_mm
    noise = stream(spec.seed, NOISE, study_index, view_index)
    film = exposure.expose(total, layers.anatomy, lead, mm_per_px, scene.shown, noise)
    inside = exposure.collimate(film, scene.corners, scene.shown)
    film *= np.float32(255 if spec.bits == 8 else 65535)
    film += np.float32(0.5)

    found = [_finding(kind, window, pixels & inside[window]) for kind, window, pixels in layers.truths]
    mask = np.zeros(film.shape, np.uint8)
    for finding in found:
        if finding is not None:
            x, y, w, h = finding.box
            mask[y : y + h, x : x + w] |= finding.mask
    if flag is not None:
        found.append(_finding("flag", _slices(flag), (flag.stamp > 0.4) & inside[_slices(flag)]))
    return PhantomImage(
        pixels=film.astype(np.uint8 if spec.bits == 8 else np.uint16),
        findings=tuple(finding for finding in found if finding is not None),
        mask=mask,
        view=scene.study.views[view_index],
        view_index=view_index,
        label=scene.study.label,
        study=scene.study,
        pixel_spacing_mm=(mm_per_px, mm_per_px),
    )


def scene_of(spec: PhantomSpec, study_index: int, view_index: int) -> Scene:
    """Everything in the beam of one image. UserError as `render`."""
    planned = study(spec, study_index)
    if not 0 <= view_index < len(planned.views):
        raise UserError(
            f"phantom view {view_index} of study {study_index}: the study has views 0 to {len(planned.views) - 1}"
        )
    view = planned.views[view_index]
    rng = stream(spec.seed, VIEW, study_index, view_index)
    build = build_of(spec, planned.patient)
    request = request_of(spec, planned)
    skeleton = skeleton_of(planned.body_part, view, request, build)
    framing = frame(skeleton, planned, view, spec.image_size, rng)
    shown = exposure.technique(rng)
    corners = exposure.field_corners(framing.focus, framing.shape, rng)
    first = skeleton_of(planned.body_part, planned.views[0], request, build) if planned.label else skeleton
    wrong = diagnose(spec, planned, first.hosts())
    layers = compose(skeleton, framing, build, tuple(item for item in wrong if view_index not in item.occult), rng)
    worn = clutter.worn_metal(framing.shape, rng)
    field = exposure.upright(corners, framing.shape)
    flag = flag_of(spec, planned, view_index, framing.shape, field, framing.focus)
    return Scene(planned, build, framing, layers, worn, flag, shown, corners)


def compose(
    skeleton: Skeleton,
    framing: Framing,
    build: Build,
    wrong: tuple[abnormalities.Abnormality, ...],
    rng: np.random.Generator,
) -> Layers:
    """Adds up what the beam passes. The random stream is used alike whether or not anything is wrong."""
    shape = framing.shape
    total = _soft_tissue(skeleton, framing, build, rng)
    bone_anywhere = np.zeros(shape, bool)
    metal: Array | None = None
    truths: list[tuple[str, tuple[slice, slice], Array]] = []
    for tube in skeleton.bones:
        # Each bone draws from its own stream: one that leaves the image must not change the next one's grain.
        own = np.random.default_rng(int(rng.integers(2**63)))
        shadow = cast(tube, framing.camera, shape)
        if shadow is None:
            continue
        here = [item for item in wrong if item.bone == tube.name]
        warp = next((item.warp(shadow) for item in here if not isinstance(item, abnormalities.Implant)), None)
        painted = paint(shadow, shape, warp, max((item.room(shadow) for item in here), default=0.0))
        if painted is None:
            continue
        bone = attenuation(painted, build.size, own)
        vary(painted, bone, own, build.child)
        for item in here:
            if isinstance(item, abnormalities.Implant):
                window, depth, pixels = item.draw_metal(painted)
                metal = np.zeros(shape, np.float32) if metal is None else metal
                metal[window] += depth * np.float32(_METAL_PER_MM * build.size)
                truths.append((item.kind, window, pixels))
            else:
                truths.append((item.kind, painted.window, item.draw(painted, bone)))
        total[painted.window] += bone
        bone_anywhere[painted.window] |= painted.outer > 0
    sheet = clutter.folds(shape, rng)
    if sheet is not None:
        # A fold is a fold in something: none in the bare beam.
        total += sheet * np.clip(total * 4, 0, 1)
    return Layers(total, metal, bone_anywhere, truths)


def _soft_tissue(skeleton: Skeleton, framing: Framing, build: Build, rng: np.random.Generator) -> Array:
    """Attenuation of fat and muscle: the tubes' union (the longest way counts, not the sum), less the air in them."""
    rows, columns = framing.shape
    factor = min(1.0, _TISSUE_SIDE / max(rows, columns))
    small = (round(rows * factor), round(columns * factor))
    camera = framing.camera.resized(factor)
    flesh = np.zeros(small, np.float32)
    for tube in skeleton.tissues:
        _into(flesh, tube, camera, np.maximum, _FAT_PER_MM, _MUSCLE_PER_MM)
    clouds = build.size * rng.normal(1, 0.05, (7, 7))
    flesh *= cv2.resize(clouds.astype(np.float32), small[::-1], interpolation=cv2.INTER_CUBIC)
    for tube in skeleton.air:
        _into(flesh, tube, camera, np.subtract, build.size * _LUNG_PER_MM, build.size * _LUNG_PER_MM)
    np.maximum(flesh, 0, out=flesh)
    smooth = cv2.GaussianBlur(flesh, (0, 0), max(1.2 * camera.px_per_mm, 0.6))
    return smooth if factor == 1 else cv2.resize(smooth, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _into(flesh: Array, tube: Tube, camera: Camera, join: np.ufunc, wall: float, inside: float) -> None:
    shape = flesh.shape[0], flesh.shape[1]
    shadow = cast(tube, camera, shape)
    painted = paint(shadow, shape) if shadow else None
    if painted is None:
        return
    way = painted.outer * np.float32(wall) + painted.inner * np.float32(inside - wall)
    flesh[painted.window] = join(flesh[painted.window], way)


def _slices(flag: Flag) -> tuple[slice, slice]:
    x, y, w, h = flag.box
    return slice(y, y + h), slice(x, x + w)


def _finding(kind: str, window: tuple[slice, slice], pixels: Array) -> Finding | None:
    """A finding from its pixels (bool) in a window of the image; None when it has none."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    tight = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    box = (int(window[1].start + columns[0]), int(window[0].start + rows[0]), tight.shape[1], tight.shape[0])
    return Finding(kind, box, tight)
