"""Whose features a scikit-learn family learns from: a bundle's network, or a backbone with weights of its own."""

from collections.abc import Collection
from typing import Literal, TypeVar

from mskray.bundles import load_bundle, read_description
from mskray.cohorts import Cohort
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.extract import feature_network
from mskray.families.base import family
from mskray.families.loading import predictor_of
from mskray.families.torch_predictor import TorchPredictor
from mskray.imaging.inputs import InputFormat, Intensity
from mskray.models.backbones import BACKBONES, Backbone, load_initial
from mskray.training.weights import initial_weights


class NetworkSection(Section):
    """Whose features."""

    bundle: str = setting("", "URI of a bundle whose network is used; empty for the backbone below")
    backbone: Literal[BACKBONES] = setting("resnet152", "network without a bundle", source="ZHAW, section IV-C")  # type: ignore[valid-type]
    weights: str = setting("imagenet", "none, imagenet, or the URI of a state dict, for the backbone", min_length=1)


class DataSection(Section):
    """What the network is given."""

    image_size: int | None = setting(
        None, "side of the square network input; null: the bundle's own, or 224", unit="px", ge=32, le=2048
    )
    intensity: Intensity | None = setting(None, "grey levels, as in classifier; null: the bundle's own, or stored")
    batch_size: int = setting(32, "images at a time through the network", unit="images", ge=1, le=4096)


NetworkT = TypeVar("NetworkT", bound=NetworkSection)
DataT = TypeVar("DataT", bound=DataSection)


def bundle_hash(section: NetworkSection) -> dict[str, str]:
    """What a fit reads beside the cohort, as `Family.depends_on` gives it."""
    return {"network": read_description(section.bundle).hash} if section.bundle else {}


def check_bundle(section: NetworkSection, cohort: Cohort, kinds: Collection[str]) -> None:
    """Raise UserError when the bundle's network cannot look at the cohort's images.

    Args:
        kinds: of cohort that the bundle may have been made for.
    """
    if not section.bundle:
        return
    given = read_description(section.bundle)
    if given.kind not in kinds:
        raise UserError(
            f"network.bundle {section.bundle} reads {given.kind}s, cohort {cohort.location} holds "
            f"{cohort.manifest.kind}s: give a bundle for {' or '.join(f'{kind}s' for kind in kinds)}"
        )
    if not family(given.family).sees_whole_images(given.config):
        raise UserError(
            f"network.bundle {section.bundle} is of family {given.family}, without a network that takes one whole "
            "image: give one that has it, such as a classifier's"
        )


def feature_source(section: NetworkT, data: DataT, default_size: int) -> tuple[Backbone, NetworkT, DataT]:
    """Return the network with its weights, and both sections with what was left to the network filled in.

    What `weights` leaves open is drawn from torch's generator.

    Args:
        default_size: side of the input of a backbone without a bundle, px.
    """
    if not section.bundle:
        state = initial_weights(section.weights, section.backbone)
        network, own = feature_network(section.backbone), InputFormat(default_size)
        if state is not None:
            load_initial(network, state, section.weights)
    else:
        bundle, fitted = load_bundle(section.bundle)
        source = predictor_of(section.bundle, bundle, fitted)
        assert isinstance(source, TorchPredictor), "check let a family pass that has no network"
        learned = source.recipe.build()  # with every BatchNorm, which what predicts has folded
        learned.load_state_dict(fitted.state)
        given, own_data = source.recipe.explained(learned), source.recipe.config.data
        own = InputFormat(given.input_size or own_data.image_size, own_data.intensity)
        section = section.model_copy(update={"backbone": given.name})
        network = feature_network(section.backbone)
        load_initial(network, given.state_dict(), section.bundle)
    filled = {"image_size": data.image_size or own.size, "intensity": data.intensity or own.intensity}
    return network, section, data.model_copy(update=filled)
