"""MetaImage → volumes: as SimpleITK wrote them; a header that points elsewhere or asks for too much is refused."""

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from volume_files import LPS, STORED, make_metaimage, metaimage_text

from mskray.imaging.decode import DecodeError, DecodeLimits
from mskray.imaging.volumes import read_metaimage
from mskray.imaging.volumes.metaimage import is_metaimage


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_voxels_and_places(tmp_path: Path, dtype: type, compressed: bool) -> None:
    stored = np.abs(STORED).astype(dtype)
    data = make_metaimage(tmp_path, stored, compressed)
    assert is_metaimage(data)
    volume = read_metaimage(data)
    np.testing.assert_array_equal(volume.pixels, stored)
    assert volume.pixels.dtype == np.float32
    np.testing.assert_allclose(volume.affine, LPS, atol=1e-9)
    assert volume.spacing_mm == pytest.approx((4.0, 0.75, 0.5))
    assert (volume.thickness_mm, volume.modality, volume.notes) == (None, "", ())


def test_older_words_and_the_other_byte_order() -> None:
    data = metaimage_text(
        STORED.astype(">i2").tobytes(),
        ElementByteOrderMSB="True",
        ElementSize="1 2 3",
        Position="7 8 9",
        Orientation="0 1 0 0 0 1 1 0 0",
        Modality="MET_MOD_MR",
        Comment="Doe^Jane",
        ElementDataFile="Local",
    ).replace(b"\nElementDataFile", b"\r\nElementDataFile")
    volume = read_metaimage(data)
    np.testing.assert_array_equal(volume.pixels, STORED)
    # Each three numbers are the direction of one index: columns along y, rows along z, slices along x.
    np.testing.assert_array_equal(volume.affine, [[0, 0, 3, 7], [1, 0, 0, 8], [0, 2, 0, 9], [0, 0, 0, 1]])
    assert volume.modality == "MR"


def test_without_spacing_it_says_so() -> None:
    volume = read_metaimage(metaimage_text())
    assert volume.spacing_mm == (1, 1, 1)
    assert volume.notes == ("no spacing stated: taken as 1 mm",)


@pytest.mark.parametrize("elsewhere", ["/etc/passwd", "pixels.raw", "../secret.raw", "LIST", "slice%02d.raw 1 9 1", ""])
def test_pixels_in_another_file_are_never_opened(elsewhere: str) -> None:
    with pytest.raises(DecodeError, match=r"MetaImage whose pixels are in another file: give an \.mha"):
        read_metaimage(metaimage_text(ElementDataFile=elsewhere))


def test_only_what_was_checked_reaches_the_library(tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(range(120)))
    # A second ElementDataFile after the pixels begin, and keys that would move where pixels are read from.
    hidden = f"ElementDataFile = {secret}\n".encode()
    pixels = (hidden + STORED.tobytes())[: STORED.nbytes]
    volume = read_metaimage(metaimage_text(pixels, CompressedDataSize="9999999", ObjectSubType="../x"))
    np.testing.assert_array_equal(volume.pixels.ravel(), np.frombuffer(pixels, "<i2"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header has no end"),
        (b"ObjectType = Image\n" + b"Comment = x\n" * 10_000, "header has no end"),
        (metaimage_text(ObjectType="Mesh"), "not an image"),
        (metaimage_text(NDims="2", DimSize="5 4"), "not of 3 dimensions"),
        (metaimage_text(NDims="4", DimSize="5 4 3 1"), "not of 3 dimensions"),
        (metaimage_text(NDims=None), "not of 3 dimensions"),
        (metaimage_text(DimSize="5 4"), "DimSize is not 3 numbers"),
        (metaimage_text(DimSize=None), "DimSize is not 3 numbers"),
        (metaimage_text(DimSize="5 4 many"), "corrupt MetaImage"),
        (metaimage_text(DimSize="5 4 0"), "void dimensions"),
        (metaimage_text(DimSize="5 -4 3"), "void dimensions"),
        (metaimage_text(DimSize="99999 99999 99999"), "longer than"),
        (metaimage_text(DimSize="9999 9999 99"), "more than the limit"),
        (metaimage_text(DimSize="1e300 1e300 1"), "longer than"),
        (metaimage_text(DimSize="5 4 4"), "truncated MetaImage: 120 of 160 bytes"),
        (metaimage_text(ElementType="MET_SHORT_ARRAY"), "grey levels"),
        (metaimage_text(ElementType=None), "grey levels"),
        (metaimage_text(ElementNumberOfChannels="3"), "grey levels"),
        (metaimage_text(BinaryData="False"), "text pixels"),
        (metaimage_text(HeaderSize="-1"), "second header"),
        (metaimage_text(ElementSpacing="1 0 1"), "corrupt MetaImage"),
        (metaimage_text(ElementSpacing="1 nan 1"), "ElementSpacing is not 3 numbers"),
        (metaimage_text(TransformMatrix="1 0 0 1 0 0 0 0 1"), "corrupt MetaImage"),
        (metaimage_text(b"not zlib at all", CompressedData="True"), "corrupt MetaImage"),
        (metaimage_text(zlib.compress(STORED.tobytes())[:40], CompressedData="True"), "truncated MetaImage"),
        (metaimage_text(bytes.fromhex("0000c07f") * 60, ElementType="MET_FLOAT"), "not finite"),
        (metaimage_text(Odd="1").replace(b"Odd =", b"Odd"), "key = value"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_metaimage(data)


def test_a_bomb_is_not_inflated() -> None:
    bomb = metaimage_text(zlib.compress(STORED.tobytes() + bytes(60_000_000), 1), CompressedData="True")
    tracemalloc.start()
    volume = read_metaimage(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.pixels, STORED)
    assert peak < 20_000_000
    with pytest.raises(DecodeError, match="more than the limit of 100"):
        read_metaimage(metaimage_text(), DecodeLimits(max_bytes=100))


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read_metaimage(metaimage_text())
    with pytest.raises(DecodeError):
        read_metaimage(metaimage_text(TransformMatrix="0 0 0 0 0 0 0 0 0"))
    assert list(tmp_path.iterdir()) == []
