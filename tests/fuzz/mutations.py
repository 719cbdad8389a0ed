"""Damage to files: flipped bits, cuts, splices, doubled pieces, fields that lie about lengths and dimensions.

A change is data, so that Hypothesis can make a failing example smaller. Positions are taken modulo the length.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

EXTREME = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    64,
    255,
    256,
    4095,
    32767,
    32768,
    65535,
    65536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST_PIECE, _HEADER = 400, 700


@dataclass(frozen=True)
class Change:
    """One change: `kind` of `_KINDS`, where, how much of what."""

    kind: str
    at: int
    length: int = 1
    value: int = 0
    piece: bytes = b""


def changed(data: bytes, changes: Sequence[Change]) -> bytes:
    """Return the data after the changes, in order; a PNG's check sums are made right, or none would be read."""
    for change in changes:
        data = _KINDS[change.kind](data, change)
    return with_check_sums(data)


def changes(most: int = 4) -> st.SearchStrategy[list[Change]]:
    """Some changes: half of them where headers lie, many in fields that state lengths and dimensions."""
    at = st.integers(0, _HEADER) | st.integers(0, 1 << 22)
    length, piece = st.integers(1, _LONGEST_PIECE), st.binary(max_size=24)
    one = st.one_of(
        st.builds(Change, st.just("flip"), at, value=st.integers(0, 7)),
        st.builds(Change, st.just("field"), st.integers(0, 40), value=st.sampled_from(EXTREME)),
        st.builds(
            Change, st.just("number"), at, length=st.sampled_from([1, 2, 4, -2, -4]), value=st.sampled_from(EXTREME)
        ),
        st.builds(Change, st.just("text number"), st.integers(0, 40), value=st.sampled_from([-1, *EXTREME, 10**30])),
        st.builds(Change, st.just("cut"), at),
        st.builds(Change, st.just("drop"), at, length),
        st.builds(Change, st.just("double"), at, length),
        st.builds(Change, st.just("insert"), at, piece=piece),
        st.builds(Change, st.just("overwrite"), at, piece=piece),
        st.builds(Change, st.just("move"), at, length, value=st.integers(0, 1 << 22)),
    )
    return st.lists(one, min_size=1, max_size=most)


def fields(data: bytes) -> list[tuple[int, str]]:
    """Where a file states lengths, dimensions and types, as offsets and formats of `struct`, by what its content is."""
    found: list[tuple[int, str]] = []
    for start, reader in _FIELDS:
        if start.match(data):
            found += [field for field in reader(data) if field[0] + struct.calcsize(field[1]) <= len(data)]
    return found


def with_check_sums(data: bytes) -> bytes:
    """Return a PNG with right CRCs, and anything else as it is."""
    if not data.startswith(_PNG):
        return data
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        parts.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + data[at:]


def _flip(data: bytes, change: Change) -> bytes:
    at = change.at % max(1, len(data))
    return data[:at] + bytes(each ^ (1 << change.value) for each in data[at : at + 1]) + data[at + 1 :]


def _field(data: bytes, change: Change) -> bytes:
    known = fields(data)
    if not known:
        return data
    at, form = known[change.at % len(known)]
    return _with_number(data, at, form, change.value)


def _number(data: bytes, change: Change) -> bytes:
    form = (">" if change.length < 0 else "<") + {1: "B", 2: "H", 4: "I"}[abs(change.length)]
    at = change.at % max(1, len(data))
    return data if at + abs(change.length) > len(data) else _with_number(data, at, form, change.value)


def _with_number(data: bytes, at: int, form: str, value: int) -> bytes:
    size = struct.calcsize(form)
    order = "big" if form[0] == ">" else "little"
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, order) + data[at + size :]


def _text_number(data: bytes, change: Change) -> bytes:
    """Another number in the text of a header."""
    places = list(re.finditer(rb"(?<=[ =])-?[0-9.]{1,12}(?=[ \r\n])", data[:2000]))
    if not places:
        return data
    found = places[change.at % len(places)]
    return data[: found.start()] + str(change.value).encode() + data[found.end() :]


def _cut(data: bytes, change: Change) -> bytes:
    return data[: change.at % (len(data) + 1)]


def _drop(data: bytes, change: Change) -> bytes:
    at = change.at % (len(data) + 1)
    return data[:at] + data[at + change.length :]


def _double(data: bytes, change: Change) -> bytes:
    at = change.at % (len(data) + 1)
    return data[: at + change.length] + data[at:]


def _insert(data: bytes, change: Change) -> bytes:
    at = change.at % (len(data) + 1)
    return data[:at] + change.piece + data[at:]


def _overwrite(data: bytes, change: Change) -> bytes:
    at = change.at % (len(data) + 1)
    return data[:at] + change.piece + data[at + len(change.piece) :]


def _move(data: bytes, change: Change) -> bytes:
    """A piece from elsewhere in the place of another."""
    at, other = change.at % (len(data) + 1), change.value % (len(data) + 1)
    return data[:at] + data[other : other + change.length] + data[at + change.length :]


_KINDS: dict[str, Callable[[bytes, Change], bytes]] = {
    "flip": _flip,
    "field": _field,
    "number": _number,
    "text number": _text_number,
    "cut": _cut,
    "drop": _drop,
    "double": _double,
    "insert": _insert,
    "overwrite": _overwrite,
    "move": _move,
}


def _png_fields(data: bytes) -> Iterator[tuple[int, str]]:
    yield from ((16, ">I"), (20, ">I"), (24, "<B"), (25, "<B"), (28, "<B"))
    yield from ((found.start() - 4, ">I") for found in re.finditer(rb"IDAT|IEND", data))


def _jpeg_fields(data: bytes) -> Iterator[tuple[int, str]]:
    for found in re.finditer(rb"\xff[\xc0-\xcf\xda\xdb]", data[:4000]):
        at = found.start()
        yield from ((at + 2, ">H"), (at + 4, "<B"), (at + 5, ">H"), (at + 7, ">H"), (at + 9, "<B"))


def _tiff_fields(data: bytes) -> Iterator[tuple[int, str]]:
    (first,) = struct.unpack_from("<I", data, 4)
    yield (4, "<I")
    if first + 2 > len(data):
        return
    (count,) = struct.unpack_from("<H", data, first)
    for place in range(min(count, 40)):
        at = first + 2 + 12 * place
        yield from ((at, "<H"), (at + 2, "<H"), (at + 4, "<I"), (at + 8, "<I"))


def _dicom_fields(data: bytes) -> Iterator[tuple[int, str]]:
    """Numbers of the image's group and lengths of its pixels, in either byte order, with and without a stated type."""
    for found in re.finditer(rb"\x28\x00..(US\x02\x00|\x02\x00\x00\x00)", data, re.DOTALL):
        yield from ((found.start() + 8, "<H"), (found.start() + 4, "<I"))
    for found in re.finditer(rb"\x00\x28..US\x00\x02", data, re.DOTALL):
        yield from ((found.start() + 8, ">H"), (found.start() + 6, ">H"))
    for found in re.finditer(rb"\xe0\x7f\x10\x00|\x7f\xe0\x00\x10|\xfe\xff\x00\xe0", data):
        yield from ((found.start() + 8, "<I"), (found.start() + 4, "<I"))


def _zip_fields(data: bytes) -> Iterator[tuple[int, str]]:
    for found in re.finditer(rb"PK\x03\x04|PK\x01\x02|PK\x05\x06", data):
        at = found.start()
        kind = data[at + 2]
        yield from ((at + each, "<H") for each in {3: (6, 8, 26, 28), 1: (8, 10, 28, 30, 32), 5: (8, 10, 20)}[kind])
        yield from ((at + each, "<I") for each in {3: (14, 18, 22), 1: (16, 20, 24, 42), 5: (12, 16)}[kind])


def _nifti_fields(data: bytes) -> Iterator[tuple[int, str]]:
    yield from ((at, "<H") for at in (*range(40, 56, 2), 70, 72, 252, 254))
    yield from ((at, "<I") for at in (0, *range(76, 108, 4), 108, 112, 116, *range(256, 328, 4)))


_FIELDS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Iterator[tuple[int, str]]]], ...] = (
    (re.compile(re.escape(_PNG) + rb".{4}IHDR", re.DOTALL), _png_fields),
    (re.compile(rb"\xff\xd8\xff"), _jpeg_fields),
    (re.compile(rb"II\*\x00.{4}", re.DOTALL), _tiff_fields),
    (re.compile(rb".{128}DICM", re.DOTALL), _dicom_fields),
    (re.compile(rb"PK[\x03\x05]"), _zip_fields),
    (re.compile(rb"\x5c\x01\x00\x00.{344}", re.DOTALL), _nifti_fields),
)
