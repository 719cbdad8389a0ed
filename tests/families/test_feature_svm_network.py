"""Whose features feature_svm takes: the network of another family's bundle, at that network's own input size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mskray.bundles import Fitted, save_bundle
from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import SplitCount
from mskray.config import Section
from mskray.errors import UserError
from mskray.families import family
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.families.feature_source import DataSection, NetworkSection, feature_source
from mskray.families.feature_svm import FeatureSvmConfig
from mskray.families.kalm import KalmConfig, LocalRecipe
from mskray.families.zoom import LookingConfig, ZoomRecipe
from mskray.models.sampling import shrink
from mskray.storage import locate
from mskray.training.recipe import Recipe

NETWORK = {"backbone": "resnet18", "weights": "none"}
DATA = {"image_size": 128, "intensity": "rescaled"}


def classifier() -> Recipe:
    return ClassifierRecipe(ClassifierConfig.model_validate({"network": NETWORK, "data": DATA}), 2)


def kalm() -> Recipe:
    return LocalRecipe(KalmConfig.model_validate({"network": {**NETWORK, "size": 64}, "data": DATA}), 2)


def zoom() -> Recipe:
    sections = {"network": NETWORK, "data": DATA, "zoom": {"bundle": "given"}, "input_size": 64}
    return ZoomRecipe(LookingConfig.model_validate(sections), 2)


def saved(folder: Path, name: str, config: Section | dict[str, Any], state: dict[str, torch.Tensor]) -> str:
    """Write an untrained bundle and return its place."""
    fitted = Fitted(
        family=name,
        config=config.model_dump(mode="json") if isinstance(config, Section) else config,
        task="abnormality",
        classes=("normal", "abnormal"),
        kind="radiograph",
        body_parts=("HAND",),
        image={"size": 128, "dtype": "uint8", "fit": "pad"},
        state=state,
        history=[],
        best={},
        labels={"normal": 3, "abnormal": 2},
        cohort={"uri": "cohorts/hands", "content_hash": "0" * 64},
    )
    save_bundle(fitted, locate(folder), "made by hand")
    return str(folder)


@pytest.mark.parametrize(
    ("name", "made", "size"), [("classifier", classifier, 128), ("kalm", kalm, 64), ("zoom", zoom, 64)]
)
def test_the_network_of_a_bundle_comes_with_its_own_input_size(tmp_path: Path, name: str, made: Any, size: int) -> None:
    recipe = made()
    torch.manual_seed(0)
    whole = recipe.build().eval()
    uri = saved(tmp_path / name, name, recipe.config, whole.state_dict())
    network, section, data = feature_source(NetworkSection(bundle=uri), DataSection(), default_size=299)
    assert (data.image_size, data.intensity) == (size, "rescaled")
    assert section.backbone == "resnet18"
    images = torch.rand(2, 1, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(network.maps(shrink(images, size)), recipe.explained(whole).maps(images))
    assert feature_source(section, DataSection(image_size=96), default_size=299)[2].image_size == 96


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("feature_svm", {}),
        ("flag_detector", {}),
        ("view_fusion", {"network": {"fusion": "early"}}),
    ],
)
def test_a_bundle_without_a_network_for_whole_images_is_refused_before_work(
    tiny_cohort: Callable[..., Cohort], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    task = Task(name="abnormality", classes=("normal", "abnormal"))
    made = tiny_cohort((task,), [{task.name: 0}])
    split = SplitCount(images=2, studies=1, patients=1, labels={task.name: {"normal": 1, "abnormal": 1}})
    counts = made.manifest.counts.model_copy(update={"splits": {"train": split, "validation": split}})
    cohort = Cohort(made.location, made.manifest.model_copy(update={"counts": counts}))
    svm = family("feature_svm")
    uri = saved(tmp_path / "bundle", name, config, {"weight": torch.zeros(1)})
    settings = FeatureSvmConfig.model_validate({"network": {"bundle": uri}})
    with pytest.raises(UserError, match=f"network.bundle .* is of family {name}, without a network") as caught:
        svm.check(cohort, settings, task)
    assert "\n" not in str(caught.value)
    late = saved(tmp_path / "late", "view_fusion", {"network": {"fusion": "late"}}, {"weight": torch.zeros(1)})
    svm.check(cohort, FeatureSvmConfig.model_validate({"network": {"bundle": late}}), task)
