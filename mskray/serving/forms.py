"""A multipart body to files and texts, within limits that hold while it arrives.

A route says what its form holds (`Shape`); the same shape describes it in the OpenAPI document. Nothing is written to
disk, and neither names nor headers are logged: both may name a patient.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from mskray.serving.accounts import asked
from mskray.serving.problems import InvalidValue, Problem, invalid
from mskray.serving.settings import Limits

_LONGEST_NAME, _LONGEST_LENGTH = 80, 15
_PATIENCE_S, _LEAST_RATE = 8.0, 16 * 1024
"""After how many seconds without a byte a body is given up, and bytes a second below which it is after as many."""


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
class Files:
    """A field of files: 1 to `most`."""

    name: str
    most: int
    about: str


@dataclass(frozen=True)
class Text:
    """A field of text; not `needed`, it is "" where it is not given. `schema`: of the JSON that it holds."""

    name: str
    longest: int
    about: str
    example: str
    needed: bool = False
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Shape:
    """What a form holds."""

    files: tuple[Files, ...]
    texts: tuple[Text, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(each.name for each in self.files), *(each.name for each in self.texts))

    def openapi(self, limits: Limits) -> dict[str, Any]:
        """Describe the form: the route reads it itself, so that limits hold while it arrives."""
        binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
        size = f"Together at most {limits.max_body:,} bytes."
        properties: dict[str, Any] = {}
        for each in self.files:
            about = f"{each.about} {size}"
            many = {"type": "array", "minItems": 1, "maxItems": each.most, "items": binary}
            properties[each.name] = {**(binary if each.most == 1 else many), "description": about}
        for text in self.texts:
            plain_text = {"type": "string", "maxLength": text.longest, "examples": [text.example]}
            properties[text.name] = {**(text.schema or plain_text), "description": text.about}
        needed = [*(each.name for each in self.files), *(each.name for each in self.texts if each.needed)]
        schema = {"type": "object", "required": needed, "additionalProperties": False, "properties": properties}
        as_json = {text.name: {"contentType": "application/json"} for text in self.texts if text.schema}
        content = {"schema": schema, **({"encoding": as_json} if as_json else {})}
        return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


@dataclass(frozen=True)
class Form:
    """What came: each field of the shape has an entry.

    Args:
        digests: SHA-256 of each file, in order; none where nobody asks: of 20 MB it takes as long as a small network.
    """

    files: dict[str, tuple[Upload, ...]]
    texts: dict[str, str] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)


async def read_form(request: Request, limits: Limits, shape: Shape) -> Form:
    """Read a multipart body, refusing it as soon as it is larger than the limits.

    Raises:
        Problem: another content type, a broken form, too large, no files, too many, a field that is not known.
    """
    sent = await _parse(request, limits, shape)
    try:
        told = " and ".join(shape.names)
        errors = [
            InvalidValue(where=f"form.{plain(key)}", what=f"unknown field; there are {told}")
            for key in sorted(set(sent) - set(shape.names))
        ]
        files = {each.name: await _files(sent, each, errors) for each in shape.files}
        texts = {each.name: _text(sent, each, errors) for each in shape.texts}
    finally:
        await sent.close()
    if errors:
        raise invalid(*errors)
    for each in shape.files:
        if not files[each.name]:
            what = "a file" if each.most == 1 else "each file"
            raise Problem("no-files", f"send {what} in the field `{each.name}`")
        if len(files[each.name]) > each.most:
            raise too_many(each.most)
    uploads = [file for each in files.values() for file in each]
    noted = asked(request).digests
    digests = await asyncio.to_thread(lambda: [file.digest for file in uploads]) if noted else []
    return Form(files, texts, digests)


def safe_name(name: str | None) -> str | None:
    """Return a file name without folders, in plain characters; None where nothing is left.

    >>> safe_name("../../knees/left knee.png")
    'left_knee.png'
    """
    last = re.split(r"[/\\]", name or "")[-1]
    return plain(last)[:_LONGEST_NAME].strip("._") or None


def plain(text: str) -> str:
    """Return text with an underscore for each run of characters that are not plain."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def too_many(most: int) -> Problem:
    return Problem("too-many-files", f"a request may have {most:,} files here: send fewer")


def too_large(limits: Limits) -> Problem:
    return Problem("too-large", f"a request may have {limits.max_body:,} bytes: send fewer files or smaller ones")


async def _files(sent: FormData, field: Files, errors: list[InvalidValue]) -> tuple[Upload, ...]:
    given = sent.getlist(field.name)
    if any(isinstance(each, str) for each in given):
        errors.append(InvalidValue(where=f"form.{field.name}", what="must be files, each with a filename"))
    there = [each for each in given if isinstance(each, UploadFile)]
    return tuple([Upload(place, safe_name(each.filename), await each.read()) for place, each in enumerate(there)])


def _text(sent: FormData, field: Text, errors: list[InvalidValue]) -> str:
    given = sent.getlist(field.name)
    if not given and not field.needed:
        return ""
    if len(given) != 1 or not isinstance(given[0], str) or len(given[0]) > field.longest:
        what = f"must be one text of at most {field.longest:,} characters, such as {field.example}"
        errors.append(InvalidValue(where=f"form.{field.name}", what=what))
        return ""
    return given[0].strip()


async def _parse(request: Request, limits: Limits, shape: Shape) -> FormData:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        told = " and ".join(f"`{each.name}`" for each in shape.files)
        raise Problem("not-a-form", f"send multipart/form-data with files in {told}")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > _LONGEST_LENGTH or int(stated) > limits.max_body):
        raise too_large(limits)
    most = sum(each.most for each in shape.files)
    longest = max([1024, *(4 * each.longest for each in shape.texts)])  # a character has at most four bytes
    parser = MultiPartParser(
        request.headers, _limited(request, limits), max_files=most, max_fields=8, max_part_size=longest
    )
    # Starlette would put parts above 1 MB into files; the body is bounded, and images of patients stay off disks.
    parser.spool_max_size = limits.max_body + 1
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(most) from None
        raise Problem("malformed-form", f"the multipart body is broken: {error.message}") from None


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body's chunks, as long as it is not too large and does not hold its place by arriving a byte at a time."""
    received, began, chunks = 0, time.monotonic(), request.stream()
    while True:
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, and with it the gate's end of all waiting.
            async with asyncio.timeout(_PATIENCE_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _too_slow() from None
        if chunk is None:
            return
        received += len(chunk)
        if received > limits.max_body:
            raise too_large(limits)
        if received < (time.monotonic() - began - _PATIENCE_S) * _LEAST_RATE:
            raise _too_slow()
        yield chunk


def _too_slow() -> Problem:
    return Problem("too-slow", f"a body has to arrive at {_LEAST_RATE / 1024:g} KiB a second: ask again")
