"""`mskray find-vertebrae` on files: what is read, what is left out, what is refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_run import untrained_bundle
from spine_run import vertebra_bundle

from mskray.cohorts.corners import read_corners
from mskray.errors import UserError
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.storage import locate
from mskray.verbs.find_vertebrae import find_vertebrae

SMALL = {"network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}, "data": {"image_size": 64}}


@pytest.fixture
def detector(tmp_path: Path) -> str:
    """A bundle that nothing was learned for: it finds no body."""
    return vertebra_bundle(tmp_path / "bundle", VertebraDetectorConfig.model_validate(SMALL))


def write_volume(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 900, (9, 50, 40)).astype(np.int16)
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(pixels, affine), path)


def test_volumes_of_a_folder_are_searched_and_other_files_counted(detector: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    write_volume(given / "a" / "one.nii.gz")
    write_volume(given / "two.nii")
    (given / "a" / "readme.txt").write_text("not a volume")
    (given / "empty.nii").write_bytes(b"")
    out, overlay = tmp_path / "corners.json", tmp_path / "overlays"
    done = find_vertebrae(detector, str(given), str(out), str(overlay))
    assert sorted(done.spines) == ["a/one.nii.gz", "two.nii"]
    lines = done.lines().splitlines()
    assert "a/one.nii.gz  no vertebral body was found" in lines
    assert sum(line.startswith("not read: 1 × ") for line in lines) == 2
    assert sorted(read_corners(locate(out))) == ["a/one.nii.gz", "two.nii"]
    assert (overlay / "a" / "one.nii.gz.png").read_bytes().startswith(b"\x89PNG")
    alone = find_vertebrae(detector, str(given / "two.nii"), str(out))
    assert sorted(alone.spines) == ["two.nii"]


def test_what_holds_no_volume_is_refused_and_nothing_is_written(detector: str, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "corners.json"
    given.mkdir()
    (given / "readme.txt").write_text("not a volume")
    with pytest.raises(UserError, match=r"holds no volume \(readme.txt: not DICOM, NIfTI or MetaImage\)"):
        find_vertebrae(detector, str(given), str(out))
    with pytest.raises(UserError, match="vertebrae are found by a vertebra_detector"):
        find_vertebrae(untrained_bundle(tmp_path / "classifier"), str(given), str(out))
    assert not out.exists()
