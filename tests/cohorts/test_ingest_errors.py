"""What a user can get wrong in an ingest: one line each, before any work."""

import json

import pytest
from cohort_layouts import knee, png

from mskray.cohorts import schema
from mskray.cohorts.ingest import _prepare, ingest
from mskray.errors import UserError
from mskray.imaging.deidentify import Pseudonymiser
from mskray.storage import locate

KEY = b"a key for these tests only"


@pytest.mark.parametrize(
    ("source", "given", "out", "options", "settings", "message"),
    [
        (
            "mira",
            "in",
            "out",
            {},
            {},
            r"unknown source 'mira': did you mean mura\? use one of dicom, discs, feedback, grazpedwri, knee-oa",
        ),
        ("knee-oa", "nowhere", "out", {}, {}, "nothing at"),
        ("knee-oa", "empty", "out", {}, {}, "not laid out like knee-oa"),
        ("mura", "in", "out", {}, {}, "not laid out like MURA"),
        ("dicom", "empty", "out", {}, {}, "holds no image"),
        ("manifest", "in", "out", {}, {}, "reads a CSV"),
        ("manifest", "bad.csv", "out", {}, {}, "lacks the column"),
        ("knee-oa", None, "out", {}, {}, "needs the place of its files"),
        ("knee-oa", "in", "in/out", {}, {}, "would lie inside its source"),
        ("knee-oa", "in", "in", {}, {}, "would lie inside its source"),
        ("knee-oa", "in", "out", {}, {"size": 8}, "size = 8 is not allowed"),
        ("knee-oa", "in", "out", {}, {"size": 100000}, "size = 100000 is not allowed"),
        ("knee-oa", "in", "out", {}, {"bits": 12}, "bits = 12 is not allowed"),
        ("knee-oa", "in", "out", {}, {"fit": "crop"}, "fit = 'crop' is not allowed"),
        ("knee-oa", "in", "out", {}, {"split_fractions": (0.5, 0.4, 0.2)}, "sum to 1.1"),
        ("knee-oa", "in", "out", {}, {"split_fractions": (0.5, 0.5)}, "split_fractions"),
        ("knee-oa", "in", "out", {"grade": 3}, {}, "unknown key grade"),
        ("mura", "in", "out", {"validation_fraction": 2}, {}, "validation_fraction = 2 is not allowed"),
        ("phantom", None, "out", {"parts": ["NOSE"]}, {}, "NOSE"),
    ],
)
def test_one_line_that_says_what_and_where(tmp_path, source, given, out, options, settings, message):
    knee(tmp_path / "in", ["0/9000001L"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("picture\n")
    with pytest.raises(UserError, match=message) as error:
        ingest(source, None if given is None else tmp_path / given, tmp_path / out, options, settings, key=KEY)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_everything_in_quarantine_is_an_error_that_leaves_the_quarantine(tmp_path):
    png(tmp_path / "in" / "train" / "0" / "nameless.png")
    with pytest.raises(UserError, match=r"all 1 inputs of .* are in quarantine \(1 × not <grade") as error:
        ingest("knee-oa", tmp_path / "in", tmp_path / "out", key=KEY)
    assert "quarantine.parquet" in str(error.value)
    assert (tmp_path / "out" / "quarantine.parquet").is_file()
    assert not (tmp_path / "out" / "cohort.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "has schema version 2, this mskray reads up to 1"),
        ({"shards": "none"}, "is not a valid cohort manifest"),
    ],
)
def test_a_destination_that_holds_another_kind_of_cohort(tmp_path, changes, message):
    knee(tmp_path / "in", ["0/9000001L"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cohort.json").write_text(json.dumps({"schema_version": 1, **changes}))
    with pytest.raises(UserError, match=message):
        ingest("knee-oa", tmp_path / "in", tmp_path / "out", key=KEY)


def test_a_cohort_older_than_an_option_had_its_default(tmp_path):
    """Made before `annotations` and `kinds` of the source manifest existed."""
    (tmp_path / "images.csv").write_text("path,patient_id\na.png,p\n")
    older = {"root": "", "classes": {}, "allow_burned_in": False}
    manifest = schema.Manifest(
        source="manifest",
        source_options=older,
        tasks=(),
        image=schema.ImageFormat(size=32, dtype="uint8", fit="pad"),
        masks=False,
        split=schema.SplitMethod(method="stratified", seed=0, fractions=None),
        counts=schema.Counts(listed=0, images=0, quarantined=0, splits={}),
        shards=(),
        hash_key_fingerprint=Pseudonymiser(KEY).fingerprint,
        content_hash="",
        created_by="",
    )
    locate(tmp_path / "out").join(schema.MANIFEST).write_json(manifest.model_dump(mode="json"))

    def prepare(**options):
        place = tmp_path / "images.csv"
        return _prepare("manifest", place, tmp_path / "out", options, {"size": 32}, lambda _: None, KEY)

    assert prepare().before.source_options == older
    with pytest.raises(UserError, match="already holds a cohort made with source options"):
        prepare(kinds={"marker": "flag"})
