"""What a phantom cohort holds, before any pixel exists: patients, studies, body parts, labels and views.

A study is a pure function of `(spec, index)` and costs microseconds, so any worker can make any image of a
cohort of any size without a list being passed around. Balance is kept in blocks: whatever stretch of studies
is taken, its share of abnormal ones and of each body part stays within one block of what was asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mskray.errors import UserError

BODY_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")
KINDS = ("fracture", "implant", "lesion")

# Independent random streams. The abnormality has its own, so that an abnormal image has a normal twin: the same
# patient, pose and exposure under the same seed with `abnormal_fraction=0`.
PATIENT, STUDY, VIEW, ABNORMALITY, FLAG, NOISE, PATIENT_BLOCK, LABEL_BLOCK, PART_BLOCK = range(9)

_PATIENTS_A_BLOCK = 4  # one of them has two studies
_LABELS_A_BLOCK = 10
_PATIENTS_MOST = 10_000_000


def stream(seed: int, purpose: int, *ids: int) -> np.random.Generator:
    """The random stream of one purpose ("the pose of view 2 of study 7"), independent of every other."""
    return np.random.default_rng((seed, purpose, *ids))


@dataclass(frozen=True)
class PhantomSpec:
    """A phantom cohort.

    Args:
        patients: how many; three patients in four have one study, the fourth has two.
        seed: 0 or more; the same spec gives the same bytes.
        image_size: the long side of every image in pixels, 64–2000; the short side is 72–100 % of it.
        bits: 8 (uint8) or 16 (uint16, full range).
        abnormal_fraction: share of abnormal studies, 0–1.
        kinds: which abnormalities are drawn, out of fracture, implant and lesion: a study has one kind, each equally
            often, except that a fracture may be held by an implant.
        lesion_scale: (smallest, largest) size of an abnormality as a fraction of the largest that its bone
            bears, 0.1–1; (0.1, 0.25) draws only small ones.
        flag_fraction: share of images with an L or R flag, 0–1.
        flag_bias: how much the flag's letter tells the label: the probability that an abnormal image's flag says
            L and a normal image's R. 0.5: the letter is the true side, which is independent of the label; 1: the
            letter gives the label away, whatever the side.
        parts: body parts, each equally often.

    Raises:
        UserError: a value out of its range, naming the option, the value and what is allowed.
    """

    patients: int
    seed: int = 0
    image_size: int = 256
    bits: int = 8
    abnormal_fraction: float = 0.5
    kinds: tuple[str, ...] = KINDS
    lesion_scale: tuple[float, float] = (0.5, 1.0)
    flag_fraction: float = 0.7
    flag_bias: float = 0.5
    parts: tuple[str, ...] = BODY_PARTS

    def __post_init__(self) -> None:
        require_int("patients", self.patients, 1, _PATIENTS_MOST)
        require_int("seed", self.seed, 0, 2**63 - 1)
        require_int("image_size", self.image_size, 64, 2000)
        if self.bits not in (8, 16):
            raise UserError(f"phantom option bits={self.bits!r}: allowed are 8 and 16")
        require_float("abnormal_fraction", self.abnormal_fraction, 0.0, 1.0)
        require_float("flag_fraction", self.flag_fraction, 0.0, 1.0)
        require_float("flag_bias", self.flag_bias, 0.5, 1.0)
        object.__setattr__(self, "kinds", _require_names("kinds", self.kinds, KINDS))
        object.__setattr__(self, "parts", _require_names("parts", self.parts, BODY_PARTS))
        object.__setattr__(self, "lesion_scale", _require_range("lesion_scale", self.lesion_scale, 0.1, 1.0))


@dataclass(frozen=True)
class PhantomStudy:
    """One study as planned. `study_id` is unique in the cohort; `number` counts the patient's studies from 1."""

    index: int
    patient: int
    patient_id: str
    study_id: str
    number: int
    body_part: str
    laterality: str
    label: int
    views: tuple[str, ...]


def study_count(spec: PhantomSpec) -> int:
    """How many studies the cohort has."""
    blocks, rest = divmod(spec.patients, _PATIENTS_A_BLOCK)
    return blocks * (_PATIENTS_A_BLOCK + 1) + rest


def studies(spec: PhantomSpec) -> Iterator[PhantomStudy]:
    """All studies in order of index."""
    return (study(spec, index) for index in range(study_count(spec)))


def study(spec: PhantomSpec, index: int) -> PhantomStudy:
    """Study `index` (0-based) of the cohort, in constant time. UserError when the cohort has no such study."""
    count = study_count(spec)
    if not 0 <= index < count:
        raise UserError(f"phantom study {index}: the cohort has studies 0 to {count - 1}")
    patient, number = _patient_of(spec, index)
    rng = stream(spec.seed, STUDY, index)
    part = _in_block(spec.seed, PART_BLOCK, index, len(spec.parts))
    body_part = spec.parts[part]
    laterality = "LR"[int(rng.integers(2))]
    frontal = "PA" if body_part in ("FINGER", "HAND", "WRIST") else "AP"
    others = ("LATERAL", "OBLIQUE") if rng.random() < 0.5 else ("OBLIQUE", "LATERAL")
    views = (frontal, *others)[: int(rng.choice(3, p=(0.25, 0.4, 0.35))) + 1]
    patient_id = f"patient{patient + 1:05d}"
    return PhantomStudy(
        index=index,
        patient=patient,
        patient_id=patient_id,
        study_id=f"{patient_id}-study{number}",
        number=number,
        body_part=body_part,
        laterality=laterality,
        label=_label_of(spec, index),
        views=views,
    )


def _patient_of(spec: PhantomSpec, index: int) -> tuple[int, int]:
    """(patient, the patient's study number): in each whole block of patients one, drawn by the seed, has two."""
    block, place = divmod(index, _PATIENTS_A_BLOCK + 1)
    first = block * _PATIENTS_A_BLOCK
    if first + _PATIENTS_A_BLOCK > spec.patients:
        return first + place, 1
    twice = int(stream(spec.seed, PATIENT_BLOCK, block).integers(_PATIENTS_A_BLOCK))
    return first + place - (place > twice), 2 if place == twice + 1 else 1


def _label_of(spec: PhantomSpec, index: int) -> int:
    """1 for abnormal. A block holds the whole number of abnormal studies that keeps the running share right."""
    block = index // _LABELS_A_BLOCK
    share = spec.abnormal_fraction * _LABELS_A_BLOCK
    abnormal = int(np.floor(share * (block + 1) + 0.5)) - int(np.floor(share * block + 0.5))
    return int(_in_block(spec.seed, LABEL_BLOCK, index, _LABELS_A_BLOCK) < abnormal)


def _in_block(seed: int, purpose: int, index: int, length: int) -> int:
    """The value at `index` of a sequence whose every block of `length` is a permutation of 0 … length − 1."""
    block, place = divmod(index, length)
    return int(stream(seed, purpose, block).permutation(length)[place])


def require_int(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise UserError(f"phantom option {name}={value!r}: give a whole number from {least} to {most}")


def require_float(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"phantom option {name}={value!r}: give a number from {least} to {most}")


def _require_range(name: str, value: Any, least: float, most: float) -> tuple[float, float]:
    allowed = f"give two numbers from {least} to {most}, the smaller first"
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UserError(f"phantom option {name}={value!r}: {allowed}")
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise UserError(f"phantom option {name}={value!r}: {allowed}")
    if not least <= value[0] <= value[1] <= most:
        raise UserError(f"phantom option {name}={value!r}: {allowed}")
    return float(value[0]), float(value[1])


def _require_names(name: str, value: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, tuple | list) else ()
    if not names or any(item not in allowed for item in names) or len(set(names)) != len(names):
        raise UserError(f"phantom option {name}={value!r}: give one or more of {', '.join(allowed)}, each once")
    return names
