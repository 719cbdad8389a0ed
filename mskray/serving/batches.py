"""Many studies in one zip, each of its folders a study, answered as a job."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

from mskray.serving.archives import ArchiveError, unpack
from mskray.serving.backend import Backend
from mskray.serving.forms import Files, Shape, Upload, safe_name
from mskray.serving.gate import Gate
from mskray.serving.jobs import Order, Told, Work
from mskray.serving.patience import patiently
from mskray.serving.problems import Problem, details_of
from mskray.serving.schemas.jobs import BatchEntry
from mskray.serving.schemas.studies import StudyAnswer
from mskray.serving.settings import Limits
from mskray.serving.studying import answer_study
from mskray.serving.uploads import BODY_PART, BODY_PART_FIELD, UploadedStudy

_MOST_FILES = 4096
SHAPE = Shape(
    (Files("studies", 1, "A zip, each of its folders a study."),),
    (BODY_PART_FIELD,),
)


def batch_work(backend: Backend, limits: Limits, gate: Gate) -> Work:
    """Return what answers a batch: its studies one by one, beside other requests."""

    async def answered(study: UploadedStudy, request: str) -> StudyAnswer:
        async with gate.enter():
            return await answer_study(backend, limits, study, request)

    async def work(order: Order, told: Told) -> dict[str, Any]:
        studies = await asyncio.to_thread(_studies, order.files[0], limits)
        entries: list[BatchEntry] = []
        for index, (name, files) in enumerate(studies):
            told(index, len(studies), "predicting studies")
            study = UploadedStudy(files, order.options.get(BODY_PART, "").upper())
            try:
                if len(files) > limits.max_views:
                    raise Problem("too-many-files", f"a study may have {limits.max_views} views")
                # A model that is busy is waited for here: what is answered already is not asked again.
                answer = await patiently(partial(answered, study, order.request))
            except Problem as problem:
                told_why = details_of(problem, order.request)
                entries.append(BatchEntry(index=index, name=name, answer=None, problem=told_why))
            else:
                entries.append(BatchEntry(index=index, name=name, answer=answer, problem=None))
        told(len(entries), len(studies), "ended")
        return {"batch": entries}

    return work


def _studies(archive: Upload, limits: Limits) -> list[tuple[str, tuple[Upload, ...]]]:
    """The zip's files by folder, in its order; those in no folder are one study. Raises Problem."""
    found: dict[str, list[Upload]] = {}
    try:
        for member in unpack(archive.data, _MOST_FILES, limits.max_unpacked):
            folder, _, name = member.name.rpartition("/")
            study = found.setdefault(folder, [])
            study.append(Upload(len(study), safe_name(name), member.data))
    except ArchiveError as error:
        kind = "too-many-files" if error.too_many else "too-large" if error.too_large else "unreadable-views"
        raise Problem(kind, f"{error.reason}: send a zip, each of its folders a study") from None
    return list(zip(distinct_names(found), map(tuple, found.values()), strict=True))


def distinct_names(folders: Iterable[str]) -> list[str]:
    """Return a name for each folder, plain and unlike any other.

    >>> distinct_names(["a-3", "a", "c/a", ""])
    ['a-3', 'a', 'a-4', 'study-4']
    """
    names: dict[str, None] = {}
    for number, folder in enumerate(folders, start=1):
        name = wanted = safe_name(folder) or f"study-{number}"
        while name in names:
            name, number = f"{wanted}-{number}", number + 1
        names[name] = None
    return list(names)
