"""Saliency: how much each pixel moves a class's score (Simonyan et al. 2013, "Deep inside convolutional networks")."""

import torch
from torch import Tensor

from mskray.explain.scores import require_backbone, score_of
from mskray.models.backbones import Backbone


def saliency(network: Backbone, images: Tensor, target: Tensor | None = None) -> Tensor:
    """Return |∂ score / ∂ pixel| of each image (n, rows, columns), the score before softmax (section 3, eq. 3).

    Args:
        network: in evaluation mode; its parameters get no gradient.
        images: (n, 1, rows, columns) in [0, 1].
        target: (n,) index of the class whose score it is; the most probable one of each image when None.
    Raises:
        UserError: the network is no `Backbone`.
    """
    require_backbone(network, "saliency")
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        score = score_of(network(pixels), target)
        # An image's score depends on its own pixels alone, so one backward pass serves the batch.
        (slope,) = torch.autograd.grad(score.sum(), pixels)
    return slope.abs().amax(dim=1)
