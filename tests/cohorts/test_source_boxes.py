"""Boxes from COCO and YOLO files become findings on the canvas; broken ones go to quarantine alone."""

import json

import pytest
from cohort_layouts import png

from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.schema import ImageFormat, as_array, shard_schema
from mskray.cohorts.shards import ShardJob, write_shard
from mskray.cohorts.sources import Item, get_source
from mskray.errors import UserError
from mskray.storage import locate

COCO = {
    "images": [
        {"id": 7, "file_name": "sub/a.png"},
        {"id": 8, "file_name": "elsewhere/b.png"},
        {"id": 9, "file_name": "z"},
    ],
    "categories": [{"id": 1, "name": "Marker"}, {"id": 2, "name": "implant"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "category_id": 2, "bbox": [10, 11.5, 12, 13]},
        {"image_id": 8, "category_id": 2, "bbox": [0, 0, 5, 5]},
    ],
}


def manifest(folder, coco, **options):
    for name in ("sub/a.png", "b.png", "c.png"):
        png(folder / name)
    (folder / "images.csv").write_text("path,patient_id\nsub/a.png,p\nb.png,q\nc.png,r\n")
    (folder / "boxes.json").write_text(coco if isinstance(coco, str) else json.dumps(coco))
    source = get_source("manifest")
    checked = source.Options(annotations=str(folder / "boxes.json"), **options)
    found = list(source.items(locate(folder / "images.csv"), checked))
    items = {each.path: each for each in found if isinstance(each, Item)}
    return items, {each.path: each.reason for each in found if not isinstance(each, Item)}


def test_coco_boxes_belong_to_images_by_path_or_name(tmp_path):
    items, rejected = manifest(tmp_path, COCO, kinds={"marker": "flag"})
    boxes = {path: [(each.kind, each.box) for each in item.findings] for path, item in items.items()}
    assert boxes == {
        "sub/a.png": [("flag", (1, 2, 3, 4)), ("implant", (10, 11.5, 12, 13))],
        "b.png": [("implant", (0, 0, 5, 5))],
        "c.png": [],
    }
    assert rejected == {"z": "has boxes in boxes.json, but no row in images.csv"}


def of_rows(folder, rows, names):
    """Kinds of the boxes of CSV rows, where each name of the COCO file has one box of a kind called like it."""
    for row in rows:
        png(folder / row)
    (folder / "images.csv").write_text("path,patient_id\n" + "".join(f"{row},p\n" for row in rows))
    coco = {
        "images": [{"id": place, "file_name": name} for place, name in enumerate(names)],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
        "annotations": [{"image_id": at, "category_id": at, "bbox": [0, 0, 1, 1]} for at in range(len(names))],
    }
    (folder / "boxes.json").write_text(json.dumps(coco))
    source = get_source("manifest")
    found = list(source.items(locate(folder / "images.csv"), source.Options(annotations=str(folder / "boxes.json"))))
    items = {each.path: [one.kind for one in each.findings] for each in found if isinstance(each, Item)}
    return items, {each.path for each in found if not isinstance(each, Item)}


@pytest.mark.parametrize(
    ("names", "boxes", "unread"),
    [
        (["p1/s1/i.png"], [["p1/s1/i.png"], []], set()),
        (["moved/p1/s1/i.png"], [["moved/p1/s1/i.png"], []], set()),
        (["a/p1/s1/i.png", "a/p2/s1/i.png"], [["a/p1/s1/i.png"], ["a/p2/s1/i.png"]], set()),
        (["i.png"], [[], []], {"i.png"}),
        (["s1/i.png"], [[], []], {"s1/i.png"}),
        (["p3/s1/i.png"], [[], []], {"p3/s1/i.png"}),
        (["a/p1/s1/i.png", "b/p1/s1/i.png"], [[], []], {"a/p1/s1/i.png", "b/p1/s1/i.png"}),
    ],
)
def test_boxes_of_a_repeated_file_name_go_to_one_row_or_none(tmp_path, names, boxes, unread):
    """MURA has an image1.png in each study."""
    rows = ["p1/s1/i.png", "p2/s1/i.png"]
    assert of_rows(tmp_path, rows, names) == (dict(zip(rows, boxes, strict=True)), unread)


@pytest.mark.parametrize("box", [[1, 2, 0, 4], [1, 2, 3], "1 2 3 4", [1, 2, 3, float("nan")]])
def test_a_broken_coco_box_rejects_its_image_alone(tmp_path, box):
    coco = {**COCO, "annotations": [{"image_id": 7, "category_id": 1, "bbox": box}]}
    items, rejected = manifest(tmp_path, coco)
    assert set(items) == {"b.png", "c.png"}
    assert "its box" in rejected["sub/a.png"]


@pytest.mark.parametrize(
    ("coco", "options", "message"),
    [
        ("[]", {}, "are not COCO"),
        ({"images": [], "annotations": []}, {}, "'categories'"),
        ({**COCO, "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, {}, "KeyError: 1"),
        (COCO, {"kinds": {"letter": "flag"}}, "has the categories implant, marker"),
    ],
)
def test_a_file_that_is_not_coco_is_one_line(tmp_path, coco, options, message):
    with pytest.raises(UserError, match=message):
        manifest(tmp_path, coco, **options)


def graz(folder, labels, extra="", meta=None, place="yolov5/labels"):
    """Two images; `labels` are the texts of their label files where they are not empty, None for no file."""
    header = "filestem,patient_id,study_number,timehash,laterality,projection,osteopenia,fracture_visible,metal,cast"
    rows = "s1,12,1,x,L,1,,1,,\ns2,12,1,x,L,2,1,,,1\n" + extra
    (folder / "dataset.csv").write_text(f"{header}\n{rows}", encoding="utf-8-sig")
    png(folder / "images_part1" / "s1.png", rows=40, columns=80)
    png(folder / "images_part2" / "s2.png")
    (folder / place).mkdir(parents=True, exist_ok=True)
    for stem, text in {"s1": "", "s2": "", "classes": "text\nmetal\n", **labels}.items():
        if text is not None:
            (folder / place / f"{stem}.txt").write_text(text)
    if meta is not None:
        (folder / "yolov5").mkdir(exist_ok=True)
        (folder / "yolov5" / "meta.yaml").write_text(meta)
    source = get_source("grazpedwri")
    found = list(source.items(locate(folder), source.Options()))
    items = {each.path: each for each in found if isinstance(each, Item)}
    return items, {each.path: each.reason for each in found if not isinstance(each, Item)}


def test_graz_rows_labels_and_boxes(tmp_path):
    items, rejected = graz(tmp_path, {"s1": "8 0.5 0.25 0.1 0.2\n3 0.4 0.5 0.2 0.1\n4 0.9 0.9 0.1 0.1\n"})
    assert rejected == {}
    first, second = items["images_part1/s1.png"], items["images_part2/s2.png"]
    assert [each.kind for each in first.findings] == ["flag", "fracture", "implant"]
    assert first.findings[0].box == pytest.approx((0.45, 0.15, 0.1, 0.2))
    assert dict(first.labels) == {"fracture": 1, "osteopenia": 0, "cast": 0, "metal": 0}
    assert dict(second.labels) == {"fracture": 0, "osteopenia": 1, "cast": 1, "metal": 0}
    assert (first.patient_id, first.view, first.laterality, first.body_part) == ("12", "AP", "L", "WRIST")
    assert (second.view, second.view_index, second.findings) == ("LATERAL", 1, ())


def test_graz_names_of_classes_come_with_the_data_set(tmp_path):
    items, _ = graz(tmp_path, {"s1": "0 0.5 0.5 0.1 0.2\n"}, meta="names: [text, metal]\n")
    assert items["images_part1/s1.png"].findings[0].kind == "flag"


@pytest.mark.parametrize("place", ["yolov5/labels/train", "txt", "images_part1"])
def test_graz_labels_lie_in_any_folder(tmp_path, place):
    items, rejected = graz(tmp_path, {"s1": "8 0.5 0.5 0.1 0.2\n"}, place=place)
    assert [len(items[path].findings) for path in ("images_part1/s1.png", "images_part2/s2.png")] == [1, 0]
    assert rejected == {}


def test_graz_an_image_without_a_label_file_is_rejected(tmp_path):
    items, rejected = graz(tmp_path, {"s2": None})
    assert set(items) == {"images_part1/s1.png"}
    assert rejected == {"s2.png": "there is no s2.txt with its boxes, an empty one if it has none"}


@pytest.mark.parametrize("number", ["-1", "9", "x"])
def test_graz_a_class_that_is_none_is_refused(tmp_path, number):
    _, rejected = graz(tmp_path, {"s1": f"{number} 0.5 0.5 0.1 0.2\n"})
    assert rejected["s1.png"] == "line 1 of its labels is not <class 0 to 8> x y w h"


def test_graz_rows_and_files_without_each_other_are_rejected(tmp_path):
    png(tmp_path / "images_part3" / "stray.png")
    items, rejected = graz(tmp_path, {"s1": "9 0.5 0.5 0.1 0.2\n"}, extra="s3,1,1,x,L,1,,,,\n")
    assert set(items) == {"images_part2/s2.png"}
    assert rejected == {
        "s1.png": "line 1 of its labels is not <class 0 to 8> x y w h",
        "s3.png": "there is no such image",
        "images_part3/stray.png": "not listed in dataset.csv",
    }


def test_relative_boxes_are_stored_on_the_canvas(tmp_path):
    """A box of a 80 × 40 image, padded to a canvas of 64: 64 × 32 with 16 black rows above."""
    items, _ = graz(tmp_path, {"s1": "8 0.5 0.25 0.1 0.2\n"})
    item, source = items["images_part1/s1.png"], get_source("grazpedwri")
    job = ShardJob(
        source, source.Options(), locate(tmp_path).uri, locate(tmp_path / "out").uri,
        ImageFormat(size=64, dtype="uint8", fit="pad"), source.tasks(None, source.Options()),
    )  # fmt: skip
    row = {"path": item.path, "instance_id": "i", "study_id": "s", "patient_id": "p", "row": 1, "view_index": 0}
    row |= {"body_part": "WRIST", "view": "AP", "laterality": "L"}
    row |= {f"label_{name}": value for name, value in item.labels.items()}
    row["findings"] = [{"kind": each.kind, **dict(zip("xywh", each.box, strict=True))} for each in item.findings]
    plan = ShardPlan("train", 0, "0" * 16, 0, 1)
    write_shard(job, plan, [row])
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "out" / plan.path, partitioning=None)
    schema = shard_schema(job.image, job.tasks, False)
    (found,) = as_array(table["findings"], schema.field("findings"))[0]
    assert found["kind"] == "flag"
    assert [found[name] for name in "xywh"] == pytest.approx([0.45 * 64, 16 + 0.15 * 32, 0.1 * 64, 0.2 * 32], rel=1e-5)
