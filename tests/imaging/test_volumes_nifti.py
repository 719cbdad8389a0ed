"""NIfTI → volumes: the same voxels at the same places, and nothing decompressed beyond what the header says."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
from volume_files import LPS, RAS, STORED, make_nifti

from mskray.imaging.decode import DecodeError, DecodeLimits
from mskray.imaging.volumes import read_nifti, to_sagittal
from mskray.imaging.volumes.nifti import is_nifti


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_voxels_and_places(kind: type, pack) -> None:
    data = pack(make_nifti(kind=kind).to_bytes())
    assert is_nifti(data)
    volume = read_nifti(data)
    np.testing.assert_array_equal(volume.pixels, STORED)
    assert volume.pixels.dtype == np.float32
    np.testing.assert_allclose(volume.affine, LPS, atol=1e-6)
    assert volume.spacing_mm == pytest.approx((4.0, 0.75, 0.5))
    assert (volume.thickness_mm, volume.modality, volume.notes) == (None, "", ())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_in_both_byte_orders(dtype: type, order: str) -> None:
    stored = np.abs(STORED).astype(dtype)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(stored.T, RAS, header)
    np.testing.assert_array_equal(read_nifti(image.to_bytes()).pixels, stored)


def test_slope_and_intercept() -> None:
    volume = read_nifti(edited(scl_slope=0.5, scl_inter=-3))
    np.testing.assert_array_equal(volume.pixels, STORED * 0.5 - 3)


def test_extensions_are_passed_over() -> None:
    image = make_nifti()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe^Jane " * 200))
    data = gzip.compress(image.to_bytes())
    volume = read_nifti(data)
    np.testing.assert_array_equal(volume.pixels, STORED)
    assert volume.notes == ()


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_units(unit: str, scale: float) -> None:
    image = make_nifti()
    image.header.set_xyzt_units(unit)
    np.testing.assert_allclose(read_nifti(image.to_bytes()).affine[:3], LPS[:3] * scale, rtol=1e-6, atol=1e-9)


def test_without_an_orientation_it_says_so() -> None:
    image = make_nifti(affine=None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    volume = read_nifti(image.to_bytes())
    assert volume.notes == ("no orientation stated: axes taken as left, anterior, superior",)
    np.testing.assert_array_equal(volume.axes, [(0, 0, 1), (0, -1, 0), (1, 0, 0)])


def test_a_stack_stored_crosswise_comes_out_sagittal() -> None:
    stored = np.arange(2 * 3 * 4, dtype=np.int16).reshape(4, 3, 2)  # axes: up, forward, right
    volume = to_sagittal(read_nifti(make_nifti(stored, np.diag([3.0, 1, 1, 1])).to_bytes()))
    # Right → left, head → feet, front → back: each of the three axes turned round.
    np.testing.assert_array_equal(volume.pixels, stored[::-1, ::-1, ::-1].transpose(2, 0, 1))
    assert volume.spacing_mm == (3.0, 1.0, 1.0)


def test_voxels_that_are_not_finite_take_the_lowest() -> None:
    stored = STORED.astype(np.float32)
    stored[0, 0, :2] = np.nan, np.inf
    volume = read_nifti(make_nifti(stored).to_bytes())
    np.testing.assert_array_equal(volume.pixels[0, 0], [-10, -10, -10, -9, -8])
    assert volume.notes == ("2 voxels without a finite value took the lowest",)


def edited(**fields: object) -> bytes:
    """A NIfTI file whose header says something that nibabel would not write."""
    header = make_nifti().header.copy()
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4) + STORED.tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_nifti(np.stack([STORED, STORED])).to_bytes(), r"4 dimensions \(5 × 4 × 3 × 2\): give one volume a file"),
        (make_nifti(STORED[0]).to_bytes(), "2 dimensions"),
        (make_nifti(STORED.astype(np.complex64)).to_bytes(), "colours, complex"),
        (edited(datatype=128, bitpix=24), "colours, complex"),
        (edited(datatype=1, bitpix=1), "colours, complex"),
        (edited(datatype=77), "corrupt NIfTI"),
        (edited(magic=b"ni1"), "without its image"),
        (edited(magic=b"xyz"), "not NIfTI"),
        (edited(dim=[3, 5, 4, 0, 1, 1, 1, 1]), "void dimensions"),
        (edited(dim=[3, 5, -4, 3, 1, 1, 1, 1]), "void dimensions"),
        (edited(dim=[3, 30000, 30000, 3, 1, 1, 1, 1]), "more than the limit"),
        (edited(dim=[3, 5, 4, 4, 1, 1, 1, 1]), "truncated NIfTI: 472 of 512 bytes"),
        (edited(vox_offset=1e9), "more than the limit"),
        (edited(vox_offset=-352), "more than the limit"),
        (edited(vox_offset=np.nan), "corrupt NIfTI"),
        (edited(srow_x=[0, 0, 0, 0]), "no valid geometry"),
        (edited(srow_x=[np.nan, 0, 0, 0]), "no valid geometry"),
        (gzip.compress(edited())[:-30], "truncated gzip"),
        (gzip.compress(edited())[:9] + b"\xff" * 90, "corrupt gzip"),
        (gzip.compress(b"something else" * 100), "a gzip file that holds no NIfTI"),
        (make_nifti(np.full((2, 2, 2), np.nan, np.float32)).to_bytes(), "without a finite value"),
        (b"", "not NIfTI"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_nifti(data)


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(edited() + bytes(60_000_000), 1)
    assert len(bomb) < 300_000
    tracemalloc.start()
    volume = read_nifti(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.pixels, STORED)
    assert peak < 20_000_000
    big = edited(dim=[3, 500, 500, 500, 1, 1, 1, 1])
    with pytest.raises(DecodeError, match="more than the limit of 120000000 pixels"):
        read_nifti(gzip.compress(big + bytes(10_000_000)))
    with pytest.raises(DecodeError, match="472 bytes are more than the limit of 400"):
        read_nifti(edited(), DecodeLimits(max_bytes=400))
