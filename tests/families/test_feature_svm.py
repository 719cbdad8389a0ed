"""feature_svm from a cohort to a bundle: extracted and fitted on Ray, cut off and resumed, refused in one line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import Trained, run

from mskray.bundles import load_bundle
from mskray.cohorts import Cohort
from mskray.errors import UserError
from mskray.estimators.bagging import Bagging
from mskray.estimators.bags import BagSection, SvmSection
from mskray.families import Images, family, load_predictor
from mskray.families.feature_svm import FeatureSvmConfig
from mskray.progress import Progress, silent
from mskray.storage import Location, locate
from mskray.training.validation import validation_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def job(cohort: Cohort, out: Location, network: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        "family": "feature_svm",
        "cohort": str(cohort.location),
        "out": str(out),
        "network": network,
        "svm": {"least_images": 2},
        "bag": {"number": 5, "max_samples": 0.5},
        **sections,
    }


def images_of(cohort: Cohort, split: str) -> tuple[Images, np.ndarray]:
    table = cohort.metadata(split, ["instance_id", "body_part", "label_abnormality"]).to_pydict()
    found = cohort.images(split, table["instance_id"])
    pixels = [found[name] for name in table["instance_id"]]
    return Images(pixels, table["body_part"]), np.array(table["label_abnormality"])


@pytest.mark.long
def test_a_killed_driver_fits_only_the_bags_that_are_left(
    phantom_cohort: Cohort, trained: Trained, tmp_path: Path, ray_cluster: str
) -> None:
    """On the features of a classifier bundle; the bundle then stands alone and says what was validated."""
    network = {"bundle": str(trained.folder)}
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(job(phantom_cohort, locate(tmp_path / "cut"), network)))
    command = [sys.executable, "-m", "mskray.cli", "train", str(config)]
    driver = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": ray_cluster}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(list(tmp_path.glob("cut/run/*/bags/*.npz"))) < 3:
            assert time.monotonic() < deadline, "waited in vain"
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait(timeout=30)
    time.sleep(2)  # tasks in work end with their driver
    assert not (tmp_path / "cut" / "bundle.json").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/run/*/*/*.np*")}
    kept: list[bool] = []
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "fitting SVMs":
            kept.append(all(path.stat().st_mtime_ns == at for path, at in before.items()))

    bundle = run(job(phantom_cohort, locate(tmp_path / "cut"), network), watch)
    first = next(each for each in seen if each.stage == "fitting SVMs")
    bags = sum(path.suffix == ".npz" for path in before)
    assert first.note == f"{bags} kept"
    assert first.done == bags + 1
    assert kept
    assert all(kept), "what was there was made again"
    notes = [each.note for each in seen if each.stage.startswith("features of")]
    assert notes == ["from the cache"] * 2, "features were extracted again"
    assert not (tmp_path / "cut" / "run").exists()

    undisturbed = run(job(phantom_cohort, locate(tmp_path / "whole"), network))
    assert bundle.best == pytest.approx(undisturbed.best)

    fitted, other = (load_bundle(str(tmp_path / name))[1] for name in ("cut", "whole"))
    assert fitted.estimator.models.keys() == other.estimator.models.keys()
    for one, same in zip(fitted.estimator.models.values(), other.estimator.models.values(), strict=True):
        np.testing.assert_allclose(one.vectors, same.vectors, atol=1e-5)
        np.testing.assert_allclose(one.duals, same.duals, rtol=1e-4, atol=1e-8)
    assert fitted.config["network"]["backbone"] == "mobilenet_v3_small"
    assert fitted.config["data"]["image_size"] == 64
    assert len(fitted.estimator.models) > 1
    trained.folder.rename(tmp_path / "away")
    try:
        _, predictor = load_predictor(str(tmp_path / "cut"))
        images, labels = images_of(phantom_cohort, "validation")
        probabilities = predictor(images).probabilities
    finally:
        (tmp_path / "away").rename(trained.folder)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    figures = validation_metrics(probabilities, labels)
    assert figures == pytest.approx({name: bundle.best[name] for name in figures}, abs=2e-3)


@pytest.mark.long
def test_a_backbone_without_a_bundle(phantom_cohort: Cohort, s3_folder: Location, ray_cluster: str) -> None:
    """Features, bags and bundle in the object store; one model for all parts."""
    network = {"backbone": "resnet18", "weights": "none"}
    sections: dict[str, Any] = {"svm": {"per_part": False}, "bag": {"number": 2}, "data": {"image_size": 64}}
    run(job(phantom_cohort, s3_folder.join("bundle"), network, **sections))
    _, predictor = load_predictor(str(s3_folder.join("bundle")))
    images, _ = images_of(phantom_cohort, "validation")
    assert list(predictor.model.models) == [""]
    assert predictor(Images(images.pixels[:3])).probabilities.shape == (3, 2)


def test_the_name_of_a_job_follows_its_network(phantom_cohort: Cohort, trained: Trained) -> None:
    chosen = family("feature_svm")
    with_bundle = FeatureSvmConfig.model_validate({"network": {"bundle": str(trained.folder)}})
    assert chosen.depends_on(with_bundle) == {"network": trained.bundle.hash}
    assert chosen.depends_on(FeatureSvmConfig()) == {}


def test_a_bag_that_no_node_has_memory_for_is_refused(ray_cluster: str, tmp_path: Path) -> None:
    bagging = Bagging(2, SvmSection(), BagSection(max_samples=1, most_rows=100_000), locate(tmp_path), silent)
    with pytest.raises(UserError, match=r"a bag of 100,000 rows of 2,048 features needs \d+,\d+ MB.*bag\.most_rows"):
        bagging.check(1_000_000, 2048, 1000)
    said: list[Progress] = []
    Bagging(2, SvmSection(), BagSection(), locate(tmp_path), said.append).check(1_000_000, 2048, 1000)
    assert "bags of up to 4,096 of 1,000,000 images" in str(said[0])


@pytest.mark.parametrize(
    ("network", "message"),
    [({"bundle": "nowhere"}, "nowhere/bundle.json does not exist"), ({"weights": "nowhere.pth"}, r"nowhere\.pth")],
)
def test_what_cannot_run_is_refused_before_it_starts(
    phantom_cohort: Cohort, tmp_path: Path, network: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(job(phantom_cohort, locate(tmp_path / "bundle"), network))
