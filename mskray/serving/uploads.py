"""A multipart body to decoded views, within limits that hold while it arrives.

What a file is, its content says, never its name or its stated type. Nothing is written to disk, and neither names nor
headers are logged: both may name a patient.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from mskray.imaging.decode import DecodedImage, DecodeError, DecodeLimits, decode
from mskray.serving.archives import ArchiveError, is_archive, unpack
from mskray.serving.problems import InvalidValue, Problem
from mskray.serving.schemas.common import UnreadableView
from mskray.serving.schemas.studies import DecodedView
from mskray.serving.settings import Limits

VIEWS, BODY_PART = "views", "body_part"
_BODY_PART = re.compile(r"[A-Z0-9][A-Z0-9 _-]{0,63}")
_LONGEST_NAME = 80
_LONGEST_LENGTH = 15


@dataclass(frozen=True)
class Upload:
    """A file as it came. `name` is already made safe."""

    index: int
    name: str | None
    data: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes: what the audit knows a file by."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class UploadedStudy:
    """A request's files and its body part, upper case, "" where none was given."""

    files: tuple[Upload, ...]
    body_part: str


async def read_study(request: Request, limits: Limits) -> UploadedStudy:
    """Read a multipart body, refusing it as soon as it is larger than the limits.

    Raises:
        Problem: another content type, a broken form, too large, no views, too many, a field that is not known.
    """
    form = await read_form(request, limits, f"a file in the field `{VIEWS}` for each view")
    try:
        errors = [
            InvalidValue(where=f"form.{_safe(key)}", what=f"unknown field; there are {VIEWS} and {BODY_PART}")
            for key in sorted(set(form) - {VIEWS, BODY_PART})
        ]
        views = form.getlist(VIEWS)
        if any(isinstance(view, str) for view in views):
            errors.append(InvalidValue(where=f"form.{VIEWS}", what="must be files, each with a filename"))
        part = _body_part(form.getlist(BODY_PART), errors)
        if errors:
            raise Problem("invalid-value", "; ".join(f"{each.where}: {each.what}" for each in errors), errors=errors)
        if not views:
            raise Problem("no-views", f"send each view as a file in the field `{VIEWS}`")
        files = [
            Upload(index, safe_name(view.filename), await view.read())
            for index, view in enumerate(views)
            if isinstance(view, UploadFile)
        ]
    finally:
        await form.close()
    return UploadedStudy(tuple(files), part)


def decode_study(study: UploadedStudy, limits: Limits) -> tuple[list[DecodedView], list[UnreadableView]]:
    """Decode every file, those of a zip too, in order; a view that cannot be read has its reason in the second list.

    Raises:
        Problem: more pixels than a study may have.
    """
    views: list[DecodedView] = []
    unreadable: list[UnreadableView] = []
    allowed = DecodeLimits(
        max_bytes=limits.max_body, max_pixels=min(limits.max_pixels, DecodeLimits.max_pixels), max_frames=1
    )
    pixels = 0
    for file in _unpacked(study.files, limits, unreadable):
        try:
            image = decode(file.data, allowed)
        except DecodeError as error:
            unreadable.append(UnreadableView(index=file.index, name=file.name, reason=error.reason))
            continue
        pixels += image.pixels.size
        if pixels > limits.max_pixels:
            raise Problem(
                "too-large",
                f"the views have more than {limits.max_pixels:,} pixels together: send fewer views or smaller ones",
            )
        part = study.body_part or body_part_of(image)
        views.append(DecodedView(file.index, file.name, image.format, image.pixels, part))
    return views, unreadable


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
                raise _too_many(limits) from None
            if error.too_large:
                raise Problem("too-large", f"{error.reason}: send fewer views or smaller files") from None
            unreadable.append(UnreadableView(index=index, name=file.name, reason=error.reason))
            index += 1
    if index > limits.max_views:
        raise _too_many(limits)


def safe_name(name: str | None) -> str | None:
    """Return a file name without folders, in plain characters; None where nothing is left.

    >>> safe_name("../../knees/left knee.png")
    'left_knee.png'
    """
    last = re.split(r"[/\\]", name or "")[-1]
    return _safe(last)[:_LONGEST_NAME].strip("._") or None


async def read_form(request: Request, limits: Limits, what: str, most_text: int = 1024) -> FormData:
    """Read a multipart body, to be closed after use, refusing it as soon as it is larger than the limits.

    Args:
        what: is to be sent, for the message.
        most_text: bytes of a field that is no file.
    Raises:
        Problem: another content type, a broken form, too large, too many files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Problem("not-a-form", f"send multipart/form-data with {what}")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > _LONGEST_LENGTH or int(stated) > limits.max_body):
        raise _too_large(limits)
    parser = MultiPartParser(
        request.headers, _limited(request, limits), max_files=limits.max_views, max_fields=8, max_part_size=most_text
    )
    # Starlette would put parts above 1 MB into files; the body is bounded, and images of patients stay off disks.
    parser.spool_max_size = limits.max_body + 1
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from None
        raise Problem("malformed-form", f"the multipart body is broken: {error.message}") from None


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_body:
            raise _too_large(limits)
        yield chunk


def _too_many(limits: Limits) -> Problem:
    return Problem("too-many-views", f"a study may have {limits.max_views} views: send fewer in a request")


def _too_large(limits: Limits) -> Problem:
    return Problem("too-large", f"a request may have {limits.max_body:,} bytes: send fewer views or smaller files")


def _body_part(given: Sequence[UploadFile | str], errors: list[InvalidValue]) -> str:
    if not given:
        return ""
    part = given[0].strip().upper() if len(given) == 1 and isinstance(given[0], str) else None
    if part == "":
        return ""
    if part is None or not _BODY_PART.fullmatch(part):
        errors.append(InvalidValue(where=f"form.{BODY_PART}", what="must be one DICOM body part, such as KNEE"))
        return ""
    return part


def body_part_of(image: DecodedImage) -> str:
    """The DICOM body part that a file's header states, "" where it states none or nonsense."""
    part = str(image.metadata.get("body_part") or "").strip().upper()
    return part if _BODY_PART.fullmatch(part) else ""


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
