"""Which patient goes to which split: by patient, stratified, and the same for the same seed.

Within a stratum (class and body part) patients stand in the order of a seeded hash; the first ones go to test, the
next to validation, the rest to train. A patient who joins or leaves moves at most one patient of that stratum per
border, so that a growing source keeps nearly all patients where they were.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from mskray.cohorts.schema import SPLITS, Fractions
from mskray.errors import UserError

# Held-out patients are the scarce ones: they are dealt first, and a tie is decided for them.
ORDER = ("test", "validation", "train")
# A stratum with fewer patients than this expected in the smallest split would be cut by chance alone.
_EXPECTED = 1.0

Stratum = tuple[Hashable, Hashable]
"""Class and body part of a patient."""


def check_fractions(fractions: Sequence[float]) -> Fractions:
    """Return shares of train, validation and test, or raise UserError."""
    if len(fractions) != len(SPLITS):
        raise UserError(f"split fractions need {len(SPLITS)} numbers ({', '.join(SPLITS)}), not {len(fractions)}")
    if any(not 0 <= share <= 1 for share in fractions) or abs(sum(fractions) - 1) > 1e-6:
        shown = ", ".join(f"{share:g}" for share in fractions)
        raise UserError(f"split fractions {shown} sum to {sum(fractions):g}: give shares from 0 to 1 that sum to 1")
    train, validation, test = fractions
    return train, validation, test


def assign(patients: Sequence[str], strata: Sequence[Stratum], fractions: Fractions, seed: int) -> list[str]:
    """Assign each patient to a split.

    Args:
        patients: distinct identifiers.
        strata: for each patient (class, body part). Small strata are joined by class, then all together.
        fractions: shares of train, validation and test.
        seed: another seed gives another order of patients.
    Returns:
        The split of each patient. A share above 0 gets at least one patient where there are enough.
    """
    shares = dict(zip(SPLITS, fractions, strict=True))
    rank = {patient: unit(seed, patient) for patient in patients}
    result: dict[str, str] = {}
    group_of = pool(Counter(strata), fractions)
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for patient, stratum in zip(patients, strata, strict=True):
        groups[group_of[stratum]].append(patient)
    for key, members in groups.items():
        members.sort(key=rank.__getitem__)
        start = 0
        for split, end in borders(key, len(members), fractions, seed):
            result.update(dict.fromkeys(members[start:end], split))
            start = max(start, end)
    _fill_empty(result, shares, rank)
    return [result[patient] for patient in patients]


def own_split(images: Mapping[str, int]) -> str:
    """The split that keeps a patient whom the source has in several: most images, then the more held-out one."""
    return max(images, key=lambda split: (images[split], -ORDER.index(split)))


def borders(group: Hashable, size: int, fractions: Fractions, seed: int) -> list[tuple[str, int]]:
    """Which split ends before which of a group's patients, in the order of their ranks: (split, end), ends rising."""
    shares = dict(zip(SPLITS, fractions, strict=True))
    # One random offset per stratum rounds its borders up or down with the right probability.
    offset, reached, start = unit(seed, f"stratum {group}"), 0.0, 0
    ends = []
    for split in ORDER:
        reached += shares[split]
        end = size if split == ORDER[-1] else min(size, int(reached * size + offset + 1e-9))
        start = max(start, end)
        ends.append((split, start))
    return ends


def pool(full: Mapping[Stratum, int], fractions: Fractions) -> dict[Stratum, Hashable]:
    """Stratum → the group that it is dealt with: small strata are joined by class, then all together.

    Args:
        full: patients of each stratum (class, body part).
    """
    needed = _EXPECTED / min(share for share in fractions if share > 0)
    by_class: Counter[Hashable] = Counter()
    for (label, _), patients in full.items():
        by_class[label] += patients if patients < needed else 0
    groups: dict[Stratum, Hashable] = {}
    for stratum, patients in full.items():
        if patients >= needed:
            groups[stratum] = stratum
        elif by_class[stratum[0]] >= needed:
            groups[stratum] = (stratum[0], "other parts")
        else:
            groups[stratum] = "others"
    return groups


def _fill_empty(result: dict[str, str], shares: Mapping[str, float], rank: Mapping[str, float]) -> None:
    for split in ORDER:
        counts = Counter(result.values())
        donor = max(counts, key=counts.__getitem__, default=split)
        if shares[split] > 0 and not counts[split] and counts[donor] > 1:
            moved = min((patient for patient, place in result.items() if place == donor), key=rank.__getitem__)
            result[moved] = split


def unit(seed: int, text: str) -> float:
    """A number from [0, 1) that a text has under a seed."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
