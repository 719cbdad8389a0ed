"""Grad-CAM: which places of the last spatial map speak for a class (Selvaraju et al. 2017).

The score y of a class is taken less the mean of all classes' scores. Softmax does not change when the same number is
added to every score, so a network may put its reasons for "abnormal" into a low score of "normal": with the plain score
a third of a small resnet18's maps of abnormal phantoms were 0 everywhere.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.errors import UserError
from mskray.explain.scores import require_backbone, score_of
from mskray.models.backbones import Backbone


def grad_cam(network: Backbone, images: Tensor, target: Tensor | None = None) -> Tensor:
    """Return what of the last map speaks for the class, at the images' size (n, rows, columns), 0 or more.

    Args:
        network: in evaluation mode; its parameters get no gradient.
        images: (n, 1, rows, columns) in [0, 1].
        target: (n,) index of the class; the most probable one of each image when None.
    Raises:
        UserError: the network is no `Backbone`, or its last map has a single place at this image size.
    """
    require_backbone(network, "grad_cam")
    with torch.inference_mode(False):
        with torch.no_grad():
            maps = network.maps(images.clone())  # images may come from inference mode, where nothing can be derived
        if maps.shape[2] * maps.shape[3] == 1:
            raise UserError(
                f"grad_cam: the network's last map is 1 × 1 at {images.shape[2]} × {images.shape[3]} px, so it points "
                "nowhere: use saliency, or a model with a larger data.image_size"
            )
        with torch.enable_grad():
            maps = maps.requires_grad_()
            logits = network.score(maps)
            score = score_of(logits, target) - logits.mean(dim=1)
            (slope,) = torch.autograd.grad(score.sum(), maps)
        weights = slope.mean(dim=(2, 3), keepdim=True)  # eq. 1
        evidence = (weights * maps.detach()).sum(dim=1, keepdim=True).relu()  # eq. 2
        return F.interpolate(evidence, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
