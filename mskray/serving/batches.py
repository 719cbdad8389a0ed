"""Many studies in one zip, each of its folders a study, answered as a job."""

from typing import Any

from mskray.serving.archives import ArchiveError, unpack
from mskray.serving.backend import Backend
from mskray.serving.forms import Files, Shape, Upload, safe_name
from mskray.serving.gate import Gate
from mskray.serving.jobs import Order, Told, Work
from mskray.serving.problems import Problem, details_of
from mskray.serving.schemas.jobs import BatchEntry
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

    async def work(order: Order, told: Told) -> dict[str, Any]:
        studies = _studies(order.files[0], limits)
        entries: list[BatchEntry] = []
        for name, files in studies.items():
            told(len(entries), len(studies), "predicting studies")
            study = UploadedStudy(tuple(files), order.options.get(BODY_PART, "").upper())
            try:
                if len(files) > limits.max_views:
                    raise Problem("too-many-files", f"a study may have {limits.max_views} views")
                async with gate.enter():
                    answer = await answer_study(backend, limits, study, order.request)
            except Problem as problem:
                if problem.status_code in (429, 503):  # of the server, not of the study: the job tries again
                    raise
                entries.append(BatchEntry(name=name, answer=None, problem=details_of(problem, order.request)))
            else:
                entries.append(BatchEntry(name=name, answer=answer, problem=None))
        told(len(entries), len(studies), "ended")
        return {"batch": entries}

    return work


def _studies(archive: Upload, limits: Limits) -> dict[str, list[Upload]]:
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
    return _named(found)


def _named(found: dict[str, list[Upload]]) -> dict[str, list[Upload]]:
    """By names that are plain and distinct: a folder's name may name a patient, its number does not."""
    named: dict[str, list[Upload]] = {}
    for number, (folder, files) in enumerate(found.items(), start=1):
        name = safe_name(folder) or f"study-{number}"
        named[name if name not in named else f"{name}-{number}"] = files
    return named
