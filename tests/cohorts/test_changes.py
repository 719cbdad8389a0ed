"""What changed since the last ingest, and the list of names, whether in memory or on disk."""

import csv

import pyarrow as pa
import pytest
from planned_sources import KEYS, planned

from mskray.cohorts import changes
from mskray.cohorts.counting import count
from mskray.cohorts.plan import Quarantined, make_plan
from mskray.cohorts.schema import ABNORMALITY
from mskray.cohorts.sources import Item
from mskray.storage import locate

HELD = [5, 10**6]


def plan(marks: dict[str, str]):
    items = [Item(path, path.partition("/")[0], "s", mark, row=row) for row, (path, mark) in enumerate(marks.items())]
    return make_plan(
        iter(items), (), KEYS, fractions=(1.0, 0.0, 0.0), resplit=False, seed=0, image_bytes=1024, shard_rows=16,
        context={},
    )  # fmt: skip


FIRST = {f"p{n}/{n}.png": f"{n}-1" for n in range(60)}


@pytest.mark.parametrize("held", HELD)
def test_what_changed(tmp_path, held):
    out = locate(tmp_path / "cohort")
    counts, made = changes.compare_files(out, plan(FIRST), held)
    assert (counts["added"], counts["changed"], counts["removed"]) == (0, 0, 0), "there was no ingest before"
    first = plan(FIRST)
    changes.write_files(out, changes.compare_files(out, first, held)[1])
    counts, made = changes.compare_files(out, first, held)
    assert made is None, "nothing changed, nothing is written"
    assert not counts.total()
    second = dict(list(FIRST.items())[7:]) | {"p9/9.png": "9-2", "p20/20.png": "x", "new/1.png": "1-1"}
    counts, made = changes.compare_files(out, plan(second), held)
    assert dict(counts) == {"added": 1, "changed": 2, "removed": 7}
    assert made is not None


def test_the_list_of_files_is_the_same_in_memory_and_on_disk(tmp_path):
    found = []
    for held in HELD:
        out = locate(tmp_path / str(held))
        with_rows = plan(FIRST)
        changes.write_files(out, changes.compare_files(out, with_rows, held)[1])
        found.append(pa.parquet.read_table(tmp_path / str(held) / changes.FILES))
    assert found[0].equals(found[1])
    assert found[0]["instance_id"].to_pylist() == sorted(KEYS.instance(path) for path in FIRST)


@pytest.mark.parametrize("held", HELD)
def test_names_are_in_the_order_of_the_source(tmp_path, held):
    made = planned("everything")
    changes.write_names(locate(tmp_path / "names.csv"), made, held)
    with open(tmp_path / "names.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = sorted(made.table.to_pylist(), key=lambda row: (row["row"], row["path"]))
    names = ("path", "instance_id", "study_id", "patient_id", "split")
    assert rows == [{name: row[name] for name in names} for row in wanted]


def test_counts_leave_out_what_could_not_be_decoded():
    made = planned("own splits")
    table = made.table.to_pylist()
    # Every image of one patient, and one image of another.
    lost = [row["path"] for row in table if row["patient_id"] == table[0]["patient_id"]] + [table[-1]["path"]]
    quarantined = [*made.quarantined, *(Quarantined(path, "no image", "decode") for path in lost)]
    left = [row for row in table if row["path"] not in lost]
    found = count(made, quarantined, (ABNORMALITY,))
    assert (found.images, found.quarantined, found.listed) == (len(left), len(quarantined), made.listed)
    for split, counts in found.splits.items():
        rows = [row for row in left if row["split"] == split]
        assert counts.images == len(rows)
        assert counts.studies == len({row["study_id"] for row in rows})
        assert counts.patients == len({row["patient_id"] for row in rows})
        labels = [row["label_abnormality"] for row in rows]
        assert counts.labels["abnormality"] == {
            "normal": labels.count(0),
            "abnormal": labels.count(1),
            "missing": labels.count(None),
        }
