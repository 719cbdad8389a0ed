"""Initial weights: none, ImageNet's by torchvision or timm, or a state dict at a URI. Loaded once, on the driver."""

import io
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load, load_file
from torch import Tensor

from mskray.errors import UserError
from mskray.models.backbones import TIMM, Backbone, load_initial
from mskray.models.vision import torchvision
from mskray.storage import locate
from mskray.training.recipe import Recipe

# A state dict larger than this is a mistake (VGG19, the largest backbone, has 575 MB).
_MAX_BYTES = 4 << 30


class Starting(Recipe):
    """A recipe whose config says in `network.backbone` and `network.weights` what its network starts from."""

    def initial_state(self) -> dict[str, Tensor]:
        """Return the network's first weights; what `network.weights` leaves open is drawn from `loop.seed`.

        Every `Backbone` in the network starts from the same weights.

        Raises UserError when the weights cannot be had or do not fit.
        """
        network: Any = vars(self.config)["network"]
        state = initial_weights(network.weights, network.backbone)
        torch.manual_seed(self.config.loop.seed)
        built = self.build()
        if state is not None:
            for part in built.modules():
                if isinstance(part, Backbone):
                    load_initial(part, state, network.weights)
        return built.state_dict()


def initial_weights(weights: str, backbone: str) -> dict[str, Tensor] | None:
    """Return the state dict that `network.weights` names, or None for "none".

    Args:
        weights: "none", "imagenet", or the URI of a `.safetensors` file or a `.pth` state dict.
    Raises:
        UserError: no network for "imagenet", no file, or a file that holds more than tensors.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        return _imagenet(backbone)
    data = locate(weights).read_bytes(max_bytes=_MAX_BYTES)
    try:
        if weights.endswith(".safetensors"):
            return load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes torch raise; UnpicklingError for more than tensors
        raise _unreadable(weights, error) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {weights} hold no state dict: give a mapping of names to tensors")
    return state


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        if backbone in TIMM:
            # timm itself would fall back on a pickled file.
            return load_file(hf_hub_download(TIMM[backbone], "model.safetensors"))  # nosec B615 # numbers, no code
        return torchvision.models.get_model(backbone, weights="DEFAULT").state_dict()
    except Exception as error:  # whatever the HTTP clients of torch.hub and of timm raise without a network
        raise UserError(
            f"ImageNet weights of {backbone} could not be fetched ({error}): give network.weights=<URI of a state "
            "dict> or network.weights=none where there is no network"
        ) from None


def _unreadable(weights: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return UserError(f"weights {weights} cannot be read as a state dict ({reason}): give .safetensors or a plain .pth")
