"""A study of an archive on its way to what reads it: what it holds is known, images are fetched when they are needed.

for images in study.series:
    pictures = study.fetch(images)      # one series in memory, not a study of thousands of slices
    yield Part(results)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from mskray.dicom.archive import Archive, Held, Refused
from mskray.errors import Fault, UserError


class Failed(UserError):
    """There is no answer this time, and perhaps the next."""


@dataclass(frozen=True)
class Part:
    """What was made of a part of a study: objects to store, or why there is none."""

    results: Sequence[Dataset] = ()
    reason: str = ""


class Study:
    """A study's images.

    Args:
        archive: that holds them.
        uid: StudyInstanceUID.
        images: those that are to be read.
    """

    def __init__(self, archive: Archive, uid: str, images: Sequence[Held]) -> None:
        self.archive, self.uid, self.images = archive, uid, images

    @property
    def series(self) -> list[list[Held]]:
        """The images by series."""
        found: dict[str, list[Held]] = {}
        for held in self.images:
            found.setdefault(held.series, []).append(held)
        return list(found.values())

    def fetch(self, images: Iterable[Held]) -> list[Dataset]:
        """Images as they are stored, without pictures that this package made: an overlay is not predicted upon.

        Raises:
            Failed: the archive does not give one. Fault and Refused as its methods.
        """
        return [image for image in self._fetched(images) if not _is_result(image)]

    def _fetched(self, images: Iterable[Held]) -> Iterator[Dataset]:
        for held in images:
            try:
                yield self.archive.fetch(self.uid, held.series, held.instance)
            except (Fault, Refused):
                raise
            except UserError as error:
                raise Failed(str(error)) from error


def _is_result(image: Dataset) -> bool:
    return str(image.get("Manufacturer", "")) == "mskray" and str(image.get("ConversionType", "")) == "WSD"
