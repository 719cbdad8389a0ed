"""A cohort's train split learned beside another's: what is taken, what gives way, what is held out, what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stack_cohort import PICTURES, SIDE, TILT, write_cohort

from mskray.bundles import Bundle
from mskray.cohorts import Cohort, ImageFormat, Task, open_cohort
from mskray.cohorts.added import add
from mskray.errors import UserError
from mskray.imaging.inputs import InputFormat
from mskray.prediction.readers import cohort_reader, pixel_arrays
from mskray.training.feed import describe_split
from mskray.training.samples import EachImage, Studies
from mskray.unseen import check_held_out, check_not_learned

SIZES = {"train": 12, "validation": 6, "test": 6}


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, *PICTURES.shape), np.uint8)


def labels(count: int, side: int = 1) -> dict[str, np.ndarray]:
    return {SIDE.name: np.full(count, side), TILT.name: np.arange(count) % 2}


def write(folder: Path, splits: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]], **more: Any) -> Cohort:
    return write_cohort(folder, splits, **{"image": PICTURES, "kind": "radiograph", "shard_rows": 4, **more})


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    splits = {name: (pictures(count, seed), labels(count)) for seed, (name, count) in enumerate(SIZES.items())}
    return write(tmp_path_factory.mktemp("added") / "main", splits)


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., Cohort]:
    """A maker of a cohort to add: its images, and the label of each."""

    def make(images: np.ndarray, side: int | np.ndarray = 2, folder: str = "other", **more: Any) -> Cohort:
        known = {SIDE.name: np.broadcast_to(side, len(images)).copy()}
        return write(tmp_path / folder, {"train": (images, known)}, **{"tasks": (SIDE,), "names": "new", **more})

    return make


def everything(cohort: Cohort, split: str) -> dict[str, tuple[bytes, int | None, int | None]]:
    """Pixels and labels of each image of a split, by its name, read shard by shard."""
    found = {}
    for shard in cohort.shards(split):
        rows = cohort.read_shard(shard, ["image", "instance_id", SIDE.column, TILT.column])
        for image, name, *known in zip(*rows.values(), strict=True):
            found[name] = (image.tobytes(), *map(int, known))
    return found


def test_train_holds_both_and_nothing_else_changes(main: Cohort, other: Callable[..., Cohort]) -> None:
    new = pictures(7, seed=9)
    seen, addition = add(main, other(new), SIDE)
    assert (addition.images, addition.replaced, addition.left_out) == (7, 0, 0)
    train = everything(seen, "train")
    assert train == everything(main, "train") | {f"new-{n:03}": (new[n].tobytes(), 2, -1) for n in range(7)}
    for split in ("validation", "test"):
        assert everything(seen, split) == everything(main, split)
        assert seen.manifest.counts.splits[split] == main.manifest.counts.splits[split]
    counts = seen.manifest.counts.splits["train"]
    assert (counts.images, counts.studies, counts.patients) == (19, 10, 10)
    assert counts.labels == {
        "side": {"front": 0, "middle": 12, "back": 7},
        "type": {"lying": 6, "standing": 6, "missing": 7},
    }
    assert seen.manifest.counts.listed == seen.manifest.counts.images == 31
    table = seen.metadata("train")
    assert table["instance_id"].to_pylist() == list(train)
    assert list(seen.images("train", ["new-003", "train-004"])) == ["train-004", "new-003"]
    seen.verify()


@pytest.mark.parametrize(("samples", "count"), [(EachImage(SIDE.column), 19), (Studies(SIDE.column, views=2), 10)])
def test_what_workers_read_of_it(
    main: Cohort, other: Callable[..., Cohort], samples: EachImage | Studies, count: int
) -> None:
    """What goes to a worker is the split or the cohort, and nothing that the driver has read."""
    seen, _ = add(main, other(pictures(7, seed=9)), SIDE)
    described, known = describe_split(seen, "train", samples, InputFormat(48))
    split = pickle.loads(pickle.dumps(described))
    loaded = [split.load(shard) for shard in range(len(split.counts))]
    assert sum(len(each["image"]) for each in loaded) == count == len(known)
    assert np.concatenate([each["label"] for each in loaded]).tolist() == known.tolist()


def test_what_extracts_features_reads_of_it(main: Cohort, other: Callable[..., Cohort]) -> None:
    seen, _ = add(main, other(pictures(7, seed=9)), SIDE)
    read = cohort_reader(pickle.loads(pickle.dumps(seen)), SIDE.column)
    found = {}
    for number in range(len(seen.shards("train"))):
        rows = read({"split": np.array(["train"]), "shard": np.array([number])})
        names, known = rows["instance_id"].to_pylist(), rows["label"].to_pylist()
        for name, image, label in zip(names, pixel_arrays(rows), known, strict=True):
            found[name] = (image.tobytes(), label)
    assert found == {name: (image, side) for name, (image, side, _) in everything(seen, "train").items()}


def test_a_correction_takes_the_place_of_what_it_corrects(main: Cohort, other: Callable[..., Cohort]) -> None:
    train = [image for image, *_ in everything(main, "train").values()]
    again = np.stack([np.frombuffer(train[n], np.uint8).reshape(PICTURES.shape) for n in (1, 6, 8)])
    seen, addition = add(main, other(again, side=np.array([0, 2, -1])), SIDE)
    assert (addition.images, addition.replaced, addition.left_out) == (3, 2, 0)
    found = everything(seen, "train")
    assert "train-001" not in found
    assert "train-006" not in found
    assert found["train-008"][1] == 1, "one without a label takes nothing's place"
    assert [found[f"new-{n:03}"][1] for n in range(3)] == [0, 2, -1]
    assert seen.count("train") == 13 == len(seen.metadata("train"))


@pytest.mark.parametrize(
    ("see", "split", "left_out"),
    [
        (lambda cohort: cohort, "validation", 2),
        (lambda cohort: cohort, "test", 2),
        (Cohort.exchange, "test", 2),
        (Cohort.merged, "validation", 0),
        (Cohort.merged, "test", 2),
        (lambda cohort: cohort.fold(0, 3, 0), "validation", 2),
    ],
)
def test_nobody_who_is_held_out_is_learned(
    main: Cohort, other: Callable[..., Cohort], see: Callable[[Cohort], Cohort], split: str, left_out: int
) -> None:
    seen = see(main)
    held = next(iter(everything(seen, split).values()))[0]
    images = pictures(4, seed=9)
    images[1] = np.frombuffer(held, np.uint8).reshape(PICTURES.shape)
    view, addition = add(seen, other(images), SIDE)
    assert addition.left_out == left_out, "the image, and the other of its patient"
    assert view.alone().manifest == seen.manifest
    learned = {image for image, *_ in everything(view, "train").values()}
    assert (held in learned) == (left_out == 0)


def test_the_same_key_tells_the_same_patient(main: Cohort, other: Callable[..., Cohort]) -> None:
    new = other(pictures(8, seed=9), names="test")  # four patients, of whom three are in the test split
    assert add(main, new, SIDE)[1].left_out == 6
    stranger = Cohort(new.location, new.manifest.model_copy(update={"hash_key_fingerprint": "another"}))
    assert add(main, stranger, SIDE)[1].left_out == 0


def test_one_after_the_other(main: Cohort, other: Callable[..., Cohort]) -> None:
    images = pictures(4, seed=9)
    once, _ = add(main, other(images, side=0, folder="one", names="one"), SIDE)
    twice, addition = add(once, other(images[:2], side=2, folder="two", names="two"), SIDE)
    assert addition.replaced == 2
    found = everything(twice, "train")
    assert {name: found[name][1] for name in found if not name.startswith("train")} == {
        "one-002": 0,
        "one-003": 0,
        "two-000": 2,
        "two-001": 2,
    }
    assert len({each.content_hash for each in (main, once, twice)}) == 3
    assert len({each.view for each in (main, once, twice)}) == 3
    assert twice.alone().manifest == main.manifest
    twice.verify()
    for change in (twice.exchange, twice.merged):
        with pytest.raises(ValueError, match="already seen with"):
            change()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image": ImageFormat(size=48, dtype="uint8", fit="stretch")}, "ingest it with --size 48 --bits 8 --fit pad"),
    ({"kind": "pair"}, "holds pairs"),
    ({"tasks": (Task(name="side", classes=("front", "back", "middle")),)}, "front, back, middle apart in task side"),
    ({"tasks": (Task(name="side", classes=("front", "middle")),)}, "with the same classes"),
    ({"side": -1}, "the others have no label of side"),
]


@pytest.mark.parametrize(("made", "message"), WRONG)
def test_what_does_not_fit_is_refused(
    main: Cohort, other: Callable[..., Cohort], made: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        add(main, other(pictures(4, seed=9), **{"side": 1, **made}), SIDE)


def test_no_task_no_train_and_itself(main: Cohort, other: Callable[..., Cohort], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no task 'type'"):
        add(main, other(pictures(4, seed=9)), TILT)
    held = write(tmp_path / "held", {"test": (pictures(4, seed=9), labels(4))})
    with pytest.raises(UserError, match="no train split to add"):
        add(main, held, SIDE)
    with pytest.raises(UserError, match="learned already"):
        add(main, open_cohort(main.location), SIDE)


def test_a_bundle_that_learned_more_is_known_by_its_cohort(main: Cohort, other: Callable[..., Cohort]) -> None:
    more = other(pictures(4, seed=9))
    seen, addition = add(main.merged(), more, SIDE)
    facts = {"schema_version": 1, "name": "one", "family": "classifier", "config": {}, "task": "side"}
    facts |= {"classes": SIDE.classes, "kind": "radiograph", "body_parts": (), "image": {}, "best": {}, "history": []}
    facts |= {"labels": {}, "fingerprint": "", "created": "", "versions": {}, "files": {}, "added": (addition,)}
    bundle = Bundle(**facts, cohort={"uri": str(main.location), "content_hash": seen.view.alone})
    assert Bundle.model_validate_json(bundle.model_dump_json()).added == (addition,)
    check_held_out(bundle, main, "test")
    check_held_out(bundle, seen, "test")
    with pytest.raises(UserError, match="was trained on train and validation"):
        check_held_out(bundle, main, "validation")
    check_held_out(bundle, more, "train")
    with pytest.raises(UserError, match="learned from train of"):
        check_not_learned(bundle, more, "train")


def test_rows_are_read_alike(main: Cohort, other: Callable[..., Cohort]) -> None:
    seen, _ = add(main, other(pictures(3, seed=9)), SIDE)
    for shard in seen.shards("train"):
        assert seen.table(shard).schema.equals(pa.schema(seen.schema))
