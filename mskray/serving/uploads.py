"""The views of a study: a form's files, those of a zip too, decoded.

What a file is, its content says, never its name or its stated type.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mskray.imaging.decode import DecodedImage, DecodeError, DecodeLimits, decode
from mskray.serving.archives import ArchiveError, is_archive, unpack
from mskray.serving.forms import Files, Form, Shape, Text, Upload, safe_name, too_many
from mskray.serving.problems import InvalidValue, Problem, invalid
from mskray.serving.schemas.common import UnreadableView
from mskray.serving.schemas.studies import DecodedView
from mskray.serving.settings import Limits

VIEWS, BODY_PART = "views", "body_part"
_BODY_PART = re.compile(r"[A-Z0-9][A-Z0-9 _-]{0,63}")


@dataclass(frozen=True)
class UploadedStudy:
    """A request's files and its body part, upper case, "" where none was given."""

    files: tuple[Upload, ...]
    body_part: str


BODY_PART_FIELD = Text(
    BODY_PART, 64, "DICOM body part of all pictures; without it, that of each DICOM header counts.", "KNEE"
)


def study_shape(limits: Limits) -> Shape:
    """What a study's form holds."""
    views = f"The study's views, a file each or zipped; together at most {limits.max_pixels:,} pixels."
    return Shape((Files(VIEWS, limits.max_views, views),), (BODY_PART_FIELD,))


def study_of(form: Form) -> UploadedStudy:
    """Return the study of a form of `study_shape`. Raises Problem: no body part of DICOM."""
    return UploadedStudy(form.files[VIEWS], body_part_of(form))


def body_part_of(form: Form) -> str:
    """Return what a form with `BODY_PART_FIELD` says, upper case, "" for nothing. Raises Problem."""
    part = form.texts[BODY_PART].upper()
    if part and not _BODY_PART.fullmatch(part):
        raise invalid(InvalidValue(where=f"form.{BODY_PART}", what="must be one DICOM body part, such as KNEE"))
    return part


def decode_study(study: UploadedStudy, limits: Limits) -> tuple[list[DecodedView], list[UnreadableView]]:
    """Decode every file, those of a zip too, in order; a view that cannot be read has its reason in the second list.

    Raises:
        Problem: more pixels than a study may have.
    """
    views: list[DecodedView] = []
    unreadable: list[UnreadableView] = []
    pixels = 0
    for file in _unpacked(study.files, limits, unreadable):
        try:
            view = _decoded(file, study.body_part, limits)
        except DecodeError as error:
            unreadable.append(UnreadableView(index=file.index, name=file.name, reason=error.reason))
            continue
        pixels += view.pixels.size
        if pixels > limits.max_pixels:
            raise Problem(
                "too-large",
                f"the views have more than {limits.max_pixels:,} pixels together: send fewer views or smaller ones",
            )
        views.append(view)
    return views, unreadable


def decode_view(files: Sequence[Upload], index: int, limits: Limits) -> DecodedView:
    """Decode one view of a study, and no other.

    Raises:
        Problem: there is no such view, or it cannot be read.
    """
    unreadable: list[UnreadableView] = []
    there = list(_unpacked(files, limits, unreadable))
    bad = [each for each in unreadable if each.index == index]
    for file in (each for each in there if each.index == index):
        try:
            return _decoded(file, "", limits)
        except DecodeError as error:
            bad.append(UnreadableView(index=index, name=file.name, reason=error.reason))
    check_readable(0, bad, partial=False)
    what = f"must be one of the {len(there) + len(unreadable)} views"
    raise invalid(InvalidValue(where="query.index", what=what))


def _decoded(file: Upload, body_part: str, limits: Limits) -> DecodedView:
    """A view; without a body part its header's counts. Raises DecodeError."""
    allowed = DecodeLimits(
        max_bytes=limits.max_body, max_pixels=min(limits.max_pixels, DecodeLimits.max_pixels), max_frames=1
    )
    image = decode(file.data, allowed)
    return DecodedView(file.index, file.name, image.format, image.pixels, body_part or stated_part(image))


def _unpacked(files: Sequence[Upload], limits: Limits, unreadable: list[UnreadableView]) -> Iterator[Upload]:
    """Yield the files, those of a zip in its place; what cannot be unpacked has its reason in `unreadable`."""
    index, left = 0, limits.max_unpacked
    for file in files:
        if not is_archive(file.data):
            yield replace(file, index=index)
            index += 1
            continue
        try:
            for member in unpack(file.data, limits.max_views - index, left):
                left -= len(member.data)
                yield Upload(index, safe_name(member.name), member.data)
                index += 1
        except ArchiveError as error:
            if error.too_many:
                raise too_many(limits.max_views) from None
            if error.too_large:
                raise Problem("too-large", f"{error.reason}: send fewer views or smaller files") from None
            unreadable.append(UnreadableView(index=index, name=file.name, reason=error.reason))
            index += 1
    if index > limits.max_views:
        raise too_many(limits.max_views)


def check_readable(read: int, unreadable: Sequence[UnreadableView], partial: bool) -> None:
    """Raise Problem where views cannot be read, or with `partial` none can."""
    bad = len(unreadable)
    total = read + bad
    if not bad or (partial and bad < total):
        return
    hint = "" if bad == total else ", or ask for the others alone with ?partial=true"
    raise Problem(
        "unreadable-views",
        f"{bad} of {total} views cannot be read: send them again as PNG, JPEG, TIFF or DICOM, or a zip of such{hint}",
        views=unreadable,
    )


def stated_part(image: DecodedImage) -> str:
    """Return the DICOM body part that a file's header states, upper case, "" where it states none or nonsense."""
    part = str(image.metadata.get("body_part") or "").strip().upper()
    return part if _BODY_PART.fullmatch(part) else ""
