"""Whole ingests on a cluster: counts that add up, nothing done twice, and what killed processes leave behind."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from cohort_layouts import knee, mura, png

from mskray.cohorts import open_cohort
from mskray.cohorts.contact_sheet import contact_sheet, summary
from mskray.cohorts.ingest import ingest
from mskray.cohorts.ray_data import dataset
from mskray.cohorts.sources.knee_oa import KneeOA
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

KEY = b"a key for these tests only"
SMALL = {"size": 32, "shard_rows": 8}


def make_knees(folder: Path) -> Path:
    """54 usable images of 30 subjects in two splits, and three that are not."""
    knee(folder, [f"{n % 5}/{9000000 + n}{side}" for n in range(20) for side in "LR"][:38], "train")
    knee(folder, [f"{n % 5}/{9100000 + n}{side}" for n in range(8) for side in "LR"], "val")
    png(folder / "train" / "0" / "nameless.png")
    (folder / "train" / "1" / "9200000L.png").write_bytes(b"%PDF-1.7")
    (folder / "val" / "1" / "9200001L.png").write_bytes(b"")
    return folder


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def settled(folder: Path) -> dict[str, int]:
    """The same once nobody writes there any more: tasks outlive a driver that was killed by a moment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # a file that got its name meanwhile
            before = times(folder)
            time.sleep(1)
            if times(folder) == before:
                return before
    raise AssertionError(f"{folder} keeps changing")


def run(folder: Path, out: str = "out", **settings):
    return ingest("knee-oa", folder / "in", folder / out, settings={**SMALL, **settings}, key=KEY)


@pytest.fixture(scope="module")
def knees(tmp_path_factory, ray_cluster) -> Path:
    """A folder with a source `in` and its cohort `out`; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("knees")
    make_knees(folder / "in")
    run(folder)
    return folder


@pytest.fixture
def copy(knees, tmp_path) -> Path:
    # Times are copied too: to the ingest these are the same files.
    shutil.copytree(knees, tmp_path / "copy")
    return tmp_path / "copy"


def test_counts_add_up_and_splits_are_the_source_s(knees):
    cohort = open_cohort(knees / "out")
    counts = cohort.manifest.counts
    assert (counts.listed, counts.images, counts.quarantined) == (57, 54, 3)
    assert {split: count.images for split, count in counts.splits.items()} == {"train": 38, "validation": 16}
    assert counts.splits["train"].patients == counts.splits["train"].studies == 19
    assert cohort.splits == ("train", "validation")
    assert cohort.manifest.split.method == "source"
    assert sum(cohort.count(split) for split in cohort.splits) == 54
    assert len(cohort.shards("train")) > 2
    cohort.verify()


def test_quarantine_names_each_input_that_is_missing(knees):
    rows = {row["path"]: (row["stage"], row["split"]) for row in open_cohort(knees / "out").quarantine().to_pylist()}
    assert rows == {
        "train/0/nameless.png": ("listing", None),
        "train/1/9200000L.png": ("decode", "train"),
        "val/1/9200001L.png": ("decode", "validation"),
    }


def test_no_identifier_of_the_source_is_in_the_cohort(knees):
    for path in (knees / "out").rglob("*"):
        if path.is_file() and path.name != "quarantine.parquet" and "_ingest" not in path.parts:
            data = path.read_bytes()
            assert b"9000001" not in data
            assert b"9100001" not in data
    table = open_cohort(knees / "out").metadata("train", ["patient_id"])
    assert not any("900000" in name for name in table["patient_id"].to_pylist())


def test_stored_pixels_are_the_decoded_ones(knees):
    import cv2

    cohort = open_cohort(knees / "out")
    data = [cohort.read_shard(shard) for shard in cohort.shards("validation")]
    images = np.concatenate([each["image"] for each in data])
    assert images.shape == (16, 32, 32)
    grades = np.concatenate([each["label_kl_grade"] for each in data])
    expected = []
    for path in sorted((knees / "in" / "val").rglob("91*.png")):
        source = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected.append((int(path.parent.name), cv2.resize(source, (32, 27), interpolation=cv2.INTER_AREA).tobytes()))
    assert sorted(zip(grades, (image[2:29].tobytes() for image in images), strict=True)) == sorted(expected)


def test_a_second_run_touches_nothing(copy):
    before = times(copy / "out")
    summary = run(copy)
    assert (summary.written, summary.decoded, summary.deleted) == (0, 0, 0)
    assert (summary.changed, summary.added, summary.removed) == (0, 0, 0)
    assert times(copy / "out") == before


def test_names_trace_each_row_back_to_its_file(copy):
    before = times(copy / "out")
    ingest("knee-oa", copy / "in", copy / "out", settings=SMALL, key=KEY, names=copy / "names.csv")
    assert times(copy / "out") == before
    with (copy / "names.csv").open(encoding="utf-8", newline="") as file:
        named = {row["instance_id"]: row for row in csv.DictReader(file)}
    cohort = open_cohort(copy / "out")
    for split in cohort.splits:
        for row in cohort.metadata(split, ["instance_id", "patient_id", "label_kl_grade", "laterality"]).to_pylist():
            told = named.pop(row["instance_id"])
            folder, grade, file = told["path"].split("/")
            assert (told["split"], told["patient_id"]) == (split, row["patient_id"])
            assert (folder == "train", int(grade)) == (split == "train", row["label_kl_grade"])
            assert file.endswith(f"{row['laterality']}.png")
    # What could not be decoded was listed all the same.
    assert sorted(row["path"] for row in named.values()) == ["train/1/9200000L.png", "val/1/9200001L.png"]


@pytest.mark.parametrize("place", ["out/names.csv", "in/names.csv"])
def test_names_lie_neither_in_the_cohort_nor_in_the_source(copy, place):
    with pytest.raises(UserError, match="give a place elsewhere"):
        ingest("knee-oa", copy / "in", copy / "out", settings=SMALL, key=KEY, names=copy / place)
    assert not (copy / place).exists()


def test_changed_new_and_removed_files_are_noticed(copy):
    first = open_cohort(copy / "out").content_hash
    png(copy / "in" / "train" / "2" / "9000002L.png", seed=77, rows=44)
    png(copy / "in" / "train" / "3" / "9300000L.png", seed=78)
    (copy / "in" / "train" / "4" / "9000004R.png").unlink()
    done = run(copy)
    assert (done.changed, done.added, done.removed) == (1, 1, 1)
    assert 1 <= done.written <= 3 < done.written + done.kept
    assert done.deleted == done.written
    cohort = open_cohort(copy / "out")
    cohort.verify()
    assert cohort.content_hash == done.content_hash != first
    files = {path.relative_to(copy / "out").as_posix() for path in (copy / "out").glob("split=*/*")}
    assert files == {shard.path for shard in cohort.manifest.shards}
    assert done.content_hash == run(copy, "fresh").content_hash


def test_a_touched_file_gives_the_same_content(copy):
    first = open_cohort(copy / "out").content_hash
    os.utime(copy / "in" / "train" / "2" / "9000002L.png")
    done = run(copy)
    assert (done.changed, done.written, done.content_hash) == (1, 1, first)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"size": 64}, KEY, "made with image settings"),
        ({"bits": 16}, KEY, "made with image settings"),
        ({"seed": 1}, KEY, "made with split seed"),
        ({"split_fractions": (0.5, 0.25, 0.25)}, KEY, "made with split fractions"),
        ({}, b"quite another key than before", "made with hash key"),
    ],
)
def test_an_existing_cohort_is_not_turned_into_another(copy, settings, key, message):
    before = times(copy / "out")
    with pytest.raises(UserError, match=f"already holds a cohort {message}.*give another --out"):
        ingest("knee-oa", copy / "in", copy / "out", settings={**SMALL, **settings}, key=key)
    assert times(copy / "out") == before


def test_patients_can_be_split_anew(copy):
    run(copy, "resplit", split_fractions=(0.5, 0.25, 0.25))
    cohort = open_cohort(copy / "resplit")
    assert cohort.splits == ("train", "validation", "test")
    patients = [set(cohort.metadata(split, ["patient_id"])["patient_id"].to_pylist()) for split in cohort.splits]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 27
    assert cohort.manifest.split.method == "stratified"


def test_a_killed_driver_is_continued(copy, ray_cluster):
    """The driver kills itself with SIGKILL when the first shards are done."""
    program = textwrap.dedent(
        """
        import os, signal, sys
        from mskray.cohorts.ingest import ingest
        def report(progress):
            if progress.stage == "ingest" and progress.done:
                os.kill(os.getpid(), signal.SIGKILL)
        ingest("knee-oa", sys.argv[1], sys.argv[2], settings={"size": 32, "shard_rows": 8}, key=sys.argv[3].encode(),
               report=report)
        """
    )
    out = copy / "killed"
    command = [sys.executable, "-c", program, str(copy / "in"), str(out), KEY.decode()]
    ended = subprocess.run(command, env={**os.environ, "RAY_ADDRESS": ray_cluster}, capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    assert not (out / "cohort.json").exists()
    with pytest.raises(UserError, match="its ingest did not end"):
        open_cohort(out)
    left = settled(out)
    # A task that died in the midst of an entry leaves it beside where it belongs.
    entries = [name for name in left if name.startswith("_ingest") and name.endswith(".json")]
    assert entries
    done = run(copy, "killed")
    assert done.kept == len(entries) < done.kept + done.written
    after = times(out)
    for name in entries:
        shard = name.replace("_ingest/", "split=").replace(".json", ".parquet")
        shard = f"{Path(shard).parent}/part-{Path(shard).name}"
        assert after[shard] == left[shard]
    assert done.content_hash == open_cohort(copy / "out").content_hash
    assert done.counts == open_cohort(copy / "out").manifest.counts
    open_cohort(out).verify()


class Deadly(KneeOA):
    """Kills the worker that reads one certain file, once."""

    def fetch(self, root, path):
        mark = Path(root.path).parent / "killed"
        if path.endswith("9000003L.png") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fetch(root, path)


class Poison(KneeOA):
    """Dies of one certain file, always."""

    def load(self, path, data, options):
        if path.endswith("9000003L.png"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().load(path, data, options)


class Down(KneeOA):
    """A store that stops answering."""

    def fetch(self, root, path):
        if path.endswith("9000003L.png"):
            raise UserError("no answer from the store") from ConnectionError()
        return super().fetch(root, path)


class Torchless(KneeOA):
    """Refuses every file in a process that has imported torch."""

    def load(self, path, data, options):
        if "torch" in sys.modules:
            raise DecodeError("torch is imported")
        return super().load(path, data, options)


@pytest.mark.usefixtures("by_value")
def test_a_killed_worker_costs_nothing_and_doubles_nothing(copy):
    done = ingest(Deadly(), copy / "in", copy / "again", settings=SMALL, key=KEY)
    assert (copy / "killed").exists()
    assert done.content_hash == open_cohort(copy / "out").content_hash


@pytest.mark.usefixtures("by_value")
def test_a_file_that_kills_its_decoder_is_quarantined(copy):
    done = ingest(Poison(), copy / "in", copy / "again", settings=SMALL, key=KEY)
    rows = open_cohort(copy / "again").quarantine().to_pylist()
    assert {row["path"]: row["reason"] for row in rows}["train/3/9000003L.png"] == "decoding it killed the process"
    assert (done.counts.images, done.counts.quarantined) == (53, 4)
    assert done.studies_lost == 2, "those of the two knees in quarantine whose subject has no other"


@pytest.mark.usefixtures("by_value")
def test_a_store_that_fails_ends_the_ingest_in_one_line_and_it_can_go_on(copy):
    with pytest.raises(UserError) as error:
        ingest(Down(), copy / "in", copy / "again", settings=SMALL, key=KEY)
    assert str(error.value) == "no answer from the store"
    assert not (copy / "again" / "cohort.json").exists()
    assert run(copy, "again").content_hash == open_cohort(copy / "out").content_hash


@pytest.mark.usefixtures("by_value")
def test_workers_do_not_import_torch(copy):
    done = ingest(Torchless(), copy / "in", copy / "again", settings=SMALL, key=KEY)
    assert done.content_hash == open_cohort(copy / "out").content_hash


def test_two_at_once_into_one_place_are_harmless(copy):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: run(copy, "both"), range(2))
    assert first.content_hash == second.content_hash == open_cohort(copy / "out").content_hash
    open_cohort(copy / "both").verify()


def test_the_same_cohort_through_an_object_store(copy, s3_folder):
    done = ingest("knee-oa", copy / "in", s3_folder.join("cohort"), settings=SMALL, key=KEY)
    assert done.content_hash == open_cohort(copy / "out").content_hash
    cohort = open_cohort(s3_folder.join("cohort"))
    cohort.verify()
    local = open_cohort(copy / "out")
    assert cohort.metadata("train").equals(local.metadata("train"))
    some = cohort.metadata("train", ["instance_id"])["instance_id"].to_pylist()[3:30:9]
    for name, image in cohort.images("train", some).items():
        np.testing.assert_array_equal(image, local.images("train", [name])[name])
    assert ingest("knee-oa", copy / "in", s3_folder.join("cohort"), settings=SMALL, key=KEY).written == 0
    # And from one: the files are read from the store by the workers.
    for path in (copy / "in" / "val").rglob("*.png"):
        s3_folder.join("in", path.relative_to(copy / "in").as_posix()).write_bytes(path.read_bytes())
    again = ingest("knee-oa", s3_folder.join("in"), copy / "from-s3", settings=SMALL, key=KEY)
    assert again.counts.splits["validation"] == done.counts.splits["validation"]


def test_mura_keeps_its_public_test_set_and_cuts_validation(tmp_path):
    parts = ("WRIST", "HAND")
    studies = [(parts[n % 2], f"patient{n:05d}", 1, ("negative", "positive")[n // 2 % 2], 1 + n % 3) for n in range(60)]
    mura(tmp_path / "in" / "MURA-v1.1", studies[:40], "train")
    mura(tmp_path / "in" / "MURA-v1.1", studies[40:], "valid")
    ingest("mura", tmp_path / "in", tmp_path / "out", {"validation_fraction": 0.2}, {"size": 32}, key=KEY)
    cohort = open_cohort(tmp_path / "out")
    counts = cohort.manifest.counts.splits
    assert {split: count.patients for split, count in counts.items()} == {"train": 32, "validation": 8, "test": 20}
    assert cohort.manifest.split.method == "source, rest stratified"
    assert "public validation set" in cohort.manifest.split.note
    assert [(group.split, group.body_part) for group in summary(cohort)][:2] == [("train", "HAND"), ("train", "WRIST")]


def test_phantoms_are_read_with_ray_and_drawn(tmp_path):
    options = {"patients": 16, "image_size": 64}
    ingest("phantom", None, tmp_path / "out", options, {"size": 48, "shard_rows": 8}, key=KEY)
    cohort = open_cohort(tmp_path / "out")
    rows = dataset(cohort, "train", ["image", "mask", "label_abnormality", "instance_id"]).take_all()
    assert len(rows) == cohort.count("train")
    assert rows[0]["image"].shape == rows[0]["mask"].shape == (48, 48)
    plain = ray.data.read_parquet(str(tmp_path / "out" / "split=train")).take_all()
    assert len(plain) == cohort.count("train")
    by_id = {row["instance_id"]: row["image"] for row in rows}
    for row in plain:
        np.testing.assert_array_equal(np.frombuffer(row["image"], np.uint8).reshape(48, 48), by_id[row["instance_id"]])
    sheet = contact_sheet(cohort, "train", rows=2, columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert sheet.std() > 10


def test_reading_refuses_what_is_not_there(copy):
    cohort = open_cohort(copy / "out")
    for wrong, message in (
        (lambda: cohort.shards("test"), "it has train, validation"),
        (lambda: cohort.task("grade"), "its tasks are abnormality, kl_grade"),
        (lambda: cohort.read_shard(cohort.shards("train")[0], ["pixels"]), "no column pixels"),
        (lambda: cohort.images("train", ["none"]), "lacks 1 of the images"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()
    shard = cohort.shards("train")[0]
    path = copy / "out" / shard.path
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="is not what was written"):
        cohort.verify()
    path.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its .* shards"):
        open_cohort(copy / "out")
    done = run(copy)
    assert (done.written, done.content_hash) == (1, cohort.content_hash)
    open_cohort(copy / "out").verify()


def test_metadata_holds_no_pixels_and_missing_values_have_a_place(copy):
    cohort = open_cohort(copy / "out")
    table = cohort.metadata("train")
    assert "image" not in table.column_names
    assert table.num_rows == 38
    with pytest.raises(ValueError, match="no pixels"):
        cohort.metadata("train", ["image"])
    shard = cohort.read_shard(cohort.shards("train")[0])
    assert np.isnan(shard["row_spacing_mm"]).all()
    assert shard["findings"][0] == []
    assert shard["view"][0] == "PA"
    assert shard["label_kl_grade"].dtype == np.int32


def test_a_ledger_entry_without_its_object_is_done_again(copy):
    shard = open_cohort(copy / "out").shards("validation")[0]
    (copy / "out" / shard.path).unlink()
    done = run(copy)
    assert done.written == 1
    assert pq.read_table(copy / "out" / shard.path, partitioning=None).num_rows == shard.rows
