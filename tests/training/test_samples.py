"""From rows of a shard to samples: labelled images, or studies of a bounded number of views."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from mskray.cohorts import Cohort
from mskray.cohorts.schema import ABNORMALITY, MANIFEST
from mskray.imaging.inputs import InputFormat
from mskray.training.feed import Split, choose_cache, describe_split
from mskray.training.on_ray import readers
from mskray.training.samples import EachImage, Studies, study_starts

SIDE = 4
FORM = InputFormat(SIDE)


def rows(studies: str, labels: list[int]) -> dict[str, np.ndarray]:
    """Rows whose images are filled with their index plus one."""
    images = np.stack([np.full((SIDE, SIDE), index + 1, np.uint8) for index in range(len(labels))])
    return {"image": images, "study_id": np.array(list(studies), object), "label_a": np.array(labels, np.int32)}


def test_a_study_is_its_first_views_with_its_highest_label() -> None:
    given = rows("aaabcc", [0, -1, 1, -1, 0, 0])
    samples = Studies("label_a", views=2)
    made = samples.load(given, FORM)
    # Study a keeps its first two views, the unlabelled one too, and the label of its third; b has no label left.
    assert made["image"].shape == (2, 2, SIDE, SIDE)
    assert made["image"][:, :, 0, 0].tolist() == [[1, 2], [5, 6]]
    assert made["views"].tolist() == [2, 2]
    assert made["label"].tolist() == samples.labels(given).tolist() == [1, 0]


def test_a_study_of_few_views_is_padded() -> None:
    made = Studies("label_a", views=3).load(rows("abb", [1, 0, 0]), FORM)
    assert made["image"][:, :, 0, 0].tolist() == [[1, 0, 0], [2, 3, 0]]
    assert made["views"].tolist() == [1, 2]
    assert made["image"].dtype == np.uint8


@pytest.mark.parametrize("studies", ["", "ab"])
def test_a_shard_without_a_label_makes_no_sample(studies: str) -> None:
    given = rows("ab", [-1, -1])
    given = {name: values[: len(studies)] for name, values in given.items()}
    made = Studies("label_a", views=3).load(given, FORM)
    assert made["image"].shape == (0, 3, SIDE, SIDE)
    assert {len(values) for values in made.values()} == {0}


@pytest.mark.parametrize(("studies", "starts"), [("", []), ("a", [0]), ("aabcc", [0, 2, 3])])
def test_studies_begin_where_the_name_changes(studies: str, starts: list[int]) -> None:
    assert study_starts(np.array(list(studies), object)).tolist() == starts


def test_a_shard_is_read_without_the_list_of_all_shards(tiny_cohort: Callable[..., Cohort]) -> None:
    """For many shards it is long, and every read would fetch it."""
    cohort = tiny_cohort((ABNORMALITY,), [{"abnormality": number % 2} for number in range(4)])
    split, labels = describe_split(cohort, "test", EachImage(ABNORMALITY.column), FORM)
    assert not split.cohort.manifest.shards
    cohort.location.join(MANIFEST).delete()
    made = pickle.loads(pickle.dumps(split.only(0))).load(0)
    assert made["image"].shape == (4, SIDE, SIDE)
    assert made["label"].tolist() == labels.tolist() == [0, 1, 0, 1]


def test_shards_of_studies_are_weighed_with_all_their_views(
    monkeypatch: pytest.MonkeyPatch, tiny_cohort: Callable[..., Cohort]
) -> None:
    """1,000 samples of 1 MB fit in 40 % of 4 GB; with six views each they do not."""
    nodes = [{"Alive": True, "Resources": {"object_store_memory": 4e9}}]
    monkeypatch.setattr(readers.ray, "nodes", lambda: nodes)
    form = InputFormat(1000)
    cohort = tiny_cohort((ABNORMALITY,), [{}])
    images = Split(cohort, "train", EachImage("label_a"), form, (1000,), ())
    studies = Split(cohort, "train", Studies("label_a", views=6), form, (1000,), ())
    assert choose_cache("auto", [images], 1, readers.RayReaders()) == "memory"
    assert choose_cache("auto", [studies], 1, readers.RayReaders()) == "stream"
