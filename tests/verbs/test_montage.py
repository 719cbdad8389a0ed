"""`mskray montage`: geometry in words, slices in a picture, and what was left out."""

import gc
import gzip
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from series_files import write_series

from mskray.cli import main
from mskray.errors import UserError
from mskray.imaging.volumes import Volume, spacing_of
from mskray.imaging.volumes.montage import montage as draw
from mskray.imaging.volumes.montage import shown_plane
from mskray.storage import Location, locate
from mskray.verbs.montage import montage


def test_a_folder_of_two_echoes_and_other_things(tmp_path: Path) -> None:
    write_series(tmp_path / "knee", [0, 1, 3, 4])
    write_series(tmp_path / "knee", [0, 1, 2, 3], echo=2)
    (tmp_path / "knee" / "notes.txt").write_text("x")
    (tmp_path / "knee" / "more.txt").write_text("y")
    out = tmp_path / "out.png"
    geometry = "MR  {} slices × 40 rows × 30 columns, spacing 4 × 0.5 × 1 mm, thickness 3 mm, sagittal"
    assert montage(str(tmp_path / "knee"), str(out)).splitlines() == [
        f"knee#1  {geometry.format(5)}",
        "  echo 1 of 2 (TE 10 ms)",
        "  1 slice missing after slice 1 (a gap of 8.00 mm = 2 × 4.00 mm): left black",
        f"knee#2  {geometry.format(4)}",
        "  echo 2 of 2 (TE 20 ms)",
        "2 not in a volume",
        "  2 × not DICOM, NIfTI or MetaImage, such as more.txt",
        f"montage: {out.as_uri()}",
    ]
    assert Image.open(out).size[0] > 480


def test_slices_are_drawn_in_order_and_in_proportion() -> None:
    pixels = np.repeat(np.arange(4, dtype=np.float32), 40 * 30).reshape(4, 40, 30)
    affine = np.eye(4)
    affine[:3, :3] = np.array([(4.0, 0, 0), (0, 0, -0.5), (0, 1, 0)])[::-1].T
    picture = draw(Volume(pixels, spacing_of(affine), affine))
    # 40 rows of 0.5 mm are 20 mm high, 30 columns of 1 mm are 30 mm wide: tiles of 128 × 192, 3 apart.
    assert picture.shape == (128 + 6, 4 * 195 + 3, 3)
    centres = [picture[80, 3 + 195 * index + 96].tolist() for index in range(4)]
    assert centres == [[0] * 3, [85] * 3, [170] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("shape", "steps", "plane"),
    [
        ((20, 25, 4), (1, 1, 1), "sagittal"),  # even voxels: the axis with the fewest, columns, runs left
        ((4, 25, 20), (1, 1, 1), "axial"),
        ((30, 25, 20), (3, 1, 1), "axial"),  # slices far apart are slices, however many
        ((30, 25, 20), (1, 3, 1), "coronal"),
    ],
)
def test_the_plane_shown(shape: tuple[int, ...], steps: tuple[int, ...], plane: str) -> None:
    affine = np.diag([*steps[::-1], 1.0])
    volume = Volume(np.zeros(shape, np.float32), spacing_of(affine), affine)
    assert shown_plane(volume) == plane


def test_of_many_slices_some_are_drawn() -> None:
    affine = np.diag([1.0, 1, 3, 1])
    picture = draw(Volume(np.zeros((500, 9, 9), np.float32), spacing_of(affine), affine))
    assert picture.shape[:2] == (6 * 195 + 3, 8 * 195 + 3)


def test_one_file_in_a_bucket(s3_folder: Location) -> None:
    header = b"".join(
        f"{key} = {value}\n".encode()
        for key, value in {
            "NDims": 3,
            "DimSize": "6 5 4",
            "ElementSpacing": "1 1 4",
            "ElementType": "MET_UCHAR",
            "ElementDataFile": "LOCAL",
        }.items()
    )
    s3_folder.join("scan.mha").write_bytes(header + bytes(range(120)))
    out = s3_folder.join("out.png")
    text = montage(s3_folder.join("scan.mha").uri, out.uri)
    assert text.splitlines() == [
        "scan.mha  modality not stated  4 slices × 5 rows × 6 columns, spacing 4 × 1 × 1 mm, "
        "thickness not stated, axial",
        f"montage: {out}",
    ]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_volumes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.gz").write_bytes(gzip.compress(b"nothing"))
    out = tmp_path / "out.png"
    with pytest.raises(UserError, match=r"holds no volume \(1 × a gzip file that holds no NIfTI, such as a.gz\): give"):
        montage(str(tmp_path / "in"), str(out))
    assert not out.exists()
    with pytest.raises(UserError, match="nowhere"):
        montage(str(tmp_path / "nowhere"), str(out))


def test_a_folder_too_large_to_hold_is_left_out_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "a", [0, 1, 2, 3])
    write_series(tmp_path / "b", [0, 1])
    size = max(file.stat().st_size for file in tmp_path.rglob("*.dcm"))
    monkeypatch.setattr("mskray.verbs.volume_files._MOST_BYTES", 3 * size)
    lines = montage(str(tmp_path), str(tmp_path / "out.png")).splitlines()
    assert lines[0].startswith("b  MR  2 slices")
    assert lines[1:3] == [
        "1 not in a volume",
        f"  1 × a folder of more than {3 * size:,} bytes of DICOM: split it, such as a",
    ]


def test_volumes_are_drawn_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a volume is drawn, those before it are gone."""
    for name in "abcd":
        write_series(tmp_path / name, [0, 1])
    held: list[weakref.ref] = []

    def drawing(volume: Volume) -> np.ndarray:
        gc.collect()
        assert sum(each() is not None for each in held) == 0
        held.append(weakref.ref(volume.pixels))
        return draw(volume)

    monkeypatch.setattr("mskray.verbs.montage.draw", drawing)
    montage(str(tmp_path), str(tmp_path / "out.png"))
    assert len(held) == 4


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    write_series(tmp_path / "scan", [0, 1])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["montage", "scan"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "scan  MR  2 slices × 40 rows × 30 columns" in out
    assert not any(word in out for word in ("Doe", "MRN", "1.2.3"))
    assert locate(tmp_path / "montage.png").is_file()
    with pytest.raises(SystemExit) as ended:
        main(["montage", "nowhere"])
    assert ended.value.code == 2
