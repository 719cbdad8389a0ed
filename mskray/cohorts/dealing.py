"""What becomes of each listed image: which split its patient goes to, or why it stays out; in bounded memory.

Three passes over thin records that lie on disk where they are many (`mskray.cohorts.spill`): doubled instances;
patients with what decides about them (own splits, classes, body parts); the borders between splits. The borders are
those of `mskray.cohorts.splits.assign`: up to `held` patients it is called as it is; for more, the place of a border
among the ranks of a group is found by counting ranks in bins, and sorting the one bin that holds it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mskray.cohorts.listing import Listing
from mskray.cohorts.schema import SPLITS, Fractions
from mskray.cohorts.spill import PARTS, Records, Spill
from mskray.cohorts.splits import ORDER, Stratum, assign, borders, pool, unit

PLACED, MOVED, DOUBLED = 0, 3, 6
"""States of an image: PLACED + place in SPLITS; MOVED + that of its patient where its own split is another; DOUBLED."""

_UNPLACED = 255
_PATIENT = np.dtype([("key", "u8"), ("first", "i8"), ("rank", "f8"), ("stratum", "i4")])
_BINS = 4096
_CODES = {split: code for code, split in enumerate(SPLITS)}
# A tie between own splits is decided for the more held-out one.
_HELD_OUT_FIRST = np.array([_CODES[split] for split in ORDER])


@dataclass(frozen=True)
class Dealt:
    """What `deal` found.

    Args:
        states: of each image in the order of the listing, (n,) uint8.
        own_splits: whether some image came with a split of the source.
        assigned: whether some patient was assigned here.
    """

    states: np.ndarray
    own_splits: bool
    assigned: bool

    @property
    def doubled(self) -> bool:
        """Whether some instance is listed more than once."""
        return bool((self.states == DOUBLED).any())


def deal(listing: Listing, spill: Spill, fractions: Fractions, seed: int, resplit: bool) -> Dealt:
    """Decide about every listed image.

    Args:
        resplit: forget the source's splits and assign every patient.
    """
    states = np.full(listing.count, _UNPLACED, np.uint8)
    for part in listing.instances.parts():
        order = np.argsort(part["key"], kind="stable")
        again = part["key"][order[1:]] == part["key"][order[:-1]]
        states[part["seq"][order[1:][again]]] = DOUBLED
    listing.instances.delete()
    found = _Patients(listing, spill, states, seed, resplit)
    if found.count <= listing.held:
        _assign_here(found, listing, states, fractions, seed)
    else:
        _assign_by_borders(found, listing, states, fractions, seed)
    listing.patients.delete()
    found.records.delete()
    return Dealt(states, found.own_splits, bool(found.count))


class _Patients:
    """Places all images of patients who have a split of their own; collects the others.

    Attributes:
        records: a record each patient without a split (`_PATIENT`); `first` is the first image.
        strata: stratum → (its number, how many patients it has).
    """

    def __init__(self, listing: Listing, spill: Spill, states: np.ndarray, seed: int, resplit: bool) -> None:
        self.records = Records(spill, "unplaced", _PATIENT, listing.held)
        self.own_splits = False
        self.count = 0
        self.numbers: dict[Stratum, int] = {}
        self.full: Counter[Stratum] = Counter()
        names = listing.parts
        # Of body parts with as many images the first by name counts.
        alphabetic = np.empty(len(names), np.int64)
        alphabetic[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        for part in listing.patients.parts():
            part = part[states[part["seq"]] != DOUBLED]
            if not len(part):
                continue
            part = part[np.argsort(part["key"], kind="stable")]
            starts = np.flatnonzero(np.concatenate([[True], part["key"][1:] != part["key"][:-1]]))
            group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(part)]))
            own = np.full(len(part), -1) if resplit else part["own"].astype(np.int64)
            placed = self._place_own(part, own, group, len(starts), states)
            self._collect(part, starts, group, placed, names, alphabetic, seed)

    def _place_own(
        self, part: np.ndarray, own: np.ndarray, group: np.ndarray, patients: int, states: np.ndarray
    ) -> np.ndarray:
        """Place images of patients with a split of their own; returns which patients these are."""
        counts = np.stack([np.bincount(group[own == code], minlength=patients) for code in _HELD_OUT_FIRST])
        placed: np.ndarray = counts.sum(axis=0) > 0
        self.own_splits |= bool(placed.any())
        place = _HELD_OUT_FIRST[counts.argmax(axis=0)][group]
        moved = np.where((own >= 0) & (own != place), MOVED, PLACED)
        inside = placed[group]
        states[part["seq"][inside]] = (place + moved)[inside]
        return placed

    def _collect(
        self,
        part: np.ndarray,
        starts: np.ndarray,
        group: np.ndarray,
        placed: np.ndarray,
        names: Sequence[str],
        alphabetic: np.ndarray,
        seed: int,
    ) -> None:
        free = np.flatnonzero(~placed)
        if not len(free):
            return
        # The class of a patient is the highest of any image; the part is the one with most images.
        worst = np.maximum.reduceat(part["label"], starts)
        pairs, images = np.unique(np.stack([group, part["part"]]), axis=1, return_counts=True)
        order = np.lexsort((alphabetic[pairs[1]], -images, pairs[0]))
        _, firsts = np.unique(pairs[0][order], return_index=True)
        commonest = pairs[1][order][firsts]
        records = np.empty(len(free), _PATIENT)
        records["key"], records["first"] = part["key"][starts][free], part["seq"][starts][free]
        records["rank"] = [unit(seed, f"{key:016x}") for key in records["key"].tolist()]
        strata = [(label, names[code]) for label, code in zip(worst[free].tolist(), commonest[free], strict=True)]
        records["stratum"] = [self.numbers.setdefault(stratum, len(self.numbers)) for stratum in strata]
        self.full.update(strata)
        self.count += len(free)
        self.records.append(records)


def _assign_here(found: _Patients, listing: Listing, states: np.ndarray, fractions: Fractions, seed: int) -> None:
    """Assign patients that fit into memory."""
    records = np.concatenate(list(found.records.parts()))
    records = records[np.argsort(records["first"])]
    numbers: list[Stratum] = list(found.numbers)
    patients = [f"{key:016x}" for key in records["key"].tolist()]
    splits = assign(patients, [numbers[number] for number in records["stratum"]], fractions, seed)
    places = np.array([_CODES[split] for split in splits], np.uint8)
    order = np.argsort(records["key"])
    for part in listing.patients.parts():
        _place(states, part, records["key"][order], places[order])


def _place(states: np.ndarray, part: np.ndarray, keys: np.ndarray, places: np.ndarray) -> None:
    """Give the images of patients (keys ascending) their places."""
    part = part[states[part["seq"]] == _UNPLACED]
    states[part["seq"]] = places[np.searchsorted(keys, part["key"])]


def _assign_by_borders(found: _Patients, listing: Listing, states: np.ndarray, fractions: Fractions, seed: int) -> None:
    """Assign patients of whom a part at a time is in memory, to the splits that `assign` would choose."""
    group_of = pool(found.full, fractions)
    groups = {group: number for number, group in enumerate(dict.fromkeys(group_of.values()))}
    of_stratum = np.array([groups[group_of[stratum]] for stratum in found.numbers])
    sizes = Counter(dict.fromkeys(groups, 0))
    for stratum, patients in found.full.items():
        sizes[group_of[stratum]] += patients
    ends = np.array([[end for _, end in borders(group, sizes[group], fractions, seed)] for group in groups])
    limits = _limits(found.records, of_stratum, ends[:, :-1])

    def choose(records: np.ndarray) -> np.ndarray:
        behind = np.zeros(len(records), np.int64)
        for limit in limits.T:
            border = limit[of_stratum[records["stratum"]]]
            same = records["rank"] == border["rank"]
            behind += (records["rank"] > border["rank"]) | (same & (records["first"] >= border["first"]))
        return _HELD_OUT_FIRST[behind].astype(np.uint8)

    moved = _fill_empty(found.records, choose, np.diff(ends, axis=1, prepend=0).sum(axis=0), fractions)
    for number in range(PARTS):
        records = found.records.part(number)
        places = choose(records)
        for key, place in moved.items():
            places[records["key"] == key] = place
        order = np.argsort(records["key"])
        _place(states, listing.patients.part(number), records["key"][order], places[order])


def _limits(patients: Records, of_stratum: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The first patient behind each border of each group: (groups, borders) of `_PATIENT`, ordered by rank and first.

    Args:
        of_stratum: number of a stratum → its group.
        ends: patients before each border, (groups, borders).
    """
    groups = len(ends)
    counts = np.zeros(groups * _BINS, np.int64)
    for part in patients.parts():
        counts += np.bincount(_bin(part, of_stratum), minlength=groups * _BINS)
    # How many patients of the group stand in the bins up to each.
    reached = counts.reshape(groups, _BINS).cumsum(axis=1)
    wanted = np.array([np.searchsorted(reached[group], ends[group], "right") for group in range(groups)])
    inside = wanted < _BINS  # behind the last patient there is none
    bins = np.unique((wanted + np.arange(groups)[:, None] * _BINS)[inside])
    near = np.concatenate([part[np.isin(_bin(part, of_stratum), bins)] for part in patients.parts()])
    near = near[np.lexsort((near["first"], near["rank"]))]
    of = _bin(near, of_stratum)
    limits = np.zeros(ends.shape, _PATIENT)
    limits["rank"] = np.inf
    for group, border in zip(*np.nonzero(inside), strict=True):
        place = wanted[group, border]
        before = reached[group, place - 1] if place else 0
        limits[group, border] = near[of == group * _BINS + place][ends[group, border] - before]
    return limits


def _bin(patients: np.ndarray, of_stratum: np.ndarray) -> np.ndarray:
    within = np.minimum((patients["rank"] * _BINS).astype(np.int64), _BINS - 1)
    return of_stratum[patients["stratum"]] * _BINS + within


def _fill_empty(
    patients: Records, choose: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, fractions: Fractions
) -> dict[int, int]:
    """Key → place of patients who are moved, so that no split with a share above 0 stays empty."""
    moved: dict[int, int] = {}
    for number, place in enumerate(_HELD_OUT_FIRST.tolist()):
        donor = int(counts.argmax())
        if fractions[place] and not counts[number] and counts[donor] > 1:
            best: tuple[float, int, int] | None = None
            for part in patients.parts():
                own = part[(choose(part) == _HELD_OUT_FIRST[donor]) & ~np.isin(part["key"], list(moved))]
                if len(own):
                    first = own[np.lexsort((own["first"], own["rank"]))[0]]
                    found = (float(first["rank"]), int(first["first"]), int(first["key"]))
                    best = found if best is None else min(best, found)
            assert best is not None
            moved[best[2]] = place
            counts[number] += 1
            counts[donor] -= 1
    return moved
