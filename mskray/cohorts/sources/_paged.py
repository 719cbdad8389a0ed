"""Files of which the first page was read ahead: a header that is longer goes on in the file itself, up to a bound."""

import io
from typing import Any

from mskray.storage import Location


class TooLong(Exception):
    """A header went on beyond the bound."""


class Paged(io.RawIOBase):
    """A file whose first page is at hand; what follows is read where it is asked for. At most `most` bytes in all."""

    name = ""  # pydicom asks for it

    def __init__(self, place: Location, size: int, page: bytes, most: int) -> None:
        self._place, self._size, self._page, self._left = place, size, page, most
        self._at = 0
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._page[self._at : self._at + len(buffer)] or self._beyond(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise TooLong
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _beyond(self, count: int) -> bytes:
        if self._at >= self._size:
            return b""
        if self._file is None:
            self._file = self._place.filesystem.open_input_file(self._place.path)
        self._file.seek(self._at)
        return bytes(self._file.read(count))
