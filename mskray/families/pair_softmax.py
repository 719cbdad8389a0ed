"""Softmax regression on the difference of two images' features: CRMO's first model.

mskray train jobs/configs/knee-pair-softmax.yaml

The network is Inception-v3 as in the paper, or any other backbone or bundle that looks at whole images. Its features
of every image are extracted once with Ray Data and kept in the cache: another penalty, task or seed of the folds
extracts nothing. The penalty is chosen by K-fold cross-validation within the train split; nothing is chosen on the
validation split. Copies by reversal and noise stay in the fold of their source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from mskray import cluster
from mskray.bundles import ESTIMATOR, Fitted
from mskray.cohorts import Cohort, Task
from mskray.cohorts.change import PAIR
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.cache import Cache, CacheSection
from mskray.estimators.extract import feature_network, feature_width, features
from mskray.estimators.network_features import FeatureNetwork
from mskray.estimators.pair_features import pair_features
from mskray.estimators.pair_softmax import PairSoftmax, SoftmaxSection, check_width, choose_penalty, fit_softmax
from mskray.estimators.pairs import AugmentSection, FoldSection, Pairs, check_folds, check_reversal, fold_numbers
from mskray.families.base import Family, Images, Prediction, Predictor, register
from mskray.families.feature_source import DataSection, NetworkSection, bundle_hash, check_bundle, feature_source
from mskray.imaging.inputs import InputFormat
from mskray.imaging.regions import fit_to_format
from mskray.models.backbones import BACKBONES, Backbone
from mskray.progress import Progress
from mskray.space import Space, choice, grid, only, uniform
from mskray.training.feed import LOADER_CPUS
from mskray.training.run import Run, Trained
from mskray.training.validation import named, validation_metrics

SPLITS = ("train", "validation")
_INPUT = 299
"""Side of Inception-v3's input, px (CRMO, "CNN Feature Extraction")."""


class PairNetworkSection(NetworkSection):
    """Whose features."""

    backbone: Literal[BACKBONES] = setting("inception_v3", "network without a bundle", source="CRMO")  # type: ignore[valid-type]


class PairDataSection(DataSection):
    """What the network is given of each image."""

    image_size: int | None = setting(
        None,
        "side of the square network input; null: the bundle's own, or 299",
        unit="px",
        source="CRMO",
        ge=32,
        le=2048,
    )


class PairSoftmaxConfig(Section):
    """Config of the `pair_softmax` family."""

    network: PairNetworkSection = PairNetworkSection()
    data: PairDataSection = PairDataSection()
    softmax: SoftmaxSection = SoftmaxSection()
    augment: AugmentSection = AugmentSection()
    folds: FoldSection = FoldSection()
    cache: CacheSection = CacheSection()

    @property
    def input_format(self) -> InputFormat:
        return InputFormat(self.data.image_size or _INPUT, self.data.intensity or "stored")


ConfigT = TypeVar("ConfigT", bound=PairSoftmaxConfig)


@dataclass
class PairSoftmaxPredictor:
    """A network, and what the regression makes of the difference of its features."""

    classes: tuple[str, ...]
    network: Backbone
    model: PairSoftmax
    input: InputFormat
    image: dict[str, Any]
    batch_size: int
    device: torch.device

    def __call__(self, images: Images) -> Prediction:
        """Judge pairs, each (2, rows, columns); they go onto the cohort's canvas first, as in training."""
        canvas = self.image["size"], self.image["fit"], self.image["dtype"]
        inputs = np.stack([self.input(fit_to_format(each, *canvas)[0]) for pair in images.pixels for each in pair])
        found = features(self.network, inputs, self.batch_size, self.device)
        said = self.model.probabilities(found.reshape(-1, 2, found.shape[1]))
        return Prediction(said.astype(np.float32))


@register
class PairSoftmaxFamily(Family):
    name: ClassVar[str] = "pair_softmax"
    summary: ClassVar[str] = "difference of a network's features of an image pair → softmax with L2"
    kinds: ClassVar[tuple[str, ...]] = (PAIR,)
    needs_ray: ClassVar[bool] = True
    sample: ClassVar[str] = "pair"
    Config: ClassVar[type[PairSoftmaxConfig]] = PairSoftmaxConfig

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return False  # its network has no logits of its own

    def depends_on(self, config: PairSoftmaxConfig) -> dict[str, str]:
        return bundle_hash(config.network)

    def check(self, cohort: Cohort, config: PairSoftmaxConfig, task: Task) -> None:
        """Refuse also copies whose label is not known, and a fold of the train split that lacks a class."""
        super().check(cohort, config, task)
        check_reversal(task, config.augment)
        check_bundle(config.network, cohort, ("radiograph",))
        pairs = Pairs.read(cohort, "train", task)
        check_folds(pairs, fold_numbers(pairs, config.folds), f"cohort {cohort.location}, split train")

    def fit(self, cohort: Cohort, config: PairSoftmaxConfig, run: Run) -> Fitted:
        resources = run.resources
        need = cluster.Need("feature extraction", resources.workers, resources.cpus_per_worker, resources.gpus)
        cluster.require(need, LOADER_CPUS)
        source, config = feature_network_of(config)
        cache = Cache.of(config.cache, cohort)
        found = pair_features(
            cohort, SPLITS, run.task, source, config.augment, cache, resources, run.shared, run.report
        )
        pairs, held = (Pairs.read(cohort, split, run.task) for split in SPLITS)
        copies = pairs.copies(np.arange(len(pairs)), config.augment)
        fold = fold_numbers(pairs, config.folds)
        C, dev_f1 = choose_penalty(found["train"], pairs, copies, fold, config.softmax, run.report)
        told = ", ".join(f"C {each:g}: {f1:.3f}" for each, f1 in dev_f1.items())
        run.report(Progress(f"F1 over {config.folds.count} folds: {told}; chosen {C:g}"))
        model = fit_softmax(found["train"], copies, len(run.task.classes), config.softmax, C)
        # In the precision of a prediction: the loss is bounded by what is the smallest number beside 1.
        probabilities = model.probabilities(found["validation"][:, 0]).astype(np.float32)
        figures = {
            "epoch": 1,
            "C": C,
            "dev_f1": dev_f1[C],
            **named(validation_metrics(probabilities, held.labels), run.held_back),
        }
        for tracker in run.trackers:
            tracker.epoch({**figures, "prefix": run.prefix})
        counts = np.bincount(pairs.labels, minlength=len(run.task.classes)).tolist()
        labels = dict(zip(run.task.classes, counts, strict=True))
        trained = Trained(source.state, [figures], figures, labels)
        return replace(self.fitted(cohort, config, run.task, trained), estimator=model, validated=probabilities)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config, model = PairSoftmaxConfig.model_validate(fitted.config), fitted.estimator
        if not isinstance(model, PairSoftmax):
            raise UserError(f"a bundle of {self.name} without its {ESTIMATOR}: restore the bundle or train again")
        network = feature_network(config.network.backbone)
        network.load_state_dict(fitted.state)
        place = torch.device(device)
        network.to(place).to(memory_format=torch.channels_last)
        form = config.input_format
        return PairSoftmaxPredictor(fitted.classes, network, model, form, fitted.image, config.data.batch_size, place)

    def search_space(self) -> Space:
        return {
            "softmax.features": choice(100, 200, 399, 800),
            "augment.noise_copies": choice(0, 1, 3),
            "augment.noise": only(uniform(0.005, 0.1), augment__noise_copies=(1, 3)),
            "augment.reverse": choice(True, False),
        }

    def spaces(self) -> Mapping[str, Space]:
        """CRMO's 399 features ("CNN Feature Extraction") and its copies, each with what they are worth; others ours."""
        copies = {"augment.reverse": grid(True, False), "augment.noise_copies": grid(0, 1)}
        return {"copies": copies, "features-copies": {"softmax.features": grid(100, 200, 399, 800), **copies}}


def feature_network_of(config: ConfigT) -> tuple[FeatureNetwork, ConfigT]:
    """Return whose features a config asks for, and the config with what was left to the network filled in.

    Raises:
        UserError: no such bundle or weights, or fewer features than are to be kept.
    """
    torch.manual_seed(0)
    network, section, data = feature_source(config.network, config.data, default_size=_INPUT)
    config = config.model_copy(update={"network": section, "data": data})
    check_width(feature_width(network, config.input_format.size), config.softmax)
    return FeatureNetwork(section.backbone, network.state_dict(), config.input_format, data.batch_size), config
