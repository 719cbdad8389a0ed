"""Two published scans, where they are at hand: their geometry as it was measured."""

import os
from pathlib import Path

import numpy as np
import pytest

from mskray.imaging.volumes import orientation, read_nifti, read_series, to_sagittal

DATA = Path(os.environ.get("MSKRAY_DATA", "missing"))
KNEE, LUMBAR = DATA / "knee_mri_dicom", DATA / "lumbar_t2" / "t2_lumbar.nii.gz"


@pytest.mark.skipif(not KNEE.is_dir(), reason="MSKRAY_DATA does not name a folder with knee_mri_dicom")
def test_a_knee_of_two_echoes_in_one_big_endian_series() -> None:
    found = read_series((path.name, path.read_bytes()) for path in KNEE.iterdir())
    assert not found.rejected
    notes = [volume.notes for volume in found.volumes]
    assert notes == [("echo 1 of 2 (TE 6.3 ms)",), ("echo 2 of 2 (TE 31.6 ms)",)]
    for volume in found.volumes:
        assert volume.pixels.shape == (24, 256, 256)
        assert volume.spacing_mm == pytest.approx((4, 0.625, 0.625), abs=1e-3)
        assert volume.thickness_mm == 3
        assert orientation(volume) == ("sagittal", pytest.approx(8.4, abs=0.1))
        # Marrow in the middle, air in front of it.
        middle = to_sagittal(volume).pixels[12]
        assert middle[100:150, 100:150].mean() > 5 * middle[100:150, :20].mean()


@pytest.mark.skipif(not LUMBAR.is_file(), reason="MSKRAY_DATA does not name a folder with lumbar_t2")
def test_a_lumbar_spine_stored_crosswise() -> None:
    volume = to_sagittal(read_nifti(LUMBAR.read_bytes()))
    assert volume.pixels.shape == (38, 201, 257)
    assert volume.spacing_mm == pytest.approx((1, 1, 1))
    assert volume.notes == ()
    np.testing.assert_allclose(volume.axes, [(1, 0, 0), (0, 0, -1), (0, 1, 0)], atol=1e-6)
    # The spine with its bright fluid lies in the back half.
    middle = volume.pixels[12]
    assert middle[:, 129:].mean() > 1.5 * middle[:, :128].mean()
