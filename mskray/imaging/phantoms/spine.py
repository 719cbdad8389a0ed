"""Synthetic sagittal T2-weighted volumes of the lumbar spine, graded, with every body's corners and masks as truth.

    spec = SpineSpec(patients=100, seed=1)
    phantom = spine(spec, 0)
    phantom.volume.pixels, phantom.vertebrae, phantom.discs[0].labels

A spine is a pure function of `(spec, index)`, so any worker can make any of them. Sizes and shares follow anatomy, the
picture a T2-weighted scan; no patient's image was used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mskray.errors import UserError
from mskray.imaging.phantoms.plan import require_float, require_int, stream
from mskray.imaging.phantoms.spine_bone import Bone, disc_look, draw_body, draw_disc, endplates
from mskray.imaging.phantoms.spine_build import BELOW, CHAIN, Array, Body, build
from mskray.imaging.phantoms.spine_flesh import Flesh, habitus
from mskray.imaging.phantoms.spine_grades import DiscGrades, draw_discs
from mskray.imaging.phantoms.spine_paint import Grid, Noise
from mskray.imaging.phantoms.spine_scan import Protocol, protocol, scan
from mskray.imaging.spine import LEVELS, Vertebra
from mskray.imaging.volumes.volume import Volume

# Independent random streams, apart from those of the radiographs. Where changes lie has its own, so that a spine
# with changes has a healthy twin under the same seed with `changes=0`.
_GRADES, _PLACES, _BUILD, _LOOK, _FLESH, _PROTOCOL, _SCAN = range(100, 107)

DISC_MASK = 200  # plus the disc's number from below, as SPIDER has it


@dataclass(frozen=True)
class SpineSpec:
    """A cohort of phantom spines, one volume a patient.

    Args:
        patients: how many.
        seed: 0 or more; the same spec gives the same volumes.
        changes: factor (0–4) on the shares of endplate defects and marrow changes, which are 13–18 % at 1.
        missing: share of labels that are missing, 0–1; half of them because a disc has none at all.

    Raises:
        UserError: a value out of its range, naming the option, the value and what is allowed.
    """

    patients: int
    seed: int = 0
    changes: float = 1.0
    missing: float = 0.06

    def __post_init__(self) -> None:
        require_int("patients", self.patients, 1, 10_000_000)
        require_int("seed", self.seed, 0, 2**63 - 1)
        require_float("changes", self.changes, 0.0, 4.0)
        require_float("missing", self.missing, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Disc:
    """A disc between two bodies.

    Args:
        level: such as "L4/L5".
        upper, lower: the bodies above and below.
        grades: the truth of each of `SPINE_TASKS`, as class index.
        labels: what of it is labelled; None where it is not.
        truth: (slices, rows, columns) bool masks of the changes whose grade is 1, by task. "upper_endplate" and
            "upper_marrow" belong to the body above the disc.
    """

    level: str
    upper: Vertebra
    lower: Vertebra
    grades: dict[str, int]
    labels: dict[str, int | None]
    truth: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class SpinePhantom:
    """A volume with its truth.

    Args:
        volume: sagittal, in the order of `to_sagittal`.
        vertebrae: T12 … S1.
        discs: T12/L1 … L5/S1.
        masks: (slices, rows, columns) uint8 as in SPIDER: 1 for L5, counted upwards; 100 for the canal; 201 for L5/S1,
            counted upwards. The sacrum has none.
    """

    volume: Volume
    vertebrae: tuple[Vertebra, ...]
    discs: tuple[Disc, ...]
    masks: NDArray[np.uint8]


def spines(spec: SpineSpec) -> Iterator[SpinePhantom]:
    """All spines in order of index."""
    return (spine(spec, index) for index in range(spec.patients))


def spine(spec: SpineSpec, index: int) -> SpinePhantom:
    """Spine `index` (0-based) of the cohort. UserError when the cohort has no such spine."""
    if not 0 <= index < spec.patients:
        raise UserError(f"phantom spine {index}: the cohort has spines 0 to {spec.patients - 1}")
    graded = grades(spec, index)
    narrowing = tuple(disc.grades["narrowing"] for disc in graded)
    bodies = build(stream(spec.seed, _BUILD, index), narrowing)
    taken = protocol(stream(spec.seed, _PROTOCOL, index), bodies)
    signal, masks, truth = _draw(spec, index, bodies, graded, taken.grid)
    pixels = scan(stream(spec.seed, _SCAN, index), taken, signal, bodies)
    vertebrae = {body.name: _vertebra(body, taken) for body in bodies if body.name in LEVELS}
    discs = tuple(
        Disc(f"{above}/{below}", vertebrae[above], vertebrae[below], given.grades, given.labels, seen)
        for (above, below), given, seen in zip(pairwise(LEVELS), graded, truth, strict=True)
    )
    return SpinePhantom(_volume(pixels, taken), tuple(vertebrae[level] for level in LEVELS), discs, masks)


def grades(spec: SpineSpec, index: int) -> tuple[DiscGrades, ...]:
    """The truth of the discs T12/L1 … L5/S1 of a spine, without drawing it: for listings."""
    return draw_discs(stream(spec.seed, _GRADES, index), stream(spec.seed, _PLACES, index), spec.changes, spec.missing)


def _draw(
    spec: SpineSpec, index: int, bodies: tuple[Body, ...], graded: tuple[DiscGrades, ...], grid: Grid
) -> tuple[Array, NDArray[np.uint8], list[dict[str, NDArray[np.bool_]]]]:
    """(signal with fluid = 1, masks, masks of changes by disc), all over (slices, rows, columns)."""
    rng = stream(spec.seed, _FLESH, index)
    marrow = float(rng.uniform(0.32, 0.56))
    bodies = tuple(replace(body, marrow=marrow * float(rng.normal(1, 0.04))) for body in bodies)
    flesh = Flesh(rng, grid, bodies, habitus(rng, marrow))
    grain = Noise(rng, grid, 2.2, 2.2, 4)
    masks = np.zeros(grid.shape, np.uint8)
    signal = np.stack([flesh.draw(number, masks[number]) for number in range(len(grid.x))])
    grains = np.stack([grain.slice(number) for number in range(len(grid.x))])

    look = stream(spec.seed, _LOOK, index)
    by_name = {f"{above}/{below}": given for (above, below), given in zip(pairwise(LEVELS), graded, strict=True)}
    bones = _bones(bodies, by_name)
    truth: dict[str, dict[str, NDArray[np.bool_]]] = {name: {} for name in by_name}
    for number, (lower, upper) in enumerate(pairwise(bones)):
        name = f"{upper.body.name}/{lower.body.name}"
        given = by_name.get(name, _PLAIN if lower.body.name not in BELOW else _RUDIMENT)
        label = DISC_MASK + number - len(BELOW) + 1 if lower.body.name in (*LEVELS, "T11") else 0
        seen = draw_disc(signal, masks, grid, upper, lower, label, disc_look(look, given), grains)
        for side, mask in seen.items():
            truth[name][f"{side}_endplate"] = mask
    for bone in bones:
        # An upper endplate belongs to the disc above the body, of which it is the lower one.
        above, below = _neighbours(bone.body.name)
        patches = {}
        for side, disc, task in (("upper", above, "lower_marrow"), ("lower", below, "upper_marrow")):
            change = by_name[disc].changes.get(task) if disc in by_name else None
            if change is not None:
                patches[side] = (change, disc, task)
        label = max(CHAIN.index(bone.body.name) - len(BELOW), 0)
        seen = draw_body(signal, masks, grid, bone, label, grains, {side: patches[side][0] for side in patches})
        for side, mask in seen.items():
            truth[patches[side][1]][patches[side][2]] = mask
    return signal, masks, list(truth.values())


_PLAIN = DiscGrades({"pfirrmann": 1, "narrowing": 0}, {}, {})
_RUDIMENT = DiscGrades({"pfirrmann": 3, "narrowing": 0}, {}, {})


def _neighbours(name: str) -> tuple[str, str]:
    """Names of the discs above and below a body; "" at the ends."""
    place = CHAIN.index(name)
    above = f"{CHAIN[place + 1]}/{name}" if place + 1 < len(CHAIN) else ""
    return above, f"{name}/{CHAIN[place - 1]}" if place else ""


def _bones(bodies: tuple[Body, ...], graded: dict[str, DiscGrades]) -> tuple[Bone, ...]:
    bones = []
    for body in bodies:
        above, below = _neighbours(body.name)
        upper = graded[above].changes.get("lower_endplate") if above in graded else None
        lower = graded[below].changes.get("upper_endplate") if below in graded else None
        bones.append(Bone(body, *endplates(body, (upper, lower))))
    return tuple(bones)


def _vertebra(body: Body, taken: Protocol) -> Vertebra:
    grid = taken.grid
    origin = np.array((grid.columns[0], grid.rows[0]), float)
    place = (body.lateral - float(grid.x[0])) / taken.pitch
    # The grid holds the centres of pixels, corners count from the edge of the first.
    return Vertebra(body.name, place, (body.corners - origin) / grid.pixel + 0.5)


def _volume(pixels: Array, taken: Protocol) -> Volume:
    grid, pixel = taken.grid, taken.grid.pixel
    affine = np.zeros((4, 4))
    affine[:, 3] = float(grid.x[0]), float(grid.columns[0]), -float(grid.rows[0]), 1
    affine[0, 2], affine[1, 0], affine[2, 1] = taken.pitch, pixel, -pixel
    return Volume(pixels, (taken.pitch, pixel, pixel), affine, taken.thickness, "MR")
