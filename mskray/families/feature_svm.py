"""Bagged polynomial SVMs on a network's features, a model for each body part: ZHAW, section IV-C.

mskray train jobs/configs/mura-feature-svm.yaml

The network is that of any bundle that looks at whole images, or a backbone with weights of its own; its features are
extracted once and kept in the cache: another kernel, penalty or bag size extracts nothing. One SVM over all
images ran out of 128 GB in the paper; here ten bags a body part are fitted on Ray tasks, each of which holds one bag
(`mskray.estimators.bagging`). An image of a body part without a model of its own (too few images in training, or never
seen) is judged by the model over all parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from mskray import cluster
from mskray.bundles import ESTIMATOR, Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section
from mskray.errors import UserError
from mskray.estimators.bagging import Bagging, Labelled
from mskray.estimators.bags import BagSection, SvmSection
from mskray.estimators.cache import Cache, CacheSection, kept_in_use
from mskray.estimators.extract import feature_network, feature_width, features
from mskray.estimators.network_features import FeatureNetwork, split_features
from mskray.estimators.svm import BaggedSVM
from mskray.families.base import Family, Images, Prediction, Predictor, register
from mskray.families.feature_source import DataSection, NetworkSection, bundle_hash, check_bundle, feature_source
from mskray.imaging.inputs import InputFormat
from mskray.models.backbones import Backbone
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.feed import LOADER_CPUS, describe_split
from mskray.training.run import Run, Trained
from mskray.training.samples import EachImage
from mskray.training.validation import HELD_OUT, validation_metrics


class FeatureSvmConfig(Section):
    """Config of the `feature_svm` family."""

    network: NetworkSection = NetworkSection()
    data: DataSection = DataSection()
    svm: SvmSection = SvmSection()
    bag: BagSection = BagSection()
    cache: CacheSection = CacheSection()

    @property
    def input_format(self) -> InputFormat:
        return InputFormat(self.data.image_size or 224, self.data.intensity or "stored")


@dataclass
class FeatureSvmPredictor:
    """A network, and what the SVMs make of its features."""

    classes: tuple[str, ...]
    network: Backbone
    model: BaggedSVM
    input: InputFormat
    image: dict[str, Any]
    batch_size: int
    device: torch.device

    def __call__(self, images: Images) -> Prediction:
        """Return class probabilities; images go onto the cohort's canvas first, as in training."""
        canvases = images.canvases(self.image["size"], self.image["fit"], self.image["dtype"])
        inputs = np.stack([self.input(canvas) for canvas in canvases])
        found = features(self.network, inputs, self.batch_size, self.device)
        parts = images.body_parts or [""] * len(images)
        return Prediction(self.model.probabilities(found, parts).astype(np.float32), features=found)


@register
class FeatureSvm(Family):
    name: ClassVar[str] = "feature_svm"
    summary: ClassVar[str] = "bagged polynomial SVMs on a network's features, a model for each body part"
    needs_ray: ClassVar[bool] = True
    Config: ClassVar[type[FeatureSvmConfig]] = FeatureSvmConfig

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return False  # its network has no logits of its own

    def depends_on(self, config: FeatureSvmConfig) -> dict[str, str]:
        return bundle_hash(config.network)

    def check(self, cohort: Cohort, config: FeatureSvmConfig, task: Task) -> None:
        """Refuse also a class without an image: it has to be fitted in train and calibrated in validation."""
        super().check(cohort, config, task)
        for split in ("train", "validation"):
            counts = cohort.manifest.counts.splits[split].labels[task.name]
            missing = [name for name in task.classes if not counts.get(name)]
            if missing:
                raise UserError(
                    f"cohort {cohort.location}, split {split}: no image of {', '.join(missing)} (task {task.name}), "
                    f"and {self.name} needs some of every class: split the cohort otherwise"
                )
        check_bundle(config.network, cohort, (cohort.manifest.kind,))

    def fit(self, cohort: Cohort, config: FeatureSvmConfig, run: Run) -> Fitted:
        resources = run.resources
        need = cluster.Need("feature extraction", resources.workers, resources.cpus_per_worker, resources.gpus)
        cluster.require(need, LOADER_CPUS)
        torch.manual_seed(config.bag.seed)
        network, section, data = feature_source(config.network, config.data, default_size=224)
        config = config.model_copy(update={"network": section, "data": data})
        form, samples = config.input_format, EachImage(run.task.column)
        folder, split = run.location.join(run.name, "bags"), describe_split(cohort, "train", samples, form)[0]
        bagging = Bagging(len(run.task.classes), config.svm, config.bag, folder, run.report)
        bagging.check(split.rows, feature_width(network, form.size), max(split.counts))
        source = FeatureNetwork(section.backbone, network.state_dict(), form, data.batch_size)
        cache, facts = Cache.of(config.cache, cohort), {"what": "features of images", **source.facts}
        given = []
        # Where validation is learned from too, it can calibrate nothing: that is done out of bag.
        for name in ("train", "validation") if run.held_back else ("train",):
            files, labels = split_features(
                cohort, name, samples, run.task.column, source, facts, cache, resources, run.shared, run.report
            )
            given.append(Labelled(files, labels, *_columns(cohort, name, run)))
        told = kept_in_use(run.report, [each.files.folder for each in given])
        model, probabilities = replace(bagging, report=told).fit(given[0], given[1] if run.held_back else None)
        known = np.isfinite(probabilities).all(axis=1)
        reached = validation_metrics(probabilities[known], given[-1].labels[known])
        if not run.held_back:
            reached = {f"out_of_bag_{key.removeprefix(HELD_OUT)}": value for key, value in reached.items()}
        figures = {"epoch": 1, "svms": len(model.models) * config.bag.number, **reached}
        for tracker in run.trackers:
            tracker.epoch({**figures, "prefix": run.prefix})
        counts = np.bincount(given[0].labels, minlength=len(run.task.classes)).tolist()
        trained = Trained(network.state_dict(), [figures], figures, dict(zip(run.task.classes, counts, strict=True)))
        validated = probabilities if run.held_back else None
        return replace(self.fitted(cohort, config, run.task, trained), estimator=model, validated=validated)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config, model = FeatureSvmConfig.model_validate(fitted.config), fitted.estimator
        if not isinstance(model, BaggedSVM):
            raise UserError(f"a bundle of {self.name} without its {ESTIMATOR}: restore the bundle or train again")
        network = feature_network(config.network.backbone)
        network.load_state_dict(fitted.state)
        place = torch.device(device)
        network.to(place).to(memory_format=torch.channels_last)
        form = config.input_format
        return FeatureSvmPredictor(fitted.classes, network, model, form, fitted.image, config.data.batch_size, place)

    def search_space(self) -> Space:
        return {
            "svm.degree": choice(1, 2, 3, 4, 5),
            "svm.C": loguniform(1e-3, 1e3),
            "svm.coef0": choice(0.0, 1.0),
            "bag.max_samples": uniform(0.05, 1.0),
            "bag.number": choice(5, 10, 20),
        }

    def spaces(self) -> Mapping[str, Space]:
        """ZHAW's degree of 5 and ten machines (section IV-C) with what it leaves open, C and the size of a bag.

        Ours are C, the lower degrees, and the bags beside the tenth that fits its training times.
        """
        kernel = {"svm.degree": grid(1, 3, 5), "svm.C": grid(0.1, 1.0, 10.0)}
        bags = {"bag.number": grid(10), "bag.max_samples": grid(0.05, 0.1, 0.2)}
        return {"kernel": kernel, "kernel-bags": {**kernel, **bags}}


def _columns(cohort: Cohort, name: str, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return body part (n,) and patient (n,) of each labelled image."""
    rows = cohort.columns(name, [run.task.column, "body_part", "patient_id"])
    labelled = rows[run.task.column] >= 0
    return rows["body_part"][labelled], rows["patient_id"][labelled]
