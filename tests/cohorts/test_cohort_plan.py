"""From items to shards: keys, duplicates, splits that clash, cuts, and which change touches which shard."""

import os
from collections import Counter

import pytest

from mskray.cohorts.plan import make_plan
from mskray.cohorts.schema import ABNORMALITY
from mskray.cohorts.sources import Item, Rejected
from mskray.imaging.deidentify import Pseudonymiser

KEYS = Pseudonymiser(b"a key for these tests only")


def items(patients=40, images=3, split=None, fingerprint="1-1"):
    return [
        Item(
            path=f"p{patient}/{image}.png",
            patient_id=f"p{patient}",
            study_id=f"s{image // 2}",
            fingerprint=fingerprint,
            labels={"abnormality": patient % 2},
            body_part="HAND",
            view_index=image,
            split=split,
        )
        for patient in range(patients)
        for image in range(images)
    ]


def plan(listed, **changes):
    settings = {
        "fractions": (0.7, 0.15, 0.15),
        "resplit": False,
        "seed": 0,
        "image_bytes": 1024,
        "shard_rows": 1024,
        "context": {"size": 32},
    }
    return make_plan(iter(listed), (ABNORMALITY,), KEYS, **{**settings, **changes})


def test_no_raw_identifier_is_in_the_plan():
    table = plan(items()).table
    assert set(table["patient_id"].to_pylist()) == {KEYS.patient(f"p{patient}") for patient in range(40)}
    raw = {f"p{patient}" for patient in range(40)} | {"s0", "s1"}
    for name in ("patient_id", "study_id", "instance_id"):
        assert raw.isdisjoint(table[name].to_pylist())


def test_the_same_study_number_of_two_patients_is_two_studies():
    table = plan(items(patients=5, images=4)).table
    assert len(table["study_id"].unique()) == 10


def test_no_patient_is_in_two_splits():
    table = plan(items()).table
    pairs = set(zip(table["patient_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert len(pairs) == 40
    assert Counter(split for _, split in pairs) == {"train": 28, "validation": 6, "test": 6}


@pytest.mark.parametrize("shard_rows", [1, 7, 50, 1024])
def test_every_row_is_in_one_shard_and_studies_stay_together(shard_rows):
    made = plan(items(), shard_rows=shard_rows)
    studies, covered = [], 0
    for shard in made.shards:
        assert shard.start == covered
        covered += shard.rows
        part = made.table.slice(shard.start, shard.rows)
        assert set(part["split"].to_pylist()) == {shard.split}
        studies += part["study_id"].unique().to_pylist()
    assert covered == made.table.num_rows == 120
    assert len(studies) == len(set(studies)) == 80


def test_pixels_bound_a_shard_too():
    assert len(plan(items(), image_bytes=4 * 2**20).shards) > len(plan(items()).shards)


def test_rows_of_a_study_are_in_order_of_views():
    table = plan(items(patients=3, images=2)).table
    assert table["view_index"].to_pylist() == [0, 1] * 3


def test_an_instance_listed_twice_is_kept_once():
    made = plan([*items(patients=4), items(patients=1)[0]])
    assert made.table.num_rows == 12
    assert [(row.path, row.reason) for row in made.quarantined] == [
        ("p0/0.png", "the same instance is listed more than once")
    ]
    assert made.listed == 13


def test_rejected_items_are_quarantined_as_they_are():
    made = plan([*items(patients=4), Rejected("x.txt", "no image", 7)])
    (row,) = made.quarantined
    assert (row.path, row.reason, row.stage, row.row) == ("x.txt", "no image", "listing", 7)


@pytest.mark.parametrize("kind", [Item, Rejected])
def test_a_name_that_is_not_utf8_can_be_written_to_quarantine(kind):
    path = os.fsdecode(b"caf\xe9.png")
    bad = Item(path, "p", "s", "1-1") if kind is Item else Rejected(path, "no image")
    (row,) = plan([*items(patients=4), bad]).quarantined
    assert row.path == "caf\\udce9.png"


def test_own_splits_are_kept_and_a_patient_in_two_keeps_the_larger():
    train, test = items(patients=6, split="train"), items(patients=1, images=1, split="test")
    moved = [Item(path="other.png", patient_id="p5", study_id="s9", fingerprint="1-1", split="test")]
    alone = [Item(path="alone.png", patient_id="p9", study_id="s9", fingerprint="1-1", split="test")]
    made = plan([*train[3:], *test, *moved, *alone])
    assert made.own_splits
    assert not made.assigned
    assert {row.path: (row.stage, row.split) for row in made.quarantined} == {"other.png": ("split", "test")}
    counts = Counter(made.table["split"].to_pylist())
    assert counts == {"train": 15, "test": 2}


def test_images_without_a_split_follow_their_patient():
    listed = [*items(patients=30, images=2), *items(patients=1, images=3, split="test")[2:]]
    made = plan(listed, fractions=(1.0, 0.0, 0.0))
    rows = zip(made.table["patient_id"].to_pylist(), made.table["split"].to_pylist(), strict=True)
    assert {split for patient, split in rows if patient == KEYS.patient("p0")} == {"test"}
    assert made.own_splits
    assert made.assigned


def test_resplit_forgets_the_own_splits():
    made = plan(items(split="train"), resplit=True)
    assert set(made.table["split"].to_pylist()) == {"train", "validation", "test"}
    assert not made.own_splits


def test_listing_order_does_not_matter():
    assert plan(items()[::-1]).shards == plan(items()).shards


def shards_touched(before, after):
    return {(s.split, s.number) for s in set(before.shards) ^ set(after.shards)}


def test_a_changed_file_touches_its_shard_alone():
    before = plan(items(), shard_rows=8)
    listed = items()
    changed = [*listed[:5], items(fingerprint="2-2")[5], *listed[6:]]
    assert len(shards_touched(before, plan(changed, shard_rows=8))) == 1


@pytest.mark.parametrize(
    "change", [{"context": {"size": 64}}, {"fractions": (0.5, 0.25, 0.25)}, {"seed": 1}], ids=["size", "split", "seed"]
)
def test_other_settings_are_other_plans(change):
    assert plan(items(), **change).shards != plan(items()).shards


def test_another_key_is_another_plan():
    other = make_plan(
        iter(items()), (ABNORMALITY,), Pseudonymiser(b"another key for these tests"), fractions=(0.7, 0.15, 0.15),
        resplit=False, seed=0, image_bytes=1024, shard_rows=1024, context={"size": 32},
    )  # fmt: skip
    assert {shard.plan for shard in other.shards}.isdisjoint(shard.plan for shard in plan(items()).shards)
