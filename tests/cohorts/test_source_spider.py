"""SPIDER's layout becomes graded discs; rows that are no discs go to quarantine with their reason."""

from dataclasses import replace

import numpy as np
import pytest
from block_spine import BlockSpine, lumbar
from disc_layouts import ingest, is_level_disc, listing, metaimage, spider_pair

from mskray.cohorts.sources import _discs, get_source
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError
from mskray.imaging.volumes.volume import check_same_place
from mskray.storage import locate

HEADER = (
    "Patient,IVD label,Modic,UP endplate,LOW endplate,Spondylolisthesis,Disc herniation,Disc narrowing,Disc bulging,"
    "Pfirrman grade"
)


def layout(root, gradings, volumes=None):
    """volumes: name → spine, or None for a placeholder that is never decoded."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "radiological_gradings.csv").write_text("\n".join([HEADER, *gradings]) + "\n")
    overview = ["new_file_name,subset,num_vertebrae,num_discs"]
    for name, spine in (volumes or {}).items():
        overview.append(f"{name},{'validation' if name.startswith('9') else 'training'},7,7")
        if spine is None:
            for folder in ("images", "masks"):
                (root / folder / f"{name}.mha").write_bytes(b"placeholder")
        else:
            spider_pair(root, name, spine)
    (root / "overview.csv").write_text("\n".join(overview) + "\n")
    return root


def test_grades_levels_and_splits(tmp_path):
    rows = ["1,1,0,0,1,0,0,1,1,4", "1,2,3,1,0,1,1,0,0,1", "1,6,,,,,,,,5", "9,3,2,0,0,0,0,0,0,2"]
    layout(tmp_path, rows, {"1_t2": None, "1_t1": None, "9_t2": None})
    items, reasons = listing("spider", tmp_path)
    assert reasons == {}
    assert {path: (item.view, item.view_index, item.split, item.study_id) for path, item in items.items()} == {
        "images/1_t2.mha#L5-S1": ("L5/S1", 5, None, "1_t2"),
        "images/1_t2.mha#L4-L5": ("L4/L5", 4, None, "1_t2"),
        "images/1_t2.mha#T12-L1": ("T12/L1", 0, None, "1_t2"),
        "images/9_t2.mha#L3-L4": ("L3/L4", 3, "test", "9_t2"),
    }
    source = get_source("spider")
    tasks = source.tasks(None, source.Options())
    assert [task.name for task in tasks if task.ordinal] == ["pfirrmann", "narrowing"]
    classes = {task.name: task.classes for task in tasks}
    named = {
        path: {name: None if index is None else classes[name][index] for name, index in item.labels.items()}
        for path, item in items.items()
    }
    assert named["images/1_t2.mha#L5-S1"] == {
        "pfirrmann": "IV",
        "modic": "none",
        "narrowing": "narrowed",
        "upper_endplate": "normal",
        "lower_endplate": "defect",
        "spondylolisthesis": "no_spondylolisthesis",
        "herniation": "no_herniation",
        "bulging": "bulging",
    }
    assert named["images/1_t2.mha#L4-L5"]["modic"] == "III"
    assert named["images/1_t2.mha#T12-L1"] == {**dict.fromkeys(classes), "pfirrmann": "V"}
    assert {item.patient_id for item in items.values()} == {"1", "9"}


def test_rows_and_images_that_are_no_graded_discs(tmp_path):
    rows = [
        "1,0,0,0,0,0,0,0,0,3",
        "1,7,0,0,0,0,0,0,0,3",
        "1,1,0,0,0,0,0,0,0,3",
        "1,1,0,0,0,0,0,0,0,3",
        "1,2,0,0,0,0,0,0,0,6",
        "1,3,4,0,0,0,0,0,0,1",
        "2,1,0,0,0,0,0,0,0,3",
        "1,4,0,0,0,0,0,0,0,1,9",
    ]
    layout(tmp_path, rows, {"1_t2": None, "3_t2": None, "3_t1": None, "4_t2": None})
    (tmp_path / "images/notes.txt").write_text("x")
    (tmp_path / "masks/4_t2.mha").unlink()
    (tmp_path / "radiological_gradings.csv").open("a").write("4,1,0,0,0,0,0,0,0,3\n")
    items, reasons = listing("spider", tmp_path)
    assert list(items) == ["images/1_t2.mha#L5-S1"]
    place = "images/{}_t2.mha (radiological_gradings.csv line {})"
    assert reasons == {
        place.format(1, 2): "IVD label '0': discs are counted from 1 (L5/S1) to 6 (T12/L1)",
        place.format(1, 3): "IVD label '7': discs are counted from 1 (L5/S1) to 6 (T12/L1)",
        place.format(1, 5): "graded more than once",
        place.format(1, 6): "pfirrman grade '6' is not 1 to 5",
        place.format(1, 7): "modic '4' is not 0 to 3",
        place.format(2, 8): "graded, but there is no images/2_t2.mha",
        "radiological_gradings.csv line 9": "11 values for 10 columns",
        place.format(4, 10): "graded, but there is no masks/4_t2.mha",
        "images/3_t2.mha": "not graded in radiological_gradings.csv",
        "images/notes.txt": "not <patient>_<t1, t2 or t2_SPACE>.mha",
    }


@pytest.mark.parametrize("plane", ["sagittal", "axial"])
def test_discs_are_cut_level_whatever_the_storage(tmp_path, plane):
    """SPIDER stores some volumes in other axes than slices from side to side, and 374 of 447 from -1000."""
    spine = lumbar(15)
    spine.volume = replace(spine.volume, pixels=np.round(spine.volume.pixels * 3 - 1000 - 3 * 40))
    layout(tmp_path / "in", [f"1,{number},0,0,0,0,0,0,0,3" for number in range(1, 7)], {"1_t2": None})
    spider_pair(tmp_path / "in", "1_t2", spine, plane)
    found = ingest("spider", tmp_path / "in", tmp_path / "out", size=160)
    # T12/L1 lies between whole bodies, L5/S1 has its lower one from the disc.
    assert found.reasons == {}
    assert [row["view"] for row in found.rows] == ["T12/L1", "L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]
    assert found.image.shape == (6, 15, 96, 160)
    for stack, row in zip(found.image, found.rows, strict=True):
        assert row["body_part"] == "LSPINE"
        assert row["row_spacing_mm"] / row["scale_y"] == pytest.approx(30.8 / 56, rel=0.05)
        bright = stack[7] > 0.65 * 255
        middles = [np.flatnonzero(bright[:, column]).mean() + 0.5 for column in (60, 100)]
        assert abs(np.degrees(np.arctan2(middles[1] - middles[0], 40))) < 2
        assert np.mean(middles) == pytest.approx(48, abs=1.5)


def test_what_fails_in_a_volume_is_said_by_disc(tmp_path):
    spine = lumbar(levels=("L2", "L3", "L4", "L5"))
    rows = [f"{patient},{number},0,0,0,0,0,0,0,3" for patient in (1, 2, 3, 4) for number in (2, 5)]
    layout(tmp_path / "in", rows, {"1_t2": spine, "2_t2": None, "3_t2": spine, "4_t2": spine})
    short = replace(spine.volume, pixels=spine.mask()[1:])
    metaimage(tmp_path / "in/masks/3_t2.mha", short)
    flat = replace(spine.volume, pixels=spine.volume.pixels[5:6])
    metaimage(tmp_path / "in/images/4_t2.mha", flat)
    metaimage(tmp_path / "in/masks/4_t2.mha", replace(flat, pixels=spine.mask()[5:6]))
    found = ingest("spider", tmp_path / "in", tmp_path / "out")
    assert [row["view"] for row in found.rows] == ["L4/L5"]
    assert is_level_disc(found.image[0])
    assert found.reasons.pop("images/1_t2.mha#L1-L2") == "L1 is not in the mask"
    assert found.reasons["images/2_t2.mha#L4-L5"].startswith("truncated MetaImage")
    assert found.reasons["images/3_t2.mha#L4-L5"] == "image and mask differ: 11 × 420 × 260 and 10 × 420 × 260 voxels"
    assert found.reasons["images/4_t2.mha#L4-L5"] == "a volume of one slice: at least 2 are needed"
    assert len(found.reasons) == 6


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        (lambda affine: affine + 0.2 * np.eye(4)[:, 3:] * np.eye(4)[3], None),  # less than half a pixel of 0.6 mm
        (lambda affine: affine + 5.0 * np.eye(4)[:, :1] * np.eye(4)[3], "5.0 mm"),
        (lambda affine: affine @ np.diag([1, 1, 1.1, 1]), "4.0 mm"),  # slices of 4.4 mm: ten steps
        # The corner 40 and 155.4 mm away: 160.5 mm × 2 sin 1°.
        (lambda affine: turned(2.0) @ affine, "5.6 mm"),
    ],
)
def test_a_mask_lies_where_its_image_lies(change, apart):
    image = lumbar().volume
    mask = replace(image, affine=change(image.affine))
    if apart is None:
        check_same_place(image, mask)
        return
    with pytest.raises(DecodeError, match=f"image and mask differ: the same voxels lie up to {apart} apart"):
        check_same_place(image, mask)


def turned(degrees):
    """A turn of the patient around the axis from head to feet."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def test_a_mask_that_lies_elsewhere_is_quarantined(tmp_path):
    spine = lumbar(levels=("L2", "L3", "L4", "L5"))
    layout(tmp_path / "in", ["1,2,0,0,0,0,0,0,0,3"], {"1_t2": spine})
    shifted = spine.volume.affine.copy()
    shifted[2, 3] += 12
    metaimage(tmp_path / "in/masks/1_t2.mha", replace(spine.volume, pixels=spine.mask(), affine=shifted))
    found = ingest("spider", tmp_path / "in", tmp_path / "out")
    (reason,) = found.reasons.values()
    assert reason == "image and mask differ: the same voxels lie up to 12.0 mm apart in the patient"


def test_a_volume_is_fetched_and_decoded_once_for_its_discs(tmp_path, monkeypatch):
    layout(tmp_path / "in", [f"1,{number},0,0,0,0,0,0,0,3" for number in range(1, 7)], {"1_t2": lumbar()})
    calls = []
    real = _discs.read_files
    monkeypatch.setattr(_discs, "read_files", lambda *given: calls.append(given) or real(*given))
    _discs._opened.cache_clear()
    found = ingest("spider", tmp_path / "in", tmp_path / "out")
    assert len(found.rows) == 6
    assert len(calls) == 1
    assert _discs._opened.cache_info().misses == 1
    # Another ingest of files that have changed since sees what is there now.
    spider_pair(tmp_path / "in", "1_t2", BlockSpine(("L4", "L5")))
    again = ingest("spider", tmp_path / "in", tmp_path / "again")
    assert len(again.rows) == 2
    assert len(calls) == 2


def test_a_mask_that_vanishes_after_the_listing_is_one_reason(tmp_path):
    root = layout(tmp_path / "in", ["1,1,0,0,0,0,0,0,0,3"], {"1_t2": None})
    items, _ = listing("spider", root)
    (item,) = items.values()
    (root / "masks/1_t2.mha").unlink()
    source = get_source("spider")
    assert source.file(locate(root), item.address) == locate(root / "masks/1_t2.mha")


def test_another_layout_is_one_line(tmp_path):
    (tmp_path / "images").mkdir()
    source = get_source("spider")
    with pytest.raises(UserError, match=r"expected radiological_gradings\.csv, overview\.csv, masks/ in it"):
        source.root(locate(tmp_path), source.Options())
    with pytest.raises(UserError, match="multiples of 20"):
        source.format(224, "uint8", "pad", source.Options())
