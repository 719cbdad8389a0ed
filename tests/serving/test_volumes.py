"""Uploads to one sagittal volume: every layout, what is refused and how it is said, bombs."""

import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from block_spine import BlockSpine
from disc_layouts import metaimage, series

from mskray.imaging.volumes import Volume, to_plane
from mskray.serving.problems import Problem
from mskray.serving.settings import Limits
from mskray.serving.uploads import Upload
from mskray.serving.volumes import MAX_FILES, decode_volume

SPINE = BlockSpine(shape=(9, 100, 80)).volume
LIMITS = Limits(max_body=1 << 22, max_unpacked=1 << 22, max_pixels=200_000)
SECRET = "Mustermann-Erika"


def uploads(*contents: bytes) -> list[Upload]:
    return [Upload(place, f"{SECRET}-{place}.dcm", content) for place, content in enumerate(contents)]


def zipped(*contents: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in enumerate(contents):
            archive.writestr(f"{SECRET}/{place}.dcm", content)
    return target.getvalue()


def slices(folder: Path, volume: Volume = SPINE, uid: str = "1.2.4") -> list[bytes]:
    return [path.read_bytes() for path in sorted(series(folder / uid, volume, uid=uid).iterdir())]


def nifti(volume: Volume = SPINE) -> bytes:
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    return nibabel.Nifti1Image(volume.pixels.transpose(2, 1, 0), affine).to_bytes()


def files(layout: str, folder: Path) -> list[bytes]:
    """One sagittal volume as people send it."""
    axial = to_plane(replace(SPINE, pixels=SPINE.pixels[:, ::8]), "axial")
    axial = replace(axial, spacing_mm=(4.8, *axial.spacing_mm[1:]), affine=axial.affine @ np.diag([1, 1, 8, 1]))
    match layout:
        case "series":
            return slices(folder)
        case "zip of a series":
            return [zipped(*slices(folder))]
        case "zip and a text":
            return [zipped(*slices(folder)), b"a note"]
        case "nifti":
            return [nifti()]
        case "nifti, zipped twice":
            return [zipped(gzip.compress(nifti()))]
        case "metaimage":
            return [metaimage(folder / "a.mha", SPINE).read_bytes()]
        case "slices stored across":
            return [metaimage(folder / "a.mha", to_plane(SPINE, "coronal")).read_bytes()]
        case "beside an axial series":
            return [*slices(folder, axial, "1.2.9"), *slices(folder)]
    raise AssertionError(layout)


@pytest.mark.parametrize(
    "layout",
    [
        "series",
        "zip of a series",
        "zip and a text",
        "nifti",
        "nifti, zipped twice",
        "metaimage",
        "slices stored across",
        "beside an axial series",
    ],
)
def test_one_volume_is_read_whatever_it_lies_in(layout: str, tmp_path: Path) -> None:
    found = decode_volume(uploads(*files(layout, tmp_path)), LIMITS)
    np.testing.assert_allclose(found.pixels, SPINE.pixels, atol=0.5)  # DICOM holds whole numbers
    np.testing.assert_allclose(found.affine, SPINE.affine, atol=1e-4)
    assert found.pixels.flags.c_contiguous


def axial_stack(folder: Path) -> list[bytes]:
    axial = replace(SPINE, affine=np.array([[0.6, 0, 0, 0], [0, 0.6, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]]))
    return slices(folder, axial)


def bad(case: str, folder: Path) -> Sequence[bytes]:
    match case:
        case "nothing":
            return []
        case "garbage":
            return [b"%PDF-1.7", b"\x00" * 500]
        case "empty zip":
            return [zipped()]
        case "damaged zip":
            return [zipped(*slices(folder))[:-40]]
        case "truncated":
            return [nifti()[:2000]]
        case "one slice":
            return slices(folder)[:1]
        case "axial":
            return axial_stack(folder)
        case "two series":
            return [*slices(folder), *slices(folder, uid="1.2.9")]
        case "many pixels":
            return [gzip.compress(nifti(replace(SPINE, pixels=np.zeros((30, 100, 80), np.float32))))]
        case "many pixels together":
            return [nifti(), nifti(), nifti(), nifti()]
        case "bomb":
            return [zipped(bytes(1 << 23))]
        case "many files":
            return [zipped(*[b"x"] * (MAX_FILES + 1))]
        case "many files, none of a zip":
            return [b"x"] * (MAX_FILES + 1)
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "kind", "detail"),
    [
        ("nothing", "unreadable-volume", "no files: send the files of a DICOM series"),
        ("garbage", "unreadable-volume", "not DICOM, NIfTI or MetaImage: send"),
        ("empty zip", "unreadable-volume", "zip without files"),
        ("damaged zip", "unreadable-volume", "damaged zip: pack it again"),
        ("truncated", "unreadable-volume", "truncated NIfTI: 2000 of"),
        ("one slice", "unreadable-volume", "a volume of one slice: at least 2 are needed: send a sagittal series"),
        ("axial", "unreadable-volume", "axial slices: bodies are found on sagittal ones: send a sagittal series"),
        ("two series", "unreadable-volume", "2 volumes that may show a spine in one upload: send the files of one"),
        ("many pixels", "unreadable-volume", "more than the limit of 200000 pixels"),
        ("many pixels together", "unreadable-volume", "2 volumes that may show a spine"),
        ("bomb", "too-large", "zip of more than 4,194,304 bytes when unpacked"),
        ("many files", "too-large", "zip of more than 2000 files"),
        ("many files, none of a zip", "too-large", "more than 2,000 files"),
    ],
)
def test_what_cannot_be_read_is_a_problem_without_names(case: str, kind: str, detail: str, tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        decode_volume(uploads(*bad(case, tmp_path)), LIMITS)
    assert caught.value.kind == kind
    assert detail in caught.value.detail
    assert SECRET not in caught.value.detail


def test_deflated_files_share_the_room(tmp_path: Path) -> None:
    """Each inflates to a share of what may be unpacked: all are held at once."""
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    deflated = []
    for content in slices(tmp_path):
        data = dcmread(io.BytesIO(content))
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        target = io.BytesIO()
        data.save_as(target)
        deflated.append(target.getvalue())
    assert len(decode_volume(uploads(*deflated), LIMITS).pixels) == len(deflated)
    with pytest.raises(Problem, match="deflated DICOM of more than the limit of 11111 bytes"):
        decode_volume(uploads(*deflated), LIMITS.model_copy(update={"max_unpacked": 100_000}))
