"""Features are chosen and fitted on training pairs alone; a job finds what another has extracted; reversal swaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from skops.io import dumps, get_untrusted_types
from small_run import run

from mskray.bundles import TRUSTED, load_bundle
from mskray.cohorts import open_cohort
from mskray.cohorts.change import CHANGE, IMPROVED
from mskray.cohorts.ingest import ingest
from mskray.config import validate
from mskray.errors import UserError
from mskray.estimators.pair_softmax import (
    SoftmaxSection,
    best_penalty,
    check_width,
    common_scale,
    differences,
    fit_softmax,
    highest_variance,
    learn_softmax,
    penalty_f1,
)
from mskray.estimators.pairs import AugmentSection, FoldSection, Pairs, fold_numbers
from mskray.families import Images, load_predictor
from mskray.progress import Progress
from mskray.storage import locate
from mskray.training.validation import validation_metrics

AUGMENT = AugmentSection(noise_copies=1)


def made(count: int, seed: int, width: int = 12) -> tuple[np.ndarray, Pairs]:
    """Features (n, 2, 2, width) whose first two say what became of a pair, and the pairs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = rng.normal(0, 0.05, (count, 2, 2, width)).astype(np.float32)
    level = rng.normal(0, 1, (count, 1, 2)).astype(np.float32)
    features[:, :, 0, :2] += level
    features[:, :, 1, :2] += level + (labels - 1).astype(np.float32)[:, None, None]
    people = np.array([f"p{number}" for number in range(count)], object)
    return features, Pairs(CHANGE, labels, labels, people)


def test_the_features_of_highest_variance_are_kept() -> None:
    images = np.array([[0, 5, 1, 3], [0, 5, 3, -3], [0, 5, 1, 3], [0, 5, 3, -3]], np.float32)
    assert highest_variance(images, 2).tolist() == [2, 3]
    assert highest_variance(images, 3).tolist() == [0, 2, 3]
    with pytest.raises(UserError, match=r"softmax\.features = 5: the network has 4 features"):
        check_width(4, SoftmaxSection(features=5))


def test_a_pair_is_after_minus_before() -> None:
    pair = np.array([[[1, 2, 3], [4, 6, 9]]], np.float32)
    np.testing.assert_array_equal(differences(pair, np.array([0, 2])), [[3, 6]])
    np.testing.assert_array_equal(differences(pair[:, ::-1], np.array([0, 2])), [[-3, -6]])


def test_the_scale_is_the_root_of_the_mean_variance() -> None:
    """Variances 4 and 28: their mean is 16. Features that do not vary stay as they are."""
    images = np.array([[0, 1], [4, 1], [0, 1], [4, 1]], np.float32)
    images[:, 1] += np.sqrt([0, 0, 112, 112]).astype(np.float32)
    assert common_scale(images) == pytest.approx(4)
    assert common_scale(np.full((3, 2), 7, np.float32)) == 1


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_penalty_means_the_same_whatever_the_scale_of_the_features(factor: float) -> None:
    features, pairs = made(30, 0)
    copies, section = pairs.copies(np.arange(30), AUGMENT), SoftmaxSection(features=4)
    said = fit_softmax(features, copies, 3, section, 0.01).probabilities(features[:, 0])
    scaled = (features * np.float32(factor)).astype(np.float32)
    model = fit_softmax(scaled, copies, 3, section, 0.01)
    np.testing.assert_allclose(model.probabilities(scaled[:, 0]), said, atol=1e-4)
    assert said.max() < 0.8  # so strong a penalty leaves no answer sure of itself


def test_what_is_held_out_has_no_say() -> None:
    """Neither in which features are kept nor in the regression: held-out rows are replaced by huge noise."""
    features, pairs = made(60, 0)
    rows = np.arange(40)
    copies = pairs.copies(rows, AUGMENT)
    section = SoftmaxSection(features=2)
    model = fit_softmax(features, copies, 3, section, 10.0)
    assert model.kept.tolist() == [0, 1]
    spoilt = features.copy()
    spoilt[40:] = np.random.default_rng(1).normal(0, 1e3, spoilt[40:].shape)
    same = fit_softmax(spoilt, copies, 3, section, 10.0)
    np.testing.assert_array_equal(same.kept, model.kept)
    np.testing.assert_array_equal(same.coefficients, model.coefficients)
    said = model.probabilities(features[40:, 0])
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert (said.argmax(axis=1) == pairs.labels[40:]).mean() > 0.9
    # Learned in both directions, it says of a reversed pair what it says of the pair, with the classes swapped.
    turned = model.probabilities(features[40:, 0, ::-1])
    np.testing.assert_allclose(turned[:, ::-1], said, atol=0.02)


def test_a_class_that_was_not_learned_has_probability_0() -> None:
    features, pairs = made(30, 0)
    rows = np.flatnonzero(pairs.labels != 1)
    model = fit_softmax(features, pairs.originals(rows), 3, SoftmaxSection(features=4), 1.0)
    said = model.probabilities(features[:, 0])
    assert said.shape == (30, 3)
    assert not said[:, 1].any()
    assert model.probabilities(features[:0, 0]).shape == (0, 3)


@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_say_what_scikit_learn_says(classes: int) -> None:
    features, pairs = made(30, 0)
    labels = np.minimum(pairs.labels, classes - 1)
    pairs = Pairs(CHANGE, labels, labels, pairs.patients)
    model = fit_softmax(features, pairs.originals(np.arange(30)), 3, SoftmaxSection(features=4), 1.0)
    given = differences(features[:, 0], model.kept)
    given /= np.sqrt(features[:, 0][..., model.kept].reshape(60, 4).var(axis=0).mean())
    peer = LogisticRegression(C=1.0, max_iter=2000).fit(given, labels)
    np.testing.assert_allclose(model.probabilities(features[:, 0])[:, :classes], peer.predict_proba(given), atol=1e-5)
    assert set(get_untrusted_types(data=dumps(model))) <= set(TRUSTED)


@pytest.mark.parametrize("C", [0.0, -1.0])
def test_a_penalty_is_above_0(C: float) -> None:
    with pytest.raises(UserError, match=r"C = .* is not allowed \(allowed: list of float > 0 and ≤ 1e\+06"):
        validate(SoftmaxSection, {"C": [1.0, C]}, "test")


def test_the_penalty_is_chosen_on_folds() -> None:
    features, pairs = made(45, 2)
    section = SoftmaxSection(features=2, C=(1e-6, 0.5, 10.0))
    copies, fold = pairs.copies(np.arange(45), AUGMENT), fold_numbers(pairs, FoldSection())
    f1 = [penalty_f1(features, pairs, copies, fold, section, C) for C in section.C]
    assert f1[0] < f1[2]
    assert best_penalty(section, f1) == section.C[int(np.argmax(f1))]
    assert best_penalty(section, [0.5, 0.7, 0.7]) == 0.5
    said = learn_softmax(features, pairs, section, FoldSection())(
        pairs.copies(np.arange(30), AUGMENT), np.arange(30, 45)
    )
    assert (said.argmax(axis=1) == pairs.labels[30:]).mean() > 0.9


def test_in_two_classes_reversal_learns_from_what_regressed() -> None:
    features, three = made(45, 3)
    binary = Pairs(IMPROVED, (three.labels == 2).astype(np.int64), three.labels, three.patients)
    copies = binary.copies(np.arange(45), AUGMENT)
    assert copies.labels.sum() == 2 * (15 + 15)
    model = fit_softmax(features, copies, 2, SoftmaxSection(features=2), 10.0)
    assert ((model.probabilities(features[:, 0])[:, 1] > 0.5) == (three.labels == 2)).mean() > 0.9


@pytest.mark.long
@pytest.mark.slow
def test_from_pairs_to_a_bundle(ray_cluster: str, tmp_path: Path) -> None:
    """Of what it has learned a bundle is sure, and its figures are its predictions'; a second task extracts nothing.

    How well a network without training sees a lesion is chance, and differs from machine to machine.
    """
    options = {"patients": 24, "image_size": 64, "noise": 0.02}
    settings = {"size": 64, "split_fractions": [0.6, 0.4, 0.0], "shard_rows": 16}
    ingest("phantom-pairs", None, tmp_path / "cohort", options, settings, key=b"a key for tests only")
    cohort = open_cohort(tmp_path / "cohort")
    assert cohort.manifest.kind == "pair"
    job: dict[str, Any] = {
        "family": "pair_softmax",
        "cohort": str(cohort.location),
        "out": str(locate(tmp_path / "three")),
        "network": {"backbone": "resnet18", "weights": "none"},
        "data": {"image_size": 64},
        "softmax": {"features": 64, "C": [10.0]},
    }
    with pytest.raises(UserError, match=r"fold \d+ of \d+ has no pair of"):
        run({**job, "folds": {"count": 30}})
    with pytest.raises(UserError, match="family classifier reads radiograph cohorts"):
        run({**{key: job[key] for key in ("cohort", "out")}, "family": "classifier"})
    seen: list[Progress] = []
    bundle = run(job, seen.append)
    assert not any("from the cache" in each.note for each in seen)
    assert (bundle.kind, bundle.sample, bundle.classes) == ("pair", "pair", CHANGE.classes)
    _, predictor = load_predictor(str(tmp_path / "three"))
    for split in ("train", "validation"):
        cells = np.concatenate([cohort.read_shard(shard, ["image"])["image"] for shard in cohort.shards(split)])
        labels = cohort.columns(split, [CHANGE.column])[CHANGE.column]
        said = predictor(Images(list(cells))).probabilities
        figures = validation_metrics(said, labels)
        if split == "train":
            assert figures["val_accuracy"] == 1
        else:
            assert figures == pytest.approx({name: bundle.best[name] for name in figures}, abs=2e-3)

    seen.clear()
    binary = run({**job, "out": str(locate(tmp_path / "two")), "task": "improved"}, seen.append)
    assert [each.stage for each in seen if each.note == "from the cache"] == [
        "features of train",
        "features of validation",
    ]
    assert binary.classes == IMPROVED.classes
    assert type(load_bundle(str(tmp_path / "two"))[1].estimator).__name__ == "PairSoftmax"
