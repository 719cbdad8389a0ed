"""Bundles and ensembles as files: what is written is read back; what was changed, lost or is newer is refused."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from skops.io import dumps

from mskray import bundles, ensemble
from mskray.bundles import CARD, DESCRIPTION, ESTIMATOR, WEIGHTS, Fitted, load_bundle, save_bundle
from mskray.ensemble import Calibration
from mskray.errors import UserError
from mskray.estimators.extract import feature_network
from mskray.estimators.svm import ALL_PARTS, BaggedSVM, PartModel, Polynomial, Standard
from mskray.families import Images, load_predictor
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.families.feature_svm import FeatureSvmConfig
from mskray.storage import locate

CLASSES = ("normal", "abnormal")


def fitted(seed: int = 0, **changes) -> Fitted:
    config = ClassifierConfig.model_validate(
        {
            "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
            "data": {"image_size": 64},
            "loop": {"seed": seed},
        }
    )
    entry = {"epoch": 1, "val_auroc": 0.7, "score": 0.7}
    facts = {
        "family": "classifier",
        "config": config.model_dump(mode="json"),
        "task": "abnormality",
        "classes": CLASSES,
        "kind": "radiograph",
        "body_parts": ("HAND", "WRIST"),
        "image": {"size": 96, "dtype": "uint8", "fit": "pad"},
        "state": ClassifierRecipe(config, 2).initial_state(),
        "history": [entry],
        "best": entry,
        "labels": {"normal": 3, "abnormal": 1},
        "cohort": {"uri": "s3://bucket/cohort", "content_hash": "ab" * 32},
    }
    return Fitted(**{**facts, **changes})


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    save_bundle(fitted(), locate(tmp_path / "a"), "f00")
    return tmp_path / "a"


def images(count: int = 3) -> Images:
    random = np.random.default_rng(0)
    return Images([random.integers(0, 255, (80 + 30 * i, 120), dtype=np.uint8) for i in range(count)], ["HAND"] * count)


def test_what_is_saved_is_loaded(bundle_folder: Path) -> None:
    bundle, loaded = load_bundle(str(bundle_folder))
    original = fitted()
    assert loaded.state.keys() == original.state.keys()
    assert all(torch.equal(value, original.state[name]) for name, value in loaded.state.items())
    assert (loaded.classes, loaded.config, loaded.image) == (CLASSES, original.config, original.image)
    assert bundle.fingerprint == "f00"
    assert "Not a medical device" in (bundle_folder / CARD).read_text()


def test_the_hash_is_the_same_before_writing_and_after_reading(tmp_path: Path) -> None:
    saved = save_bundle(fitted(), locate(tmp_path / "a"), "f00")
    assert saved.hash == load_bundle(str(tmp_path / "a"))[0].hash
    other = save_bundle(fitted(image={"size": 97, "dtype": "uint8", "fit": "pad"}), locate(tmp_path / "b"), "f00")
    assert other.hash != saved.hash


def test_a_predictor_answers_for_images_of_any_size_and_depth(bundle_folder: Path) -> None:
    _, predictor = load_predictor(str(bundle_folder))
    batch = images()
    together = predictor(batch).probabilities
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    alone = np.concatenate([predictor(Images([pixels])).probabilities for pixels in batch.pixels])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    deep = Images([pixels.astype(np.uint16) * 257 for pixels in batch.pixels])
    np.testing.assert_allclose(predictor(deep).probabilities, together, atol=1e-5)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f / DESCRIPTION, schema_version=2), "schema version 2.*update mskray"),
        (lambda f: edit(f / DESCRIPTION, schema_version=None), "no schema_version"),
        (lambda f: edit(f / DESCRIPTION, classes=7), "damaged at"),
        (lambda f: (f / DESCRIPTION).write_text("{"), "not valid JSON"),
        (lambda f: (f / DESCRIPTION).unlink(), "does not exist"),
        (lambda f: (f / WEIGHTS).unlink(), "weights.safetensors"),
        (lambda f: tamper(f / WEIGHTS), "does not match the hash"),
        (lambda f: edit(f / DESCRIPTION, family="oracle"), "unknown family 'oracle'"),
        (lambda f: edit(f / DESCRIPTION, config={"netwrok": {}}), "config netwrok: Extra inputs are not permitted"),
        (lambda f: edit(f / DESCRIPTION, classes=["a", "b", "c"]), "does not fit the network"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(bundle_folder: Path, damage, message: str) -> None:
    damage(bundle_folder)
    with pytest.raises(UserError, match=message) as caught:
        load_predictor(str(bundle_folder))
    assert "\n" not in str(caught.value)


def svm(seed: int = 0) -> BaggedSVM:
    """Random support vectors of mobilenet_v3_small's 576 features."""
    random = np.random.default_rng(seed)
    standard = Standard(random.normal(size=576).astype(np.float32), np.ones(576, np.float32))
    vectors, duals = random.normal(size=(7, 576)).astype(np.float32), random.normal(size=(1, 7))
    part = PartModel(standard, vectors, duals, np.zeros(1), np.ones(1), np.zeros(1))
    return BaggedSVM(Polynomial(5, 1 / 576, 1.0), {ALL_PARTS: part})


def fitted_svm(seed: int = 0) -> Fitted:
    config = FeatureSvmConfig.model_validate(
        {"network": {"backbone": "mobilenet_v3_small"}, "data": {"image_size": 64}}
    )
    torch.manual_seed(0)
    state = feature_network("mobilenet_v3_small").state_dict()
    return fitted(family="feature_svm", config=config.model_dump(mode="json"), state=state, estimator=svm(seed))


@pytest.fixture
def svm_folder(tmp_path: Path) -> Path:
    save_bundle(fitted_svm(), locate(tmp_path / "svm"), "f00")
    return tmp_path / "svm"


def test_an_estimator_is_saved_and_loaded(svm_folder: Path) -> None:
    bundle, loaded = load_bundle(str(svm_folder))
    features = np.random.default_rng(1).normal(size=(3, 576)).astype(np.float32)
    expected = svm().probabilities(features, ["HAND"] * 3)
    np.testing.assert_array_equal(loaded.estimator.probabilities(features, ["HAND"] * 3), expected)
    assert "calibrated on this split" in (svm_folder / CARD).read_text()
    assert set(bundle.files) == {WEIGHTS, ESTIMATOR}
    assert bundle.hash != save_bundle(fitted_svm(seed=1), locate(svm_folder), "f00").hash


class Stranger:
    """What a bundle has no business to hold."""

    def __init__(self) -> None:
        self.value = np.ones(1)


def replace_estimator(folder: Path, content: bytes) -> None:
    """Put other content in the estimator's place, its hash with it: what whoever writes bundles can do."""
    (folder / ESTIMATOR).write_bytes(content)
    files = json.loads((folder / DESCRIPTION).read_text())["files"]
    edit(folder / DESCRIPTION, files={**files, ESTIMATOR: hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: tamper(f / ESTIMATOR), "estimator.skops does not match the hash"),
        (lambda f: (f / ESTIMATOR).unlink(), "estimator.skops"),
        (lambda f: replace_estimator(f, dumps(Stranger())), "holds types that mskray does not load .*Stranger"),
        (lambda f: replace_estimator(f, dumps({"run": json.loads})), "does not load .*json.loads"),
        (lambda f: replace_estimator(f, b"no archive"), "estimator.skops cannot be read .File is not a zip"),
        (lambda f: replace_estimator(f, dumps([1.0])), "without its estimator.skops"),
        (lambda f: edit(f / DESCRIPTION, files={WEIGHTS: hash_of(f / WEIGHTS)}), "without its estimator.skops"),
    ],
)
def test_a_damaged_or_strange_estimator_is_refused_in_one_line(svm_folder: Path, damage, message: str) -> None:
    assert load_predictor(str(svm_folder))[1](images()).probabilities.shape == (3, 2)
    damage(svm_folder)
    with pytest.raises(UserError, match=message) as caught:
        load_predictor(str(svm_folder))
    assert "\n" not in str(caught.value)


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_archive_that_unpacks_to_more_than_memory_is_refused(svm_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundles, "_MAX_ESTIMATOR", 10_000)
    replace_estimator(svm_folder, dumps({"zeros": np.zeros(100_000)}, compression=zipfile.ZIP_DEFLATED))
    assert (svm_folder / ESTIMATOR).stat().st_size < 10_000
    with pytest.raises(UserError, match="unpacked are more than 10,000"):
        load_bundle(str(svm_folder))


def test_soft_voting_is_the_weighted_mean(tmp_path: Path) -> None:
    uris = []
    for seed in (0, 1):
        uris.append(str(tmp_path / f"member{seed}"))
        save_bundle(fitted(seed), locate(uris[-1]), "f00")
    ensemble.save_ensemble(ensemble.join(uris, "both", [3.0, 1.0]), locate(tmp_path / "both"))
    vote = ensemble.load(str(tmp_path / "both"))(images())
    first, second = vote.members["member0"], vote.members["member1"]
    assert not np.allclose(first, second)
    np.testing.assert_allclose(vote.probabilities, 0.75 * first + 0.25 * second, atol=1e-6)


def test_temperature_flattens_without_changing_the_order(tmp_path: Path, bundle_folder: Path) -> None:
    plain = ensemble.load(str(bundle_folder))(images()).probabilities
    warm = ensemble.join([str(bundle_folder)], "warm", calibration=Calibration(temperature=4.0))
    ensemble.save_ensemble(warm, locate(tmp_path / "warm"))
    scaled = ensemble.load(str(tmp_path / "warm"))(images()).probabilities
    assert (np.abs(scaled - 0.5) < np.abs(plain - 0.5)).all()
    assert (scaled.argmax(axis=1) == plain.argmax(axis=1)).all()


def test_a_member_that_changed_is_refused(tmp_path: Path, bundle_folder: Path) -> None:
    ensemble.save_ensemble(ensemble.join([str(bundle_folder)], "one"), locate(tmp_path / "one"))
    save_bundle(fitted(seed=5), locate(bundle_folder), "f01")
    with pytest.raises(UserError, match="has changed since the ensemble was made"):
        ensemble.load(str(tmp_path / "one"))


def test_members_must_answer_one_question(tmp_path: Path, bundle_folder: Path) -> None:
    save_bundle(fitted(task="fracture"), locate(tmp_path / "other"), "f00")
    with pytest.raises(UserError, match="an ensemble needs one question"):
        ensemble.join([str(bundle_folder), str(tmp_path / "other")], "mixed")


@pytest.mark.parametrize(
    ("uris", "weights", "message"), [([], None, "at least one"), (["a"], [1.0, 2.0], "2 weights for 1")]
)
def test_malformed_ensembles_are_refused(uris: list[str], weights, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ensemble.join(uris, "x", weights)


def test_neither_bundle_nor_ensemble(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither bundle\.json nor ensemble\.json"):
        ensemble.load(str(tmp_path))
