"""Contralateral pairs of Knee OA: a subject's right knee stands for before, the left one for after.

    mskray ingest knee-pairs FOLDER --out URI

Layout as for `knee-oa`. Class of a pair is the sign of the difference of the Kellgren–Lawrence grades: grade(left) <
grade(right) = improved, equal = persisted, grade(left) > grade(right) = regressed. So the pair has the form of one of
before and after, and reversing it swaps improved and regressed; no knee has changed in it. Both tasks are stored:
`change` in three classes and `improved` in two. The source's splits are kept.

Left knees are mirrored, so that both are seen as right ones: else it could be seen which of two reversed pairs is the
true one. `mirror=false` leaves them. A subject with one knee in the data goes to quarantine.
"""

from collections.abc import Iterator, Sequence

from mskray.cohorts.change import CHANGE, IMPROVED, change_labels
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import Item, Rejected, get_source, register
from mskray.cohorts.sources._pairs import Address, Member, PairSource, pair_path
from mskray.cohorts.sources.knee_oa import KneeOptions, Radiograph, radiographs
from mskray.config import Section, setting
from mskray.storage import Location

_SIDES = {"R": "right", "L": "left"}


class KneePairsOptions(Section):
    mirror: bool = setting(True, "show left knees as right ones")


@register
class KneePairs(PairSource[KneePairsOptions]):
    name = "knee-pairs"
    summary = "Knee OA (Chen 2018): a subject's right and left knee as a pair, classed by which grade is higher"
    Options = KneePairsOptions
    split_note = "the source's own splits; val is validation"

    def root(self, location: Location, options: KneePairsOptions) -> Location:
        return get_source("knee-oa").root(location, KneeOptions())

    def tasks(self, location: Location | None, options: KneePairsOptions) -> tuple[Task, ...]:
        return (CHANGE, IMPROVED)

    def items(self, location: Location | None, options: KneePairsOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        subjects: dict[str, list[Radiograph]] = {}
        for found in radiographs(location):
            if isinstance(found, Rejected):
                yield found
            else:
                subjects.setdefault(found.subject, []).append(found)
        for subject, images in sorted(subjects.items()):
            reason = _no_pair(images)
            if reason:
                yield from (Rejected(image.path, reason) for image in images)
            else:
                yield _item(subject, images, options)


def _no_pair(images: Sequence[Radiograph]) -> str:
    """Why a subject's images are no pair; "" where they are."""
    sides = [image.side for image in images]
    for side, name in _SIDES.items():
        if side not in sides:
            return f"no image of the subject's {name} knee: a pair needs both"
        if sides.count(side) > 1:
            return f"{sides.count(side)} images of the subject's {name} knee: it is not known which makes the pair"
    splits = sorted({image.split for image in images})
    return f"the subject's knees are in {' and '.join(splits)}: a pair is in one split" if len(splits) > 1 else ""


def _item(subject: str, images: Sequence[Radiograph], options: KneePairsOptions) -> Item:
    right, left = sorted(images, key=lambda image: image.side, reverse=True)
    members = Member({right.path: right.fingerprint}), Member({left.path: left.fingerprint}, mirrored=options.mirror)
    address = Address(members)
    change = 1 + (right.grade > left.grade) - (right.grade < left.grade)
    return Item(
        path=pair_path(right.path, left.path),
        patient_id=subject,
        study_id=subject,
        fingerprint=address.fingerprint,
        labels=change_labels(change),
        body_part="KNEE",
        view="PA",
        split=right.split,
        address=str(address),
    )
