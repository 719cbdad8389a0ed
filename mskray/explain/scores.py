"""The score that a method explains, and the networks that have one."""

from torch import Tensor, nn

from mskray.errors import UserError
from mskray.models.backbones import Backbone


def score_of(logits: Tensor, target: Tensor | None) -> Tensor:
    """Return the score before softmax (n,) of each image's target class, the largest where target is None."""
    if target is None:
        return logits.amax(dim=1)
    return logits.gather(1, target.clone()[:, None]).squeeze(1)  # a copy: targets may come from inference mode


def require_backbone(network: nn.Module, method: str) -> None:
    """Raise UserError unless the network has a last spatial map with scores behind it."""
    if not isinstance(network, Backbone):
        raise UserError(
            f"{method} cannot explain a {type(network).__name__}: it needs a convolutional network with a spatial map "
            "and class scores (a Backbone)"
        )
