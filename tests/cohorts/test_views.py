"""A cohort seen in another way: exchanged, merged, dealt to folds; what each view counts, reads and is called by."""

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stack_cohort import PICTURES, SIDE, TILT, write_cohort

from mskray.cohorts import Cohort, Fold, View, open_cohort
from mskray.cohorts.schema import MANIFEST, Manifest
from mskray.cohorts.views import Part, deal
from mskray.errors import UserError
from mskray.families import family
from mskray.imaging.inputs import InputFormat
from mskray.prediction.readers import cohort_reader, pixel_arrays
from mskray.training.feed import describe_split
from mskray.training.samples import EachImage, Studies

SIZES = {"train": 40, "validation": 14, "test": 10}
SEES: dict[str, Callable[[Cohort], Cohort]] = {
    "as it is": lambda cohort: cohort,
    "exchanged": Cohort.exchange,
    "merged": Cohort.merged,
    "exchanged, merged": lambda cohort: cohort.exchange().merged(),
    "fold": lambda cohort: cohort.fold(0, 3, 0),
    "another fold": lambda cohort: cohort.fold(1, 3, 0),
    "another seed": lambda cohort: cohort.fold(0, 3, 1),
    "of four folds": lambda cohort: cohort.fold(0, 4, 0),
    "exchanged, fold": lambda cohort: cohort.exchange().fold(0, 3, 0),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make(tmp_path_factory.mktemp("views") / "cohort")


def make(folder: Path, sizes: dict[str, int] = SIZES, shard_rows: int = 5) -> Cohort:
    """Pictures of two a patient; five rows a shard, so that some patients lie in two shards."""
    random = np.random.default_rng(0)
    splits = {}
    for split, count in sizes.items():
        labels = {SIDE.name: random.integers(-1, 3, count), TILT.name: random.integers(0, 2, count)}
        splits[split] = (random.integers(0, 255, (count, *PICTURES.shape), np.uint8), labels)
    return write_cohort(folder, splits, image=PICTURES, kind="radiograph", shard_rows=shard_rows)


def ids(cohort: Cohort, split: str, column: str = "instance_id") -> list[str]:
    return cohort.metadata(split, [column])[column].to_pylist()


@pytest.mark.parametrize("name", SEES)
def test_a_view_counts_what_it_reads(cohort: Cohort, name: str) -> None:
    seen = SEES[name](cohort)
    for split in seen.splits:
        table = seen.metadata(split)
        counts = seen.manifest.counts.splits[split]
        assert len(table) == counts.images == seen.count(split) > 0
        assert len(table["study_id"].unique()) == counts.studies
        assert len(table["patient_id"].unique()) == counts.patients
        for task in seen.tasks:
            names = ["missing" if label is None else task.classes[label] for label in table[task.column].to_pylist()]
            assert Counter(names) == counts.labels[task.name]
        shards = seen.shards(split)
        read = [seen.read_shard(shard) for shard in shards]
        assert [len(rows["image"]) for rows in read] == [shard.rows for shard in shards]
        assert np.concatenate([rows["instance_id"] for rows in read]).tolist() == table["instance_id"].to_pylist()
        assert [len(seen.table(shard)) for shard in shards] == [shard.rows for shard in shards]
    counts = seen.manifest.counts
    assert counts.listed == counts.images + counts.quarantined
    seen.verify()


@pytest.mark.parametrize("name", SEES)
def test_a_view_gives_the_pixels_that_are_stored(cohort: Cohort, name: str) -> None:
    seen = SEES[name](cohort)
    stored = {
        name: image for split in cohort.splits for name, image in cohort.images(split, ids(cohort, split)).items()
    }
    for split in seen.splits:
        found = seen.images(split, ids(seen, split))
        assert list(found) == ids(seen, split)
        for shard in seen.shards(split):
            rows = seen.read_shard(shard, ["image", "instance_id"])
            for image, instance in zip(rows["image"], rows["instance_id"], strict=True):
                np.testing.assert_array_equal(image, stored[instance])
                np.testing.assert_array_equal(found[instance], stored[instance])


def test_every_view_has_a_name_of_its_own(cohort: Cohort) -> None:
    seen = [see(cohort) for see in SEES.values()]
    assert len({each.content_hash for each in seen}) == len(SEES)
    assert len({each.view for each in seen}) == len(SEES)
    assert [str(each.view) for each in seen] == [
        "as it is",
        "validation and test exchanged",
        "train and validation merged",
        "validation and test exchanged, train and validation merged",
        "fold 1 of 3 (seed 0)",
        "fold 2 of 3 (seed 0)",
        "fold 1 of 3 (seed 1)",
        "fold 1 of 4 (seed 0)",
        "validation and test exchanged, fold 1 of 3 (seed 0)",
    ]
    for each in seen:
        assert cohort.through(pickle.loads(pickle.dumps(each.view))) == each == pickle.loads(pickle.dumps(each))


@pytest.mark.parametrize("count", [2, 3, 5, 27])
def test_folds_share_out_the_patients_of_train_and_validation(cohort: Cohort, count: int) -> None:
    both = Counter(ids(cohort, "train") + ids(cohort, "validation"))
    folds = cohort.folds(count, 0)
    assert Counter(name for fold in folds for name in ids(fold, "validation")) == both
    for fold in folds:
        assert fold.splits == ("train", "validation")
        assert Counter(ids(fold, "train") + ids(fold, "validation")) == both
        assert not set(ids(fold, "train", "patient_id")) & set(ids(fold, "validation", "patient_id"))
        with pytest.raises(UserError, match="has no split 'test': it has train, validation"):
            fold.shards("test")
        with pytest.raises(UserError, match="lacks 1 of the images"):
            fold.images("validation", ids(fold, "train")[:1])
    patients = [fold.manifest.counts.splits["validation"].patients for fold in folds]
    assert sum(patients) == 27
    assert max(patients) - min(patients) <= 2
    assert any(isinstance(shard, Part) for shard in folds[0].manifest.shards)


def test_a_shard_without_a_patient_of_a_split_is_not_read(tmp_path: Path) -> None:
    """One patient a shard: every shard is in one split, whole."""
    cohort = make(tmp_path, shard_rows=2)
    fold = cohort.fold(0, 9, 0)
    assert len(fold.shards("validation")) == 3
    assert sorted(shard.path for shard in fold.manifest.shards) == sorted(
        shard.path for shard in cohort.manifest.shards if shard.split != "test"
    )
    assert not any(isinstance(shard, Part) for shard in fold.manifest.shards)


def test_merged_holds_both_and_test_is_as_it_was(cohort: Cohort) -> None:
    merged = cohort.merged()
    assert ids(merged, "train") == ids(cohort, "train") + ids(cohort, "validation")
    assert ids(merged, "validation") == ids(cohort, "validation")
    assert ids(merged, "test") == ids(cohort, "test")
    other = cohort.exchange().merged()
    assert ids(other, "train") == ids(cohort, "train") + ids(cohort, "test")
    assert ids(other, "test") == ids(cohort, "validation")


def test_a_cohort_of_train_alone_is_dealt_too(tmp_path: Path) -> None:
    cohort = make(tmp_path, {"train": 20})
    assert [fold.count("validation") for fold in cohort.folds(5, 0)] == [4] * 5
    with pytest.raises(UserError, match=r"has no train and validation split to merge \(it has train\)"):
        cohort.merged()


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        ({"train": 4, "validation": 2, "test": 40}, 5, "3 patients cannot be dealt to 5 folds"),
        (SIZES, 1, "1 folds leave nothing to learn from"),
        ({"test": 4}, 2, "has no split 'train': it has test"),
    ],
)
def test_what_cannot_be_dealt_is_refused(tmp_path: Path, sizes: dict[str, int], count: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        make(tmp_path, sizes).folds(count, 0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("first", ["merged", "fold"])
@pytest.mark.parametrize("then", ["exchanged", "merged", "fold"])
def test_a_view_that_is_complete_is_not_seen_in_another_way(cohort: Cohort, first: str, then: str) -> None:
    with pytest.raises(ValueError, match=r"a cohort that is already seen with .* cannot be"):
        SEES[then](SEES[first](cohort))


@pytest.mark.parametrize("number", [-1, 3])
def test_a_fold_that_is_not_there(cohort: Cohort, number: int) -> None:
    with pytest.raises(ValueError, match=f"fold {number} of 3"):
        cohort.fold(number, 3, 0)


def test_nothing_of_a_view_is_stored(cohort: Cohort) -> None:
    """What is on disk is what it was, and a manifest of a view cannot be mistaken for more than shards."""
    before = cohort.location.join(MANIFEST).read_bytes()
    fold = cohort.fold(0, 3, 0)
    assert cohort.location.join(MANIFEST).read_bytes() == before
    assert open_cohort(cohort.location) == cohort
    assert "kept" not in Manifest.model_validate(fold.manifest.model_dump(mode="json")).model_dump_json()


def test_a_shard_that_was_written_anew_is_refused(tmp_path: Path) -> None:
    fold = make(tmp_path, shard_rows=8).fold(0, 3, 0)
    part = next(shard for shard in fold.shards("train") if isinstance(shard, Part))
    make(tmp_path, shard_rows=6)
    with pytest.raises(UserError, match=f"shard {part.path} has 6 rows, 8 were written"):
        fold.read_shard(part)


@pytest.mark.parametrize("name", SEES)
def test_a_predictor_is_given_the_rows_of_the_view(cohort: Cohort, name: str) -> None:
    seen = SEES[name](cohort)
    read = cohort_reader(pickle.loads(pickle.dumps(seen)), SIDE.column)
    for split in seen.splits:
        items = [{"split": np.array([split]), "shard": np.array([number])} for number in range(len(seen.shards(split)))]
        rows = pa.concat_tables([read(item) for item in items])
        stored = seen.metadata(split, ["instance_id", SIDE.column])
        assert rows["instance_id"].to_pylist() == stored["instance_id"].to_pylist()
        assert rows["label"].to_pylist() == stored[SIDE.column].to_pylist()
        assert [len(pixels) for pixels in pixel_arrays(rows)] == [PICTURES.size] * len(stored)


@pytest.mark.parametrize("samples", [EachImage(SIDE.column), Studies(SIDE.column, views=2)])
@pytest.mark.parametrize("name", SEES)
def test_a_loader_reads_the_rows_of_the_view(
    cohort: Cohort, name: str, samples: EachImage | Studies, tmp_path: Path
) -> None:
    """Loaders know a view's shards from the split that they are sent."""
    seen, form = SEES[name](cohort), InputFormat(PICTURES.size)
    for part in ("train", "validation"):
        split, labels = describe_split(seen, part, samples, form)
        sent = pickle.loads(pickle.dumps(split))
        loaded = [sent.only(number).load(0) for number in range(len(sent.counts))]
        assert [len(arrays["label"]) for arrays in loaded] == list(split.counts)
        np.testing.assert_array_equal(np.concatenate([arrays["label"] for arrays in loaded]), labels)
        for number, shard in enumerate(seen.shards(part)):
            want = samples.load(seen.read_shard(shard, ["image", *samples.columns]), form)
            np.testing.assert_array_equal(loaded[number]["image"], want["image"])


def test_a_family_is_told_of_the_classes_of_the_view(tmp_path: Path) -> None:
    """Both classes are in train; the three patients with the second one cannot be in four folds."""
    labels = np.zeros(40, int)
    labels[[0, 10, 20]] = 1
    pictures = np.zeros((40, *PICTURES.shape), np.uint8)
    splits = {"train": (pictures[:30], {"type": labels[:30]}), "validation": (pictures[30:], {"type": labels[30:]})}
    cohort = write_cohort(tmp_path, splits, (TILT,), PICTURES, "radiograph")
    classifier = family("classifier")
    with pytest.raises(UserError, match=r"split validation.*it has lying"):
        classifier.check_classes(cohort, TILT)
    for fold in cohort.folds(3, 0):
        classifier.check_classes(fold, TILT)
    refused = 0
    for fold in cohort.folds(4, 0):
        try:
            classifier.check_classes(fold, TILT)
        except UserError:
            refused += 1
    assert refused == 1


def test_the_deal_by_hand() -> None:
    """Four patients, one with all of the last column: it goes first, the large one to the other fold.

    Shares of (patients, images, class): a (1/4, 1/8, 1), b (1/4, 5/8, 0), c and d (1/4, 1/8, 0). After a, b makes the
    sum of squares grow by twice 1/16 + 5/64 in fold 0, by nothing in fold 1, beside its own square. Then c (or d) by
    twice 1/16 + 1/64 in fold 0, by twice 1/16 + 5/64 in fold 1: it goes to 0. The last by twice 2/16 + 2/64 = 10/64 in
    fold 0, by twice 1/16 + 5/64 = 9/64 in fold 1: it goes to 1.
    """
    amounts = np.array([[1, 1, 3], [1, 5, 0], [1, 1, 0], [1, 1, 0]])
    fold = deal("abcd", amounts, 2, 0)
    assert fold[0] == 0
    assert fold[1] == 1
    assert sorted(fold[2:]) == [0, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_folds_are_alike_in_classes_and_sizes(count: int, seed: int) -> None:
    """200 patients of 1 to 6 images of five classes, the rarest with some 20 images."""
    random = np.random.default_rng(seed)
    rows = [random.multinomial(random.integers(1, 7), [0.45, 0.3, 0.15, 0.07, 0.03]) for _ in range(200)]
    labels = np.array(rows)
    amounts = np.column_stack([np.ones(200, int), labels.sum(axis=1), labels])
    fold = deal([f"p{number}" for number in range(200)], amounts, count, seed)
    held = np.stack([amounts[fold == number].sum(axis=0) for number in range(count)])
    assert np.ptp(held[:, 0]) <= 2
    assert (np.ptp(held[:, 1:], axis=0) <= 6).all(), held  # no more than the images of one patient


def test_another_seed_deals_otherwise_and_another_process_the_same(cohort: Cohort) -> None:
    deals = {tuple(ids(cohort.fold(0, 3, seed), "validation")) for seed in range(8)}
    assert len(deals) == 8
    fold = f"open_cohort({cohort.location.uri!r}).fold(1, 3, 7)"
    command = [sys.executable, "-c", f"from mskray.cohorts import open_cohort; print({fold}.content_hash)"]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == cohort.fold(1, 3, 7).content_hash


def test_what_a_fold_is(cohort: Cohort) -> None:
    assert cohort.fold(1, 3, 7).view == View(fold=Fold(1, 3, 7))
    assert View(exchanged=True).exchange() == View()
