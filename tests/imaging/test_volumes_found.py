"""A folder of anything: each file recognised by its content, each volume with a name of its own, nothing lost."""

import gzip
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from series_making import make_enhanced, make_series, make_slice
from volume_files import STORED, make_metaimage, make_nifti, metaimage_text

from mskray.imaging.decode import DecodeError, DecodeLimits
from mskray.imaging.volumes import Found, read_metaimage, read_nifti, read_series, read_volumes

LIMITS = DecodeLimits(max_bytes=1_000_000, max_pixels=1_000_000)
NIFTI, SLICE, ENHANCED = make_nifti().to_bytes(), make_slice(0), make_enhanced((0.0, 5.0))
SAMPLES = {
    "nifti": NIFTI,
    "gzip": gzip.compress(NIFTI),
    "metaimage": metaimage_text(),
    "slice": SLICE,
    "enhanced": ENHANCED,
}


def test_every_kind_in_one_folder(tmp_path: Path) -> None:
    series = make_series(3)
    found = read_volumes(
        [
            ("readme.txt", b"hello"),
            ("a/empty.mha", b""),
            ("a/scan.dcm", NIFTI),
            *((f"s/{name}", data) for name, data in series),
            *((f"s/b{index}", make_slice(index, series="1.2.9")) for index in range(2)),
            ("x.nii", make_metaimage(tmp_path)),
            ("bottom", make_slice(0, series="1.2.10")),
        ]
    )
    assert found.names == ("a/scan.dcm", "x.nii", "s#1", "s#2", ".")
    assert [len(volume.pixels) for volume in found.volumes] == [3, 3, 3, 2, 1]
    assert found.rejected == (("readme.txt", "not DICOM, NIfTI or MetaImage"), ("a/empty.mha", "an empty file"))


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_cut_is_refused_with_a_reason(kind: str) -> None:
    data = SAMPLES[kind]
    for length in [*range(min(len(data), 60)), *range(60, len(data), max(1, len(data) // 60))]:
        found = read_volumes([("cut", data[:length])], LIMITS)
        assert not found.volumes
        check(found)
        assert len(found.rejected) >= 1


def check(found: Found) -> None:
    for volume in found.volumes:
        assert volume.pixels.ndim == 3
        assert volume.pixels.size <= LIMITS.max_pixels
        assert np.isfinite(volume.pixels).all()
        assert np.isfinite(volume.affine).all()
        assert min(volume.spacing_mm) > 0
    for _, reason in found.rejected:
        assert reason
        assert reason.isprintable()
        assert len(reason) < 200


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_changed_bytes_give_a_volume_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    changed = bytearray(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, min(len(changed), 1800)))
        changed[place : place + data.draw(st.integers(0, 4))] = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff", b"-1", b"9e99"]))
        )
    check(read_volumes([("changed", bytes(changed)), ("other", SLICE)], LIMITS))
    for read in (read_nifti, read_metaimage):
        with suppress(DecodeError):
            assert read(bytes(changed), LIMITS).pixels.size <= LIMITS.max_pixels


def test_nothing_is_shared_with_the_bytes_given() -> None:
    for volume in (read_nifti(NIFTI), read_metaimage(metaimage_text()), read_series([("", SLICE)]).only()):
        assert volume.pixels.flags.writeable
        assert volume.pixels.flags.c_contiguous
    assert STORED.shape == read_nifti(NIFTI).pixels.shape
