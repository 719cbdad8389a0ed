"""What is asked for, as HTTP has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mskray.errors import UserError

File = str | Path | bytes
"""A picture or a volume: the path of a file, or its content."""


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, tuple[str, bytes]]] = ()
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return httpx's keywords."""
        return {
            "params": dict(self.query),
            "data": dict(self.fields) or None,
            "files": list(self.files) or None,
            "json": self.json,
            "headers": dict(self.headers),
        }


def study(views: Sequence[File], body_part: str | None, partial: bool, explain: Sequence[str], arrays: bool) -> Request:
    if not views:
        raise UserError("a study needs a view: give files or their content")
    query: dict[str, Any] = {"partial": "true"} if partial else {}
    if explain:
        query |= {"explain": list(explain), "explain_as": "arrays" if arrays else "links"}
    return Request("POST", "/v1/studies", query, _part(body_part), _files("views", "view", views))


def batch(archive: File, body_part: str | None) -> Request:
    return Request("POST", "/v1/batches", {}, _part(body_part), _files("studies", "studies", [archive]))


def pair(before: File, after: File, body_part: str | None) -> Request:
    files = [*_files("before", "before", [before]), *_files("after", "after", [after])]
    return Request("POST", "/v1/pairs", {}, _part(body_part), files)


def spine(files: Sequence[File], explain: str | None, copies: int | None) -> Request:
    if not files:
        raise UserError("a spine needs files: give those of a DICOM series, a zip, a NIfTI or a MetaImage file")
    query: dict[str, Any] = {} if explain is None else {"explain": explain}
    if copies is not None:
        query["copies"] = str(copies)
    return Request("POST", "/v1/spines", query, {}, _files("files", "file", files))


def _part(body_part: str | None) -> dict[str, str]:
    return {} if body_part is None else {"body_part": body_part}


def _files(field: str, name: str, files: Sequence[File]) -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (f"{name}-{number}", _content(file))) for number, file in enumerate(files, start=1)]


def _content(file: File) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"file {file}: {error.strerror or error}") from None
