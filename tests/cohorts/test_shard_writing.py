"""One shard without a cluster: what is stored, what is quarantined, and that a repeat writes the same bytes."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from cohort_layouts import dicom, png

from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.read import Cohort
from mskray.cohorts.schema import ABNORMALITY, Counts, ImageFormat, Manifest, SplitCount, SplitMethod, pixels
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import get_source
from mskray.storage import locate

TRAIN = SplitCount(images=130, studies=1, patients=1, labels={})


def row(path, number=0, **values):
    return {
        "path": path,
        "fingerprint": "1-1",
        "instance_id": f"i{number}",
        "study_id": "s",
        "patient_id": "p",
        "body_part": "HAND",
        "view": None,
        "laterality": None,
        "view_index": number,
        "row": None,
        "label_abnormality": 1,
        **values,
    }


def job(folder, source="manifest", size=32, dtype="uint8", fit="pad", **options):
    found = get_source(source)
    image = ImageFormat(size=size, dtype=dtype, fit=fit)
    root = locate(folder / "in").uri if found.located else None
    return ShardJob(found, found.Options(**options), root, locate(folder / "out").uri, image, (ABNORMALITY,))


def write(a_job, rows):
    return write_shard(a_job, ShardPlan("train", 3, "0123456789abcdef", 0, len(rows)), rows)


def read(folder, entry):
    return pq.read_table(folder / "out" / entry.shard.path, partitioning=None)


def test_pixels_and_geometry(tmp_path):
    png(tmp_path / "in" / "a.png", rows=40, columns=80)
    entry = write(job(tmp_path), [row("a.png")])
    table = read(tmp_path, entry)
    (record,) = table.drop_columns("image").to_pylist()
    assert entry.shard.path == "split=train/part-00003-0123456789abcdef.parquet"
    assert (record["rows"], record["columns"], record["bits"]) == (40, 80, 8)
    assert (record["scale_x"], record["offset_x"], record["offset_y"]) == pytest.approx((0.4, 0, 8))
    assert (record["label_abnormality"], record["findings"], record["row_spacing_mm"]) == (1, [], None)
    image = pixels(table["image"], table.schema.field("image"))[0]
    source = cv2.imread(str(tmp_path / "in" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image[8:24], cv2.resize(source, (32, 16), interpolation=cv2.INTER_AREA))
    assert not image[:8].any()
    assert not image[24:].any()


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535)])
def test_both_depths_span_their_range(tmp_path, dtype, top):
    (tmp_path / "in").mkdir()
    full = np.full((32, 32), 255, np.uint8)
    (tmp_path / "in" / "a.png").write_bytes(cv2.imencode(".png", full)[1].tobytes())
    table = read(tmp_path, write(job(tmp_path, dtype=dtype), [row("a.png")]))
    image = pixels(table["image"], table.schema.field("image"))
    assert image.dtype == dtype
    assert (image == top).all()


def test_what_the_listing_did_not_know_comes_from_the_header(tmp_path):
    dicom(tmp_path / "in" / "a", BodyPartExamined="WRIST", ViewPosition="PA", ImageLaterality="R", PatientID="SECRET")
    entry = write(job(tmp_path), [row("a", body_part="UNKNOWN")])
    (record,) = read(tmp_path, entry).drop_columns("image").to_pylist()
    assert (record["body_part"], record["view"], record["laterality"], record["bits"]) == ("WRIST", "PA", "R", 12)
    assert b"SECRET" not in (tmp_path / "out" / entry.shard.path).read_bytes()


def test_bad_rows_are_quarantined_and_the_rest_is_stored(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "b.png", "c.png"):
        png(folder / name)
    (folder / "paper.png").write_bytes(b"%PDF-1.7 ...")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    names = ["paper.png", "a.png", "cut.png", "b.png", "empty.png", "c.png", "gone.png"]
    entry = write(job(tmp_path), [row(name, number) for number, name in enumerate(names)])
    assert read(tmp_path, entry)["instance_id"].to_pylist() == ["i1", "i3", "i5"]
    assert [each.path for each in entry.quarantined] == ["paper.png", "cut.png", "empty.png", "gone.png"]
    assert all(each.stage == "decode" and each.split == "train" for each in entry.quarantined)
    assert entry.quarantined[-1].reason == "the file is not there, or no longer"


@pytest.mark.parametrize("source", ["dicom", "manifest"])
def test_burned_in_text_stays_out_unless_it_is_allowed(tmp_path, source):
    dicom(tmp_path / "in" / "a", BurnedInAnnotation="YES")
    dicom(tmp_path / "in" / "b", BurnedInAnnotation="NO")
    rows = [row("a", 0), row("b", 1)]
    entry = write(job(tmp_path, source), rows)
    (refused,) = entry.quarantined
    assert (refused.path, entry.shard.rows) == ("a", 1)
    assert refused.reason.startswith("BurnedInAnnotation is YES")
    assert entry.complete
    assert write(job(tmp_path, source, allow_burned_in=True), rows).shard.rows == 2


def test_a_file_beyond_the_limit_is_not_tried_again(tmp_path):
    png(tmp_path / "in" / "a.png")
    with open(tmp_path / "in" / "huge.png", "wb") as file:
        file.truncate(513 * 2**20)  # sparse: takes no room
    entry = write(job(tmp_path), [row("a.png"), row("huge.png", 1)])
    assert [each.reason for each in entry.quarantined] == ["too large, or not a regular file"]
    assert entry.complete


def test_several_frames_are_no_radiograph(tmp_path):
    dicom(tmp_path / "in" / "a", rows=32, NumberOfFrames=2, Rows=16)
    (refused,) = write(job(tmp_path), [row("a")]).quarantined
    assert refused.reason == "2 frames: a radiograph has one"


def test_a_decoder_that_breaks_costs_one_row(tmp_path, monkeypatch):
    png(tmp_path / "in" / "a.png")
    png(tmp_path / "in" / "b.png")
    a_job = job(tmp_path)
    whole = type(a_job.source).load

    def load(self, path, data, options):
        if path == "a.png":
            raise ZeroDivisionError
        return whole(self, path, data, options)

    monkeypatch.setattr(type(a_job.source), "load", load)
    entry = write(a_job, [row("a.png", 0), row("b.png", 1)])
    assert [each.reason for each in entry.quarantined] == ["the decoder failed (ZeroDivisionError)"]
    assert entry.shard.rows == 1


def test_an_unreadable_file_is_tried_again_next_time(tmp_path):
    png(tmp_path / "in" / "a.png")
    assert write(job(tmp_path), [row("a.png")]).complete
    assert not write(job(tmp_path), [row("a.png"), row("gone.png")]).complete


def test_a_shard_of_bad_rows_alone_writes_no_object(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"not an image")
    entry = write(job(tmp_path), [row("a.png")])
    assert entry.shard is None
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert list((tmp_path / "out" / "_ingest").rglob("*.json"))


def test_a_repeat_writes_the_same_bytes_and_entry(tmp_path):
    png(tmp_path / "in" / "a.png")
    first = write(job(tmp_path), [row("a.png")])
    assert write(job(tmp_path), [row("a.png")]) == first
    assert Entry.from_json(first.to_json()) == first


def test_phantoms_keep_boxes_and_masks_on_the_canvas(tmp_path):
    source = get_source("phantom")
    a_job = job(tmp_path, "phantom", size=48, patients=12, image_size=96, abnormal_fraction=1.0)
    listed = list(source.items(None, a_job.options))
    entry = write(a_job, [row(item.path, number) for number, item in enumerate(listed)])
    table = read(tmp_path, entry)
    masks = pixels(table["mask"], table.schema.field("mask"))
    assert masks.shape == (len(listed), 48, 48)
    assert set(np.unique(masks)) == {0, 1}
    inside = np.zeros_like(masks)
    for place, findings in enumerate(table["findings"].to_pylist()):
        for finding in findings:
            assert finding["kind"] in ("fracture", "implant", "lesion", "flag")
            if finding["kind"] != "flag":
                x, y = int(finding["x"]), int(finding["y"])
                x1, y1 = int(np.ceil(finding["x"] + finding["w"])), int(np.ceil(finding["y"] + finding["h"]))
                inside[place, y:y1, x:x1] = 1
    # What the masks mark lies in the boxes.
    assert not (masks & ~inside & 1).any()


def test_row_groups_can_be_read_alone(tmp_path):
    names = [f"{number}.png" for number in range(130)]
    for number, name in enumerate(names):
        png(tmp_path / "in" / name, seed=number)
    entry = write(job(tmp_path, size=16), [row(name, number) for number, name in enumerate(names)])
    manifest = Manifest(
        source="manifest",
        source_options={},
        tasks=(ABNORMALITY,),
        image=ImageFormat(size=16, dtype="uint8", fit="pad"),
        masks=False,
        split=SplitMethod(method="source", seed=0, fractions=None),
        counts=Counts(listed=130, images=130, quarantined=0, splits={"train": TRAIN}),
        shards=(entry.shard,),
        hash_key_fingerprint="",
        content_hash="",
        created_by="",
    )
    cohort = Cohort(locate(tmp_path / "out"), manifest)
    whole = cohort.read_shard(entry.shard, ["image"])["image"]
    assert pq.ParquetFile(tmp_path / "out" / entry.shard.path).num_row_groups == 2
    some = cohort.images("train", ["i3", "i129"])
    np.testing.assert_array_equal(some["i3"], whole[3])
    np.testing.assert_array_equal(some["i129"], whole[129])
