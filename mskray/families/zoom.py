"""Learn to zoom from network response (ZHAW): a classifier looks, guided backprop shows where, it looks there again.

    mskray train jobs/configs/mura-zoom.yaml

Every classifier's bundle can zoom as it is: nothing is trained, the new bundle holds a copy of its network. Or the
network goes on learning, from the whole image and from the crop that its own response chose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from mskray.bundles import Bundle, Fitted, load_bundle, read_description
from mskray.cohorts import Cohort, Task
from mskray.config import Section, setting, validate
from mskray.errors import UserError
from mskray.explain import evaluating, guided_backprop, look, normalise
from mskray.families.base import Family, Predictor, register
from mskray.families.classifier import ClassifierConfig, NetworkSection
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import Backbone
from mskray.models.sampling import shrink
from mskray.models.zoom import crop, extend, local_entropy, region
from mskray.space import Space, choice, grid, uniform
from mskray.training.config import TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch, Recipe
from mskray.training.run import Run
from mskray.training.samples import EachImage

LOOKS = ("first look", "second look", "third look", "fourth look", "fifth look")


class ZoomSection(Section):
    """Whose network looks, where it looks again, and what is believed."""

    bundle: str = setting(..., "URI of the classifier bundle whose network looks, at its own input size", min_length=1)
    learns: Literal["nothing", "response"] = setting(
        "nothing",
        "nothing: the network as it is; response: it goes on learning from the whole image and from the crop",
        source="ZHAW, section IV-B3",
    )
    passes: int = setting(
        1, "times that it zooms: once, or again within each crop", ge=1, le=len(LOOKS) - 1, source="ZHAW, section III-C"
    )
    normalise: bool = setting(
        False,
        "give guided backprop images normalised by eq. 1, as the paper does, in a pass of its own; the network's own "
        "normalisation comes after it, and a network not trained on such images may see something else in them",
        source="ZHAW, section III-A",
    )
    neighbourhood: int = setting(
        9, "side of the square whose entropy is measured, odd", unit="px of the look", ge=3, le=99
    )
    bins: int = setting(16, "grey levels that entropy tells apart in the response", ge=2, le=256)
    threshold: float = setting(
        0.85, "from where on it is region: share of the way from an image's lowest entropy to its highest", gt=0, lt=1
    )
    answer: Literal["last", "mean"] = setting(
        "last", "what the looks say together: the last one alone, or their mean", source="ZHAW, section III-C"
    )


class ZoomConfig(TorchConfig):
    """Config of the `zoom` family. All sections but `zoom` and `data` serve response training alone."""

    zoom: ZoomSection

    @model_validator(mode="after")
    def _neighbourhood_has_a_middle(self) -> "ZoomConfig":
        if self.zoom.neighbourhood % 2 == 0:
            raise ValueError(f"zoom.neighbourhood = {self.zoom.neighbourhood}: give an odd number, it has a middle")
        return self


class LookingConfig(ZoomConfig):
    """A zoom that knows its network; the config of a zoom's bundle, which needs the classifier's no more."""

    network: NetworkSection
    input_size: int = setting(..., "side of the network's input", unit="px", ge=32)


@dataclass(frozen=True)
class ZoomRecipe(Recipe):
    """The zoom's side of the shared loop: images of `config.data.image_size`, a network of `config.input_size`."""

    config: LookingConfig
    classes: int

    def build(self) -> Backbone:
        network = self.config.network
        # With its input size it sees of a whole image, which explanations give it, what the first look does.
        return Backbone(network.backbone, self.classes, network.freeze, input_size=self.size)

    @property
    def size(self) -> int:
        return self.config.input_size

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Loss on the whole image plus loss on the crop, both of which move the weights (ZHAW, figure 2).

        Both go through the network in one pass: among several workers it may run forward only once a step.
        """
        images = batch["image"]
        # Among several workers the network is wrapped; the response needs nothing of the wrapping.
        _, box = self.zoom(self.explained(getattr(network, "module", network)), images)
        both = network(torch.cat([shrink(images, self.size), crop(images, box, self.size)]))
        whole, local = (self.cross_entropy(logits, batch["label"], class_weights) for logits in both.chunk(2))
        return whole + local

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        images = batch["image"]
        looks, box = self.zoom(self.explained(network), images)
        looks.append(network(crop(images, box, self.size)))
        said = torch.stack([logits.float().softmax(dim=1) for logits in looks])
        fused = said[-1] if self.config.zoom.answer == "last" else said.mean(dim=0)
        return Answer(fused, dict(zip(LOOKS, said, strict=False)), {"zoom": box})

    @torch.no_grad()
    def zoom(self, network: Backbone, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Look, find the response, look there, as often as `zoom.passes` says (ZHAW, section III-C, a to f).

        Returns:
            The logits (n, classes) of each look but the last, and where that one is to be: (n, 4) in px of `images`.
        """
        side = images.shape[-1]
        box = images.new_tensor([0.0, 0.0, side, side]).expand(len(images), 4)
        seen, looks = shrink(images, self.size), []
        with evaluating(network):
            for number in range(self.config.zoom.passes):
                if number:
                    seen = crop(images, box, self.size)
                logits, found = self.respond(network, seen)
                looks.append(logits)
                scale = box[:, 2:] / self.size
                found = torch.cat([box[:, :2] + found[:, :2] * scale, found[:, 2:] * scale], dim=1)
                box = extend(found, self.size, side)
        return looks, box

    def respond(self, network: Backbone, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of what is seen, and where its response is: (n, 4) in px of it."""
        zoom = self.config.zoom
        if zoom.normalise:
            logits = network(seen)
            response = guided_backprop(network, normalise(seen), logits.argmax(dim=1))
        else:
            response, logits = look(network, seen, None)
        # A gradient has no grey levels of its own: eq. 1 brings it to them, a standard deviation to half their range.
        return logits, region(local_entropy(normalise(response), zoom.neighbourhood, zoom.bins), zoom.threshold)


@register
class Zoom(Family):
    name: ClassVar[str] = "zoom"
    summary: ClassVar[str] = "a classifier that looks again where its own response is, from the full resolution"
    Config: ClassVar[type[ZoomConfig]] = ZoomConfig

    def check(self, cohort: Cohort, config: ZoomConfig, task: Task) -> None:
        """Raise UserError also where the bundle cannot zoom, or where this cohort shows it nothing finer."""
        self.check_kind(cohort)
        if config.zoom.learns != "nothing":
            self.check_classes(cohort, task)
        bundle = read_description(config.zoom.bundle)
        own, size = _classifier(bundle, config).data, config.data.image_size
        where = f"zoom.bundle {config.zoom.bundle}"
        if bundle.kind != cohort.manifest.kind:
            raise UserError(
                f"{where} reads {bundle.kind}s, cohort {cohort.location} holds {cohort.manifest.kind}s: give a bundle "
                "for this kind"
            )
        if bundle.classes != task.classes:
            raise UserError(
                f"{where} tells {', '.join(bundle.classes)} apart, task {task.name} has {', '.join(task.classes)}: "
                "give another bundle or task"
            )
        self.check_resolution(cohort, size)
        if size <= own.image_size:
            raise UserError(
                f"data.image_size = {size}: {where} sees {own.image_size} px, a crop would show it nothing finer: give "
                "a larger one, and a cohort ingested with that --size"
            )
        if config.data.intensity != own.intensity:
            raise UserError(
                f"data.intensity = {config.data.intensity}: {where} was trained on {own.intensity} images: "
                f"set data.intensity={own.intensity}"
            )
        if cohort.image.fit != bundle.image["fit"]:
            raise UserError(
                f"{where} was trained on images fitted by {bundle.image['fit']}, cohort {cohort.location} was ingested "
                f"by {cohort.image.fit}: ingest with the other fit"
            )

    def depends_on(self, config: ZoomConfig) -> dict[str, str]:
        return {"bundle": read_description(config.zoom.bundle).hash}

    def fit(self, cohort: Cohort, config: ZoomConfig, run: Run) -> Fitted:
        """Copy the bundle's network, or train it on."""
        bundle, given = load_bundle(config.zoom.bundle)
        own, classes = _classifier(bundle, config), run.task.classes
        looking = LookingConfig(**dict(config), network=own.network, input_size=own.data.image_size)
        if config.zoom.learns == "response":
            samples = EachImage(run.task.column)
            trained = fit(ZoomRecipe(looking, len(classes)), samples, lambda: given.state, cohort, run)
            return self.fitted(cohort, looking, run.task, trained)
        # The cohort, labels and body parts stay those that the network has learned from.
        return replace(
            given,
            family=self.name,
            config=looking.model_dump(mode="json"),
            task=run.task.name,
            image=cohort.image.model_dump(mode="json"),
            history=[],
            best={},
        )

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = LookingConfig.model_validate(fitted.config)
        return TorchPredictor(ZoomRecipe(config, len(fitted.classes)), fitted, device)

    def search_space(self) -> Space:
        return {
            "zoom.passes": choice(1, 2),
            "zoom.normalise": choice(True, False),
            "zoom.neighbourhood": choice(5, 9, 15, 25),
            "zoom.bins": choice(8, 16, 32, 64),
            "zoom.threshold": uniform(0.2, 0.9),
            "zoom.answer": choice("last", "mean"),
        }

    def spaces(self) -> Mapping[str, Space]:
        """What ZHAW leaves open.

        The paper zooms once, or again in larger images (section III-C), and states neither the entropy's neighbourhood
        nor the threshold: those values are ours. Response training (section IV-B3) converged neither with Adam nor
        with SGD, at rates that it does not state.
        """
        return {
            "region": {
                "zoom.threshold": grid(0.5, 0.7, 0.85, 0.95),
                "zoom.neighbourhood": grid(5, 9, 15, 25),
                "zoom.passes": grid(1, 2),
            },
            "response": {
                "zoom.learns": grid("response"),
                "optimizer.name": grid("adam", "sgd"),
                "optimizer.learning_rate": grid(1e-6, 1e-5, 1e-4, 1e-3),
            },
        }


def _classifier(bundle: Bundle, config: ZoomConfig) -> ClassifierConfig:
    """Return the config of the bundle's network. Raises UserError for a bundle of another family."""
    if bundle.family != "classifier":
        raise UserError(f"zoom.bundle {config.zoom.bundle} is of family {bundle.family}: give a classifier's")
    return validate(ClassifierConfig, bundle.config, f"bundle {config.zoom.bundle}")
