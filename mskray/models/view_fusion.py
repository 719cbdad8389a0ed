"""Several views of a study judged together: a shared network with pooled features, or one network on stacked views.

Source: ZHAW, section IV-E and figure 7 (early fusion; late fusion is its footnote 3). Attention pooling: Ilse et al.
2018, "Attention-based deep multiple instance learning", equations 7 and 8. A batch of studies is (n, V, rows, columns)
with the number of real views (n,) of each; what stands after them is padding.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mskray.models.backbones import Backbone
from mskray.models.sampling import warp

Pooling = Literal["mean", "max", "attention"]
_PLACES = ((0.0, 0.0), (-1.0, -1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0))
"""Where repeats are cropped, x and y: the middle, then the corners; 1 is as far right or down as the crop can go."""


def real_views(views: Tensor, slots: int) -> Tensor:
    """Return (n, slots) bool, true where a slot holds one of a study's `views` (n,)."""
    return torch.arange(slots, device=views.device) < views[:, None]


def repeat_views(images: Tensor, views: Tensor, side: float) -> Tensor:
    """Fill the slots after a study's views with other crops and mirrors of the views that are there.

    The first round of repeats is mirrored; the later ones are crops in turn at five places, each as it is and mirrored.
    Nothing is random, so that the same study always gives the same input.

    Args:
        images: (n, V, rows, columns). views: (n,), at least 1 each.
        side: of a crop, as a share of the image's.
    Returns:
        The same shape; the views that were there are unchanged.
    """
    n, slots, rows, columns = images.shape
    slot, count = torch.arange(slots, device=images.device).expand(n, -1), views[:, None]
    turn = slot // count
    source = images.gather(1, (slot % count)[:, :, None, None].expand_as(images))
    crop = turn // 2
    scale = torch.where(crop > 0, side, 1.0)
    place = images.new_tensor(_PLACES)[(crop - 1) % len(_PLACES)] * (1 - scale)[..., None]
    mirror = torch.where(turn % 2 == 1, -1.0, 1.0)
    zero = torch.zeros_like(scale)
    matrix = torch.stack([scale * mirror, zero, place[..., 0], zero, scale, place[..., 1]], dim=-1)
    flat = source.reshape(n * slots, 1, rows, columns)
    moved = warp(flat, matrix.view(-1, 2, 3), rows, columns, "border").to(images.dtype)
    return torch.where((turn > 0)[:, :, None, None], moved.view_as(images), source)


class LateFusion(nn.Module):
    """One network for every view; the features of a study's views are pooled, then judged by the network's head.

    A study of one view is answered as `backbone` alone would answer it. No number of views is built in. Padding never
    enters the network, where it would cost time and reach BatchNorm's statistics.

    Args:
        backbone: a member of `mskray.models.backbones.BACKBONES`.
        pooling: "mean", "max" (of each feature), or "attention", a mean with learned weights.
        units: hidden units of the attention (L in Ilse et al.), unused by the other two.
        frozen: stages of the backbone that do not learn.
    """

    def __init__(
        self, backbone: str, classes: int, pooling: Pooling, units: int = 128, frozen: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, classes, frozen)
        self.pooling = pooling
        self.attention: nn.Module | None = None
        if pooling == "attention":
            self.attention = nn.Sequential(
                nn.Linear(self.backbone.width, units), nn.Tanh(), nn.Linear(units, 1, bias=False)
            )

    def forward(self, images: Tensor, views: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, V, rows, columns) in [0, 1], of which `views` (n,) are real."""
        real = real_views(views, images.shape[1])
        features = self.backbone.features(self.backbone.maps(images[real].unsqueeze(1)))
        study = torch.arange(len(images), device=images.device).repeat_interleave(views)
        return self.backbone.head(self.pool(features, study, len(images)))

    def pool(self, features: Tensor, study: Tensor, studies: int) -> Tensor:
        """Pool features of views (m, width) to those of studies (studies, width); `study` (m,) says whose each is."""
        index = study[:, None].expand_as(features)
        empty = features.new_zeros(studies, features.shape[1])
        if self.pooling == "max":
            return empty.scatter_reduce(0, index, features, "amax", include_self=False)
        weighted = features * self.weigh(features, study, studies).to(features.dtype)[:, None]
        return empty.scatter_add(0, index, weighted)

    def weigh(self, features: Tensor, study: Tensor, studies: int) -> Tensor:
        """Return the weight of each view (m,), which sum to 1 over each study (Ilse et al. eq. 7 and 8)."""
        scores = features.new_zeros(len(features)) if self.attention is None else self.attention(features).squeeze(1)
        highest = scores.new_zeros(studies).scatter_reduce(0, study, scores.detach(), "amax", include_self=False)
        powers = torch.exp((scores - highest[study]).float())
        return powers / powers.new_zeros(studies).scatter_add(0, study, powers)[study]
