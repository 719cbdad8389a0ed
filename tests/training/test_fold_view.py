"""A family learns from a fold of a cohort as from any cohort: what it is given, validates and says of itself."""

from pathlib import Path

import pytest

from mskray.cohorts import Cohort
from mskray.cohorts.ray_data import dataset
from mskray.families import family
from mskray.families.classifier import ClassifierConfig
from mskray.storage import locate
from mskray.training.run import Resources, Run, run_name


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_classifier_learns_from_a_fold(phantom_cohort: Cohort, tmp_path: Path) -> None:
    fold = phantom_cohort.fold(1, 3, seed=0)
    sections = {
        "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
        "data": {"image_size": 64, "batch_size": 8, "shuffle_window": 64, "cache": "stream"},
        "loop": {"epochs": 1},
    }
    config, chosen = ClassifierConfig.model_validate(sections), family("classifier")
    task = chosen.task(fold, "")
    chosen.check(fold, config, task)
    run = Run(locate(tmp_path), run_name(cohort=fold.content_hash), task, Resources())
    fitted = chosen.fit(fold, config, run)
    assert fitted.labels == fold.manifest.counts.splits["train"].labels[task.name]
    assert fitted.labels != phantom_cohort.manifest.counts.splits["train"].labels[task.name]
    assert fitted.cohort["content_hash"] == fold.content_hash
    assert fitted.best["val_loss"] > 0
    read = {row["instance_id"] for row in dataset(fold, "validation", ["instance_id"]).take_all()}
    assert read == set(fold.columns("validation", ["instance_id"])["instance_id"])
    assert len(read) == fold.count("validation")
