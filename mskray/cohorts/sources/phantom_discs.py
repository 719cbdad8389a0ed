"""Phantom discs: the six discs of synthetic spines, graded, with what was changed in them as masks.

    mskray ingest phantom-discs --out URI patients=500 seed=1

Nothing is read: the same options give the same discs anywhere. They are cut from the volumes that `phantom-spine`
stores whole, between the bodies' true corners or, with `corner_error`, between corners that are off as a detector's
are. Options are those of `mskray.imaging.phantoms.spine.SpineSpec`.

A mask's value has a bit for each task of `MASKED` whose change is drawn there: 1 is a defect of the upper endplate.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from mskray import __version__
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import Item, Loaded, Rejected, register
from mskray.cohorts.sources._discs import BODY_PART, DiscSource, loaded
from mskray.config import Section, setting
from mskray.imaging.discs import disc_volume
from mskray.imaging.phantoms.plan import stream
from mskray.imaging.phantoms.spine import SpinePhantom, SpineSpec, grades, spine
from mskray.imaging.spine import DISCS, GRADED_TASKS, SPINE_TASKS, Vertebra
from mskray.storage import Location

#: Tasks whose changes are in the masks; bit i of a mask is the i-th.
MASKED = ("upper_endplate", "lower_endplate", "upper_marrow", "lower_marrow")

_ERRORS = 200  # a random stream of its own


class PhantomDiscsOptions(Section):
    patients: int = setting(300, "how many patients, each with six discs", ge=1, le=10_000_000)
    seed: int = setting(0, "the same seed gives the same discs", ge=0, le=2**63 - 1)
    changes: float = setting(
        1.0, "factor on the shares of endplate defects and marrow changes (13 to 18 %)", ge=0, le=4
    )
    missing: float = setting(0.06, "share of labels that are missing", ge=0, le=1)
    corner_error: float = setting(0.0, "standard deviation of the corners' error", unit="mm", ge=0, le=5)


@register
class PhantomDiscs(DiscSource[PhantomDiscsOptions]):
    name = "phantom-discs"
    summary = "discs of synthetic spines with six graded tasks and masks of their changes; needs no IN"
    Options = PhantomDiscsOptions
    located = False
    masks = True

    def tasks(self, location: Location | None, options: PhantomDiscsOptions) -> tuple[Task, ...]:
        return tuple(Task(name=name, classes=of, ordinal=name in GRADED_TASKS) for name, of in SPINE_TASKS.items())

    def items(self, location: Location | None, options: PhantomDiscsOptions) -> Iterator[Item | Rejected]:
        spec = _spec(options)
        for index in range(options.patients):
            # Phantoms of another seed are other people.
            patient = f"phantom-{options.seed}-{index}"
            for place, (level, given) in enumerate(zip(DISCS, grades(spec, index), strict=True)):
                yield Item(
                    path=f"phantom-discs/{index}/{place}",
                    patient_id=patient,
                    study_id=patient,
                    fingerprint=f"mskray-{__version__}",
                    labels=given.labels,
                    body_part=BODY_PART,
                    view=level,
                    view_index=place,
                    instance_id=f"{patient}-{place}",
                )

    def load(self, path: str, data: bytes, options: PhantomDiscsOptions) -> Loaded:
        _, index, place = path.split("/")
        phantom = _phantom(_spec(options), int(index))
        disc = phantom.discs[int(place)]
        rng = stream(options.seed, _ERRORS, int(index), int(place))
        upper, lower = (_moved(body, rng, phantom, options.corner_error) for body in (disc.upper, disc.lower))
        cut = disc_volume(phantom.volume, upper, lower, size=self.size)
        mask = np.zeros(cut.pixels.shape, np.uint8)
        for bit, task in enumerate(MASKED):
            if task in disc.truth:
                mask |= cut.of_mask(disc.truth[task]).astype(np.uint8) << bit
        return loaded(cut, mask)


def _spec(options: PhantomDiscsOptions) -> SpineSpec:
    return SpineSpec(options.patients, options.seed, options.changes, options.missing)


@lru_cache(maxsize=1)
def _phantom(spec: SpineSpec, index: int) -> SpinePhantom:
    """A spine for all of its discs, whose rows follow each other; nobody writes to it."""
    return spine(spec, index)


def _moved(body: Vertebra, rng: np.random.Generator, phantom: SpinePhantom, error_mm: float) -> Vertebra:
    if not error_mm:
        return body
    _, down, across = phantom.volume.spacing_mm
    return Vertebra(body.level, body.slice, body.corners + rng.normal(0, error_mm, (4, 2)) / (across, down))
