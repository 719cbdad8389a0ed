"""What readers corrected while a server answered, to learn from it.

    mskray ingest feedback STORE/feedback --out URI --size 224

The store's layout is that of `mskray.cohorts.corrections`. Of each picture the latest correction counts, whoever it is
of: its boxes, and its label; one that gives boxes alone leaves the label before it as it was. Where the last words of
two readers differ, the summary counts the picture. Corrections that cannot be used go to quarantine with the reason.

Every task that was corrected is a task of the cohort, with the classes of its latest correction. All patients are in
`train`, for `mskray train --add`; with `--split-fractions` they are cut as any others. An image's `path` is the file of
the correction that counts: with `--names`, it leads from a row of a shard to who said so, when, and why.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from mskray.cohorts.corrections import CORRECTIONS, IMAGES, MOST_BYTES, StoredCorrection, picture_path, pixel_digest
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import UNKNOWN_PART, Finding, Item, Loaded, Rejected, Source, fingerprint, register
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, DecodeLimits
from mskray.imaging.decoded import only_decode_errors
from mskray.imaging.raster import read_png
from mskray.storage import Location

DISAGREE = "readers disagree: the latest label counts"
_THREADS = 16
_DISAGREEMENT = "#disagreement"
"""Ending of the address of a picture of which readers disagree."""

Dated = tuple[str, StoredCorrection]
"""A correction and the path of its file."""


class FeedbackOptions(Section):
    body_part: str = setting(UNKNOWN_PART, "DICOM body part of pictures whose file did not say one", min_length=1)


@register
class FeedbackStore(Source[FeedbackOptions]):
    name = "feedback"
    summary = "corrections that readers sent to a server, the latest of each picture; all in train"
    Options = FeedbackOptions
    split_note = "corrections are there to be learned: all are in train"

    def root(self, location: Location, options: FeedbackOptions) -> Location:
        if not location.join(CORRECTIONS).is_dir():
            raise UserError(f"{location} has no folder {CORRECTIONS}: give the folder feedback of a server's --store")
        return location

    def tasks(self, location: Location | None, options: FeedbackOptions) -> tuple[Task, ...]:
        assert location is not None
        return tuple(_questions(_read(self.root(location, options))[0]).values())

    def items(self, location: Location | None, options: FeedbackOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        found, rejected = _read(location)
        yield from rejected
        questions = _questions(found)
        there = {f"{IMAGES}/{each.path}": fingerprint(each) for each in location.join(IMAGES).walk()}
        images: dict[str, list[Dated]] = defaultdict(list)
        for path, each in found:
            try:
                if each.question != questions[each.task]:
                    raise ValueError(f"its classes {', '.join(each.classes)} are not those of later corrections")
                if picture_path(each.image) not in there:
                    raise ValueError(f"there is no {picture_path(each.image)}")
                if each.label is not None and each.label not in each.classes:
                    raise ValueError(f"label {each.label!r} is none of {', '.join(each.classes)}")
                images[each.image].append((path, each))
            except ValueError as error:
                yield Rejected(path, str(error))
        for image, corrections in sorted(images.items()):
            yield _item(corrections, questions, there[picture_path(image)], options)

    def fetch(self, root: Location | None, path: str) -> bytes:
        return super().fetch(root, path.removesuffix(_DISAGREEMENT))

    def file(self, root: Location, path: str) -> Location:
        return root.join(path.removesuffix(_DISAGREEMENT))

    def load(self, path: str, data: bytes, options: FeedbackOptions) -> Loaded:
        with only_decode_errors("PNG"):
            image = read_png(data, DecodeLimits(), stretch=False)
        if picture_path(pixel_digest(image.pixels)) != path.removesuffix(_DISAGREEMENT):
            raise DecodeError("its pixels are not those that were stored")
        return Loaded(image, notes=(DISAGREE,) if path.endswith(_DISAGREEMENT) else ())


def _read(root: Location) -> tuple[list[Dated], list[Rejected]]:
    """Corrections, the oldest first, and the files that are none."""
    folder = root.join(CORRECTIONS)

    def read(name: str) -> Dated | Rejected:
        path = f"{CORRECTIONS}/{name}"
        try:
            correction = StoredCorrection.model_validate_json(folder.join(name).read_bytes(MOST_BYTES))
            _ = correction.question  # refused here where no cohort can have it
            return path, correction
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "JSON"
            return Rejected(path, f"not a correction: {where}: {first['msg']}")

    names = sorted(entry.path for entry in folder.walk() if entry.path.endswith(".json"))
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(read, names))
    corrections = [each for each in found if not isinstance(each, Rejected)]
    corrections.sort(key=lambda each: (each[1].time, each[1].id))
    return corrections, [each for each in found if isinstance(each, Rejected)]


def _questions(corrections: Sequence[Dated]) -> dict[str, Task]:
    """Every task as its latest correction has it, by name. Raises UserError where there is none."""
    if not corrections:
        raise UserError("the store holds no correction yet: readers send them to POST /v1/feedback")
    return dict(sorted({each.task: each.question for _, each in corrections}.items()))


def _item(corrections: Sequence[Dated], questions: Mapping[str, Task], mark: str, options: FeedbackOptions) -> Item:
    """A picture with what its corrections, the oldest first, come to."""
    path, last = corrections[-1]
    labels: dict[str, int | None] = {}
    boxes: list[Finding] = []
    disagree = False
    for name, task in questions.items():
        of_task = [each for _, each in corrections if each.task == name]
        words = [(each.who, task.classes.index(each.label)) for each in of_task if each.label is not None]
        labels[name] = words[-1][1] if words else None
        disagree |= len(set(dict(words).values())) > 1
        if of_task:
            boxes += [Finding(box.name.lower(), (box.x, box.y, box.width, box.height)) for box in of_task[-1].boxes]
    return Item(
        path=path,
        patient_id=last.patient,
        study_id=last.image,
        fingerprint=mark,
        labels=labels,
        body_part=(last.body_part or options.body_part).upper(),
        split="train",
        instance_id=last.image,
        findings=tuple(boxes),
        address=picture_path(last.image) + (_DISAGREEMENT if disagree else ""),
    )
