"""A Parquet manifest: the rows that a CSV would give, read a row group at a time, without listing files; cut reads."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohort_layouts import png
from fault_proxy import Fault, FaultProxy
from planned_sources import KEYS

from mskray.cohorts.plan import make_plan
from mskray.cohorts.sources import Item, Rejected, get_source
from mskray.errors import UserError
from mskray.storage import locate
from mskray.storage.local import LocalStore
from mskray.storage.tables import row_groups

SOURCE = get_source("manifest")
ROWS = {
    "path": ["a.png", "sub/d.png", "", "../x.png", "b.png", "c.png", "a.png"],
    "patient_id": [1, 2, 2, 2, None, 1, 1],
    "study_id": ["s", "s", "s", "s", "s", "s", "s"],
    "body_part": ["hand", "wrist", "hand", "hand", "hand", None, "hand"],
    "label": [0.0, 1.0, None, 1.0, 1.0, None, 0.0],
    "label_grade": ["mild", "severe", "mild", "mild", "mild", "severe", "mild"],
    "age": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5],
}


def listing(folder, rows, groups=2, **options):
    place = folder / "images.parquet"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), place, row_group_size=groups)
    return items(locate(place), **options)


def items(place, **options):
    checked = SOURCE.Options(**options)
    return SOURCE.tasks(place, checked), list(SOURCE.items(place, checked))


def plan(tasks, found):
    return make_plan(
        iter(found), tasks, KEYS, fractions=(1.0, 0.0, 0.0), resplit=False, seed=0, image_bytes=1024, shard_rows=8,
        context={},
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_rows_are_those_of_a_csv(tmp_path, groups):
    for name in ("a.png", "c.png", "sub/d.png", "b.png"):
        png(tmp_path / name)
    tasks, found = listing(tmp_path, ROWS, groups)
    assert [(task.name, task.classes) for task in tasks] == [
        ("abnormality", ("normal", "abnormal")),
        ("grade", ("mild", "severe")),
    ]
    assert [item.path if isinstance(item, Item) else (item.reason, item.row) for item in found] == [
        "a.png",
        "sub/d.png",
        ("no path", 3),
        (f"path is not inside file://{tmp_path}", 4),
        ("no patient_id", 5),
        "c.png",
        "a.png",
    ]
    first = found[0]
    assert (first.patient_id, first.body_part, dict(first.labels)) == ("1", "HAND", {"abnormality": 0, "grade": 0})
    size, mark = os.stat(tmp_path / "a.png").st_size, os.stat(tmp_path / "a.png").st_mtime_ns
    assert first.fingerprint == f"{size}-{mark}"


def test_a_missing_file_is_known_from_the_listing(tmp_path):
    png(tmp_path / "in" / "a.png")
    _, found = listing(tmp_path / "in", {"path": ["a.png", "gone.png"], "patient_id": ["p", "q"]})
    assert [(row.path, row.reason) for row in found if isinstance(row, Rejected)] == [
        ("gone.png", "there is no such file")
    ]


def test_an_infinite_label_is_none_of_the_classes(tmp_path):
    rows = {
        "path": ["a.png", "b.png"],
        "patient_id": ["p", "q"],
        "label": [1.0, float("inf")],
        "fingerprint": ["1", "2"],
    }
    _, found = listing(tmp_path, rows)
    assert found[0].labels == {"abnormality": 1}
    assert found[1].reason == "abnormality 'inf' is none of normal, abnormal"


def test_with_fingerprints_no_file_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStore, "walk", lambda *_: pytest.fail("the store was listed"))
    rows = {"path": ["a.png", "b/c.png", "d.png"], "patient_id": ["p", "q", "r"], "fingerprint": ["12-ab", "13-cd", ""]}
    _, found = listing(tmp_path, rows)
    assert [item.fingerprint for item in found[:2]] == ["12-ab", "13-cd"]
    assert found[2].reason == "its fingerprint is empty"


def test_another_fingerprint_is_another_plan(tmp_path):
    rows = {"path": ["a.png"], "patient_id": ["p"], "fingerprint": ["1"]}
    first = plan(*listing(tmp_path, rows)).shards
    assert first == plan(*listing(tmp_path, rows)).shards
    assert first != plan(*listing(tmp_path, rows | {"fingerprint": ["2"]})).shards


def test_views_are_numbered_by_the_plan_and_doubled_paths_refused(tmp_path):
    rows = {
        "path": ["z.png", "y.png", "x.png", "w.png", "z.png"],
        "patient_id": ["p", "q", "p", "p", "p"],
        "view_index": [None, None, None, 7, None],
        "fingerprint": ["1"] * 5,
    }
    made = plan(*listing(tmp_path, rows))
    table = made.table.to_pylist()
    assert {row["path"]: row["view_index"] for row in table} == {"z.png": 0, "y.png": 0, "x.png": 1, "w.png": 7}
    assert [(row.path, row.reason, row.row) for row in made.quarantined] == [
        ("z.png", "the same instance is listed more than once", 5)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"path": ["a"]}, r"lacks the column\(s\) patient_id: it has path"),
        ({"path": ["a"], "patient_id": [["p"]]}, "column patient_id holds list.*write it as text or whole numbers"),
        ({"path": ["a"], "Path": ["b"], "patient_id": ["p"]}, r"the column\(s\) path more than once"),
        ({"path": ["a"], "patient_id": ["p"], "label_x": ["1"]}, "has 1 different values"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        listing(tmp_path, rows)


def test_what_is_no_parquet_is_one_line(tmp_path):
    (tmp_path / "images.parquet").write_text("path,patient_id\n")
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        items(locate(tmp_path / "images.parquet"))


def test_a_file_replaced_in_the_middle_is_refused(tmp_path):
    place = tmp_path / "images.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3, 4]}), place, row_group_size=2)
    groups = row_groups(locate(place))
    assert next(groups)["a"].to_pylist() == [1, 2]
    pq.write_table(pa.table({"a": [1, 2, 5, 4, 6]}), place, row_group_size=2)
    with pytest.raises(UserError, match="changed while it was read"):
        next(groups)


@pytest.mark.parametrize("kind", ["cut_get_body", "status", "cut_before_answer"])
def test_a_listing_that_a_store_cuts_off_goes_on_at_its_row_group(s3_folder, object_store, aws_nothing, kind):
    count = 40_000
    sink = pa.BufferOutputStream()
    marks = [f"{number * 7919 % 1_000_003:x}-{number}" for number in range(count)]
    rows = {"path": [f"p/{n}.png" for n in range(count)], "patient_id": [n // 3 for n in range(count)]}
    pq.write_table(pa.table(rows | {"fingerprint": marks}), sink, row_group_size=10_000)
    s3_folder.join("images.parquet").write_bytes(sink.getvalue().to_pybytes())
    with FaultProxy(object_store.port) as proxy:
        aws_nothing.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        place = s3_folder.join("images.parquet")
        _, undisturbed = items(place)
        calls = len(proxy.log)
        # The third and later reads of data: in the middle of the listing.
        reading = iter(SOURCE.items(place, SOURCE.Options()))
        found = [next(reading)]
        proxy.inject(Fault(kind, methods="GET", path=r"images\.parquet", first=3))
        found += reading
        assert proxy.hits(kind) == 3
    assert [item.fingerprint for item in found] == marks == [item.fingerprint for item in undisturbed]
    assert len(proxy.log) - calls < 2 * calls, "what had arrived was not read again"
