"""The images that a result is about: what their headers must have, what stands in for what they lack, and new UIDs.

Results inherit patient and study from their source, and refer to it. Headers in the wild lack elements, have values
that the standard forbids, or name a patient in an old character set: they are read here, once, into a small header that
is whole, and everything else in this room works from that one.
"""

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from highdicom._standard_utils import get_sop_class_iod_map
from highdicom.utils import is_tiled_image
from pydicom import Dataset
from pydicom.uid import UID, generate_uid

from mskray.dicom.results import Algorithm
from mskray.errors import UserError
from mskray.imaging.quiet import quiet

_UTF8 = "ISO_IR 192"
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TEXTS = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName"),
    *("Modality", "BodyPartExamined", "Laterality", "ImageLaterality", "BurnedInAnnotation"),
    *("Manufacturer", "ManufacturerModelName"),
)
_NUMBERS = ("Rows", "Columns", "NumberOfFrames")
_VECTORS = {
    "PixelSpacing": 2,
    "ImagerPixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "SliceThickness": 1,
}
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_VALID = {
    "PatientBirthDate": re.compile(r"\d{8}"),
    "StudyDate": re.compile(r"\d{8}"),
    "StudyTime": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "PatientSex": re.compile(r"[MFO]"),
    "PatientAge": re.compile(r"\d{3}[DWMY]"),
    "Laterality": re.compile(r"[LR]"),
    "ImageLaterality": re.compile(r"[LRUB]"),
    "BurnedInAnnotation": re.compile(r"YES|NO"),
    "PatientIdentityRemoved": re.compile(r"YES|NO"),
}
_UNPAIRED = ("CSPINE", "TSPINE", "LSPINE", "SSPINE", "SPINE", "PELVIS")
_IN_CHARACTER_SET = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_WAY = re.compile(r"[ALPRHF]{1,3}")
_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")


def headers(sources: Sequence[Dataset], one_study: bool = True) -> list[Dataset]:
    """Whole headers of the images that results refer to; what a header may lack is left empty or out.

    Args:
        sources: as pydicom read them; pixels are not needed.
        one_study: refuse sources of several studies.
    Raises:
        UserError: there is none, two are the same, one has no UID or size or is no image, they are of several patients
            or, with `one_study`, of several studies.
    """
    if not sources:
        raise UserError("no source image: DICOM results must refer to the images that they are about")
    with quiet("pydicom"):
        found = [_header(source) for source in sources]
    names = [header.SOPInstanceUID for header in found]
    if len(set(names)) != len(names):
        raise UserError("the same source image is given twice: give each instance once")
    patients = {(str(header.PatientID), str(header.get("IssuerOfPatientID", ""))) for header in found}
    if len(patients) > 1:
        raise UserError("the source images are of several patients: make one result for each")
    if one_study and len({header.StudyInstanceUID for header in found}) > 1:
        raise UserError("the source images are of several studies: make one result for each")
    return found


def _header(source: Dataset) -> Dataset:
    """One whole header."""
    header = Dataset()
    header.SpecificCharacterSet = _UTF8
    for keyword in _NEEDED:
        value = _text(source, keyword)
        if not UID(value).is_valid or not value:
            said = f"{keyword} {value!r} is no UID" if value else f"it has no {keyword}"
            raise UserError(f"a source image cannot be referred to: {said}")
        setattr(header, keyword, UID(value))
    if header.SOPClassUID not in get_sop_class_iod_map():
        name = UID(header.SOPClassUID).name
        raise UserError(f"results cannot refer to objects of the SOP class {name}: give images of a class in use")
    for keyword in _TEXTS:
        text = _text(source, keyword)
        if text and not (keyword in _VALID and not _VALID[keyword].fullmatch(text)):
            setattr(header, keyword, text)
    for keyword in (*_EMPTY, "AccessionNumber", "ReferringPhysicianName"):
        if keyword not in header:
            setattr(header, keyword, "")
    header.Modality = header.get("Modality") or "OT"
    for keyword in _NUMBERS:
        number = source.get(keyword)
        if number not in (None, "", 0):
            setattr(header, keyword, int(number))
    if not header.get("Rows") or not header.get("Columns"):
        raise UserError(f"{header.SOPInstanceUID} is no image: it has no rows or columns")
    for keyword in _LOSSY:
        if source.get(keyword):
            setattr(header, keyword, source.get(keyword))
    _copy_geometry(source, header)
    ways = [str(way) for way in source.get("PatientOrientation") or ()]
    if len(ways) == 2 and all(_WAY.fullmatch(way) for way in ways):
        header.PatientOrientation = ways
    if is_tiled_image(header):
        raise UserError("results cannot be made for tiled images: give radiographs or slices")
    return header


def _copy_geometry(source: Dataset, header: Dataset) -> None:
    """Place and spacing, where they are whole; a frame of reference only with them: alone it places nothing."""
    for keyword, length in _VECTORS.items():
        numbers = _numbers(source.get(keyword))
        lengths = keyword.endswith(("Spacing", "Thickness"))
        if len(numbers) == length and np.isfinite(numbers).all() and (not lengths or min(numbers) > 0):
            setattr(header, keyword, source.get(keyword))  # as it was written: no digit changes
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in source:
            setattr(header, keyword, source.get(keyword))
    if placed(header):
        frame = _text(source, "FrameOfReferenceUID")
        # Old scanners leave it out; slices of one series share their coordinates all the same.
        header.FrameOfReferenceUID = frame if UID(frame).is_valid and frame else uid("frame", header.SeriesInstanceUID)
        header.PositionReferenceIndicator = _text(source, "PositionReferenceIndicator")


def placed(header: Dataset) -> bool:
    """Whether the image lies in the patient's coordinates: slices do, radiographs do not."""
    if "PerFrameFunctionalGroupsSequence" in header:
        keywords = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
        frames = [frame for keyword in keywords for frame in header.get(keyword, ())]
        return any("PlanePositionSequence" in frame for frame in frames)
    return all(keyword in header for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))


def _text(source: Dataset, keyword: str) -> str:
    """A value as text in its own character set, "" where it is absent or cannot be read."""
    try:
        return str(source.get(keyword) or "").replace("\0", "").strip()
    except Exception:  # pydicom decodes values only now: a broken one is as good as none
        return ""


def _numbers(value: Any) -> list[float]:
    try:
        return [float(each) for each in (value if hasattr(value, "__iter__") else [value])]
    except (TypeError, ValueError):
        return []


def uid(*entropy: object) -> UID:
    """A UID that is the same whenever it is asked for with the same words."""
    return UID(generate_uid(entropy_srcs=["mskray", *(f"{each}\0" for each in entropy)]))


def new_uids(kind: str, sources: Sequence[Dataset], algorithm: Algorithm, *content: object) -> tuple[UID, UID]:
    """(series, instance) of a result: the same for the same result of the same sources by the same model.

    content: what else tells it from the model's other results of these sources.
    """
    # A series has one frame of reference, and a study may have several.
    frame = [sources[0].FrameOfReferenceUID] if "FrameOfReferenceUID" in sources[0] else []
    series = uid("series", kind, sources[0].StudyInstanceUID, *algorithm.identity, *frame)
    images = [header.SOPInstanceUID for header in sources]
    return series, uid("instance", kind, *images, *algorithm.identity, *content)


def finish_frames(made: Dataset, first: Dataset) -> Dataset:
    """Complete a multi-frame object: UIDs that depend on it alone, body part and side, which way up the patient is.

    made: the object. first: the header of its first source, on whose pixels it lies where it has no place of its own.
    """
    organization = uid("dimensions", made.SOPInstanceUID)
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(keyword, ()):
            item.DimensionOrganizationUID = organization
    part = first.get("BodyPartExamined")
    if part:
        made.BodyPartExamined = part
    if part not in _UNPAIRED and "SegmentSequence" not in made:  # a segmentation must not have it
        made.Laterality = first.get("Laterality") or first.get("ImageLaterality")
    if "FrameOfReferenceUID" not in made:
        made.PatientOrientation = first.get("PatientOrientation")
    return settle_characters(made)


def settle_characters(made: Dataset) -> Dataset:
    """The same object, without a character set where it needs none: not every archive takes UTF-8."""
    texts = (str(element.value) for element in made.iterall() if element.VR in _IN_CHARACTER_SET)
    if all(text.isascii() for text in texts):
        del made.SpecificCharacterSet
    return made


def file_bytes(made: Dataset) -> bytes:
    """A result as the bytes of a DICOM file."""
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
