"""An archive of everything: an Orthanc, studies for it, a server that answers them, and what came of it."""

import io
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
from block_spine import BlockSpine
from dicom_sources import radiograph as source
from dicom_sources import slices
from orthanc_server import PASSWORD, USER, Orthanc
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from serving_samples import Local, radiograph
from small_pairs import picture

from mskray.dicom.archive import Archive, Held
from mskray.dicom.study import Study
from mskray.families.vertebra_finding import Spine
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.volumes import Volume
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.spines import SpineReader

SPINE = BlockSpine(("L4", "L5"), shape=(7, 160, 130), middle=3, spacing=(4.0, 0.7, 0.9))
LOWER = [FoundVertebra(each.level, each.slice, each.corners, 0.9) for each in SPINE.vertebrae.values()]


class KnowingReader(SpineReader):
    """Grades where the bodies of SPINE are known to be: a detector would have to be trained for hours to find them."""

    def read(self, volume: Volume, copies: int | None = None) -> Iterator[Reached | SpineReading]:
        return self.read_known(volume, Spine(tuple(LOWER[::-1]), ()), copies and 2)


class Answering(Local):
    """Models in this process; what reads spines breaks at the series that `breaks_at` counts down to, once."""

    breaks_at = 0

    async def spine(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        self.breaks_at -= 1
        if self.breaks_at == 0:
            raise RuntimeError("out of memory")
        async for each in super().spine(volume, copies):
            yield each

    def read_by(self, reader: SpineReader) -> None:
        """Have another model read spines."""
        self._spines = reader


def study(name: str, views: int = 1, pixels: np.ndarray | None = None, **elements: Any) -> list[Dataset]:
    """Radiographs of one series."""
    uid, series = (generate_uid(entropy_srcs=[kind, name]) for kind in ("study", "series"))
    given = {"StudyInstanceUID": uid, "SeriesInstanceUID": series, **elements}
    return [
        source(
            radiograph(len(name) + view, dtype=np.uint16) if pixels is None else pixels, name=f"{name} {view}", **given
        )
        for view in range(views)
    ]


def knee(name: str, date: str, seed: int, **elements: Any) -> list[Dataset]:
    """A single picture of a patient who has others."""
    facts = {"StudyDate": date, "PatientID": "MRN-7", "SeriesDescription": "knee ap", **elements}
    return study(name, pixels=picture(seed).astype(np.uint16) * 16, **facts)


def spine_series(
    name: str, study_name: str = "spine", turn: np.ndarray | None = None, **elements: Any
) -> list[Dataset]:
    """An MR series of SPINE, turned in the patient by a matrix."""
    affine = SPINE.volume.affine if turn is None else turn @ SPINE.volume.affine
    made = slices(np.rint(SPINE.volume.pixels).astype(np.uint16), affine, **elements)
    for number, image in enumerate(made):
        image.StudyInstanceUID = generate_uid(entropy_srcs=["study", study_name])
        image.SeriesInstanceUID = generate_uid(entropy_srcs=["series", study_name, name])
        image.SOPInstanceUID = generate_uid(entropy_srcs=["slice", study_name, name, str(number)])
    return made


class Given(Study):
    """A study of images that are here already."""

    def __init__(self, images: list[Dataset]) -> None:
        self._here = {str(image.SOPInstanceUID): image for image in images}
        held = [Held(str(each.SeriesInstanceUID), name, each.Modality) for name, each in self._here.items()]
        super().__init__(Archive("http://127.0.0.1:9"), str(images[0].StudyInstanceUID), held)

    def fetch(self, images: Iterable[Held]) -> list[Dataset]:
        return [self._here[held.instance] for held in images]


AXIAL = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def held(orthanc: Orthanc) -> list[Dataset]:
    """Every object that the archive holds."""
    root = f"http://127.0.0.1:{orthanc.port}/instances"
    names = requests.get(root, auth=(USER, PASSWORD), timeout=30).json()
    files = (requests.get(f"{root}/{name}/file", auth=(USER, PASSWORD), timeout=30).content for name in names)
    return [dcmread(io.BytesIO(file)) for file in files]


def made_by_us(objects: list[Dataset]) -> list[Dataset]:
    return [each for each in objects if each.get("Manufacturer") == "mskray"]


def referred_to(dataset: Dataset) -> set[str]:
    """SOP instance UIDs that an object refers to, wherever it does."""
    return {str(element.value) for element in dataset.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


def folder(path: Path) -> Path:
    path.mkdir()
    return path
