"""Decides what is wrong with a study: which kinds, in which bones, how large, and in which views it hides.

All is drawn from a stream of its own: the same study is the same patient with or without it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mskray.imaging.phantoms.abnormalities import Abnormality, Fracture, Implant, Lesion
from mskray.imaging.phantoms.plan import ABNORMALITY, PhantomSpec, PhantomStudy, stream
from mskray.imaging.phantoms.shapes import Tube

_KNOTS = 8
_OCCULT = 0.1  # chance that a fracture or lesion does not show in one of the further views


def diagnose(spec: PhantomSpec, study: PhantomStudy, hosts: tuple[Tube, ...]) -> tuple[Abnormality, ...]:
    """The abnormalities of a study: none when it is normal, else one to three of the same kind in different bones.

    Two through-and-through fractures in five are held by a plate, where implants are among the spec's kinds.
    `hosts` must be those of the first view, so that all views agree.
    """
    if not study.label:
        return ()
    rng = stream(spec.seed, ABNORMALITY, study.index)
    kind = spec.kinds[int(rng.integers(len(spec.kinds)))]
    many = 1 if kind == "implant" else int(rng.choice((1, 2, 3), p=(0.55, 0.3, 0.15)))
    stretches = np.array([bone.length * (bone.host[1] - bone.host[0]) for bone in hosts if bone.host])
    chosen = rng.choice(len(hosts), min(many, len(hosts)), replace=False, p=stretches / stretches.sum())
    views = range(1, len(study.views))
    planned: list[Abnormality] = []
    for index in chosen:
        occult = frozenset(view for view in views if rng.random() < _OCCULT)
        size = float(rng.uniform(*spec.lesion_scale))
        bone = hosts[int(index)]
        made = _MAKERS[kind](bone, occult, size, rng)
        if isinstance(made, Fracture) and made.reach == 1 and "implant" in spec.kinds and rng.random() < 0.4:
            planned += _plated(made, bone, size, rng)
        else:
            planned.append(made)
    return tuple(planned)


def _fracture(bone: Tube, occult: frozenset[int], size: float, rng: np.random.Generator) -> Fracture:
    assert bone.host is not None
    place = float(rng.uniform(*bone.host))
    half = bone.half_width(place)
    through = size >= 0.6
    push = half * size * rng.uniform(0.5, 2.0) if through else 0.0
    turn = rng.uniform(0, 2 * np.pi)
    return Fracture(
        bone=bone.name,
        occult=occult,
        place=place,
        reach=1.0 if through else float(min(1.5 * size, 0.85)),
        gap=float(half * rng.uniform(0.25, 0.6) * (0.35 + 0.65 * size)),
        slope=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.5, 0.5))),
        shift=(float(push * np.cos(turn)), float(push * np.sin(turn))),
        bow=(float(rng.normal(0, 0.6) * push), float(rng.normal(0, 0.6) * push)),
        jagged=tuple((rng.normal(0, 0.07, _KNOTS) * half).tolist()),
        side=float(rng.choice((-1.0, 1.0))),
    )


def _plated(fracture: Fracture, bone: Tube, size: float, rng: np.random.Generator) -> tuple[Fracture, Implant]:
    """A fracture put back into place and held by a plate across it."""
    set_back = replace(
        fracture,
        occult=frozenset(),
        gap=0.5 * fracture.gap,
        shift=(0.15 * fracture.shift[0], 0.15 * fracture.shift[1]),
        bow=(0.0, 0.0),
    )
    return set_back, replace(_implant(bone, frozenset(), size, rng), place=fracture.place)


def _lesion(bone: Tube, occult: frozenset[int], size: float, rng: np.random.Generator) -> Lesion:
    assert bone.host is not None
    place = float(rng.uniform(*bone.host))
    half = bone.half_width(place)
    radius = half * (0.08 + 1.1 * size)
    room = 0.7 * max(1 - 0.9 * radius / half, 0.0)
    return Lesion(
        bone=bone.name,
        occult=occult,
        place=place,
        offset=(float(rng.uniform(-room, room)), float(rng.uniform(-room, room))),
        radius=float(radius),
        stretch=float(rng.uniform(1.2, 2.4)),
        lobes=tuple(rng.normal(0, (0.09, 0.09, 0.07, 0.07, 0.05, 0.05, 0.04, 0.04)).tolist()),
        loss=float(rng.uniform(0.65, 0.9)),
        soft=float(rng.uniform(0.12, 0.4)),
        rim=float(rng.uniform(0.2, 0.6)) if rng.random() < 0.7 else 0.0,
    )


def _implant(bone: Tube, occult: frozenset[int], size: float, rng: np.random.Generator) -> Implant:
    del occult  # metal shows in every view
    assert bone.host is not None
    low, high = bone.host
    length = bone.length * min(high - low, 0.7) * size * rng.uniform(0.7, 1.0)
    reach = 0.5 * length / bone.length
    place = float(rng.uniform(min(low + reach, 0.5 * (low + high)), max(high - reach, 0.5 * (low + high))))
    half = bone.half_width(place)
    turn = rng.choice((0.0, 0.5, 1.0, 1.5)) * np.pi + rng.normal(0, 0.2)
    width = half * rng.uniform(0.8, 1.2) * (0.45 + 0.55 * size)
    alone = size < 0.2
    count = int(rng.integers(1, 3)) if alone else int(np.clip(round(length / (1.2 * width)), 3, 8))
    places = np.linspace(-0.42, 0.42, count) if count > 1 else np.zeros(1)
    return Implant(
        bone=bone.name,
        place=place,
        towards=(float(np.cos(turn)), float(np.sin(turn))),
        length=0.0 if alone else float(length),
        width=float(width),
        thickness=float(0.3 * width),
        screws=tuple((places + rng.normal(0, 0.015, count)).tolist()),
        bite=float(rng.uniform(0.8, 1.1)),
    )


_MAKERS: dict[str, Callable[[Tube, frozenset[int], float, np.random.Generator], Abnormality]] = {
    "fracture": _fracture,
    "lesion": _lesion,
    "implant": _implant,
}
