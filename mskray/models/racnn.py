"""RA-CNN: three networks that look closer and closer, each at what the proposal of the one before points at.

Source: Fu, Zheng and Mei 2017, "Look closer to see better" (RA-CNN; its equations are cited by numbers that could not
be checked), as ZHAW used it (section IV-D). A box is (n, 3): x and y of its centre and half its side, as shares of the
image's side.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mskray.models.backbones import Backbone, map_shape
from mskray.models.kalm import aggregate
from mskray.models.sampling import sample

SCALES = 3
Phase = Literal["pretraining", "classification", "proposals"]
_PEAK_HALF = 0.25
"""Half the side of the square around a map's peak: half the image's side in all, as RA-CNN has it."""


def box_mask(box: Tensor, size: int, k: float) -> Tensor:
    """Return (n, 1, size, size): near 1 inside the box, near 0 outside, differentiable in the box (RA-CNN eq. 4 to 6).

    Args:
        k: steepness of the border, 1/px.
    """
    x, y, half = (box * size).unsqueeze(2).unbind(dim=1)
    pixel = torch.arange(size, device=box.device, dtype=box.dtype) + 0.5
    across, down = (
        torch.sigmoid(k * (pixel - (centre - half))) - torch.sigmoid(k * (pixel - (centre + half))) for centre in (x, y)
    )
    return (down[:, :, None] * across[:, None, :]).unsqueeze(1)


def attend(images: Tensor, box: Tensor, size: int, k: float) -> Tensor:
    """Cut the box out and bring it to size × size (RA-CNN eq. 4 and 7); the box gets gradients through the mask only.

    Args:
        images: (n, 1, rows, rows).
    """
    x, y, half = box.detach().unbind(dim=1)
    place = torch.stack([2 * x - 1, 2 * y - 1, 2 * half, 2 * half], dim=1)
    return sample(images * box_mask(box, images.shape[-1], k), place, size)


def peak_box(maps: Tensor, smallest: float) -> Tensor:
    """Return the box around the highest response of a map (n, channels, height, width), moved into the image.

    It has the smallest side that is allowed, at least half the image's.
    """
    response = aggregate(maps)
    height, width = response.shape[1:]
    peak = response.flatten(1).argmax(dim=1)
    half = max(_PEAK_HALF, smallest)
    x = ((peak % width + 0.5) / width).clamp(half, 1 - half)
    y = ((peak // width + 0.5) / height).clamp(half, 1 - half)
    return torch.stack([x, y, torch.full_like(x, half)], dim=1)


def rank_loss(probabilities: Tensor, label: Tensor, margin: float) -> Tensor:
    """Mean over n of how far each scale falls short of the one before plus a margin (RA-CNN eq. 9).

    Args:
        probabilities: (scales, n, classes). label: (n,). The coarser scale is the reference and gets no gradient:
            otherwise the loss could fall by making it worse.
    """
    true = probabilities.gather(2, label.expand(len(probabilities), -1)[..., None]).squeeze(2)
    return (true[:-1].detach() - true[1:] + margin).clamp(min=0).sum(dim=0).mean()


class Proposal(nn.Module):
    """Feature map → box (RA-CNN eq. 2): two linear layers with tanh between.

    The box has a half side between `smallest` and 0.5 and lies inside the image, whatever the layers say, without a
    clamp that would end the gradient.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int, smallest: float) -> None:
        super().__init__()
        values = int(torch.Size(shape).numel())
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(values, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        self._smallest = smallest

    def forward(self, maps: Tensor) -> Tensor:
        """Return boxes (n, 3) of maps (n, *shape)."""
        x, y, length = torch.sigmoid(self.layers(maps).float()).unbind(dim=1)
        half = self._smallest + (0.5 - self._smallest) * length
        room = 1 - 2 * half
        return torch.stack([half + room * x, half + room * y, half], dim=1)


class Racnn(nn.Module):
    """Three scales of one architecture, weights of their own, and the proposals between them.

    Args:
        backbone: a member of `mskray.models.backbones.BACKBONES`.
        size: side of the first scale's input, px; zoom: of the others'.
        hidden: hidden units of a proposal.
        smallest: half side that a box has at least, as a share of the image's side.
        k: steepness of the mask, 1/px.
    """

    def __init__(
        self,
        backbone: str,
        classes: int,
        size: int = 448,
        zoom: int = 224,
        hidden: int = 1024,
        smallest: float = 1 / 3,
        k: float = 10.0,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Backbone(backbone, classes, pooled=True) for _ in range(SCALES))
        self.proposals = nn.ModuleList(
            Proposal(map_shape(backbone, side), hidden, smallest) for side in [size, *[zoom] * (SCALES - 2)]
        )
        self.phase: Phase = "classification"
        self._zoom, self._smallest, self._k = zoom, smallest, k

    def learn(self, phase: Phase) -> None:
        """Choose what learns: the networks, or the proposals; the other half stays as it is, BatchNorm included."""
        self.phase = phase
        self.train()
        networks = phase == "classification"
        self.scales.requires_grad_(networks).train(networks)
        self.proposals.requires_grad_(not networks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at images (n, 1, size, size) in [0, 1].

        Returns:
            Logits (3, n, classes); boxes (2, n, 3), each on the image of its own scale; and the boxes around the peaks
            of the same maps, by which proposals are pre-trained. Boxes give no gradient to the networks.
        """
        logits, boxes, peaks = [], [], []
        for number, network in enumerate(self.scales):
            maps = network.maps(images)  # type: ignore[operator]  # a ModuleList does not tell what it holds
            logits.append(network.score(maps))  # type: ignore[operator]
            if number < len(self.proposals):
                seen = maps.detach()
                boxes.append(self.proposals[number](seen))
                peaks.append(peak_box(seen, self._smallest))
                images = attend(images, boxes[-1], self._zoom, self._k)
        return torch.stack(logits), torch.stack(boxes), torch.stack(peaks)


def corners(boxes: Tensor) -> Tensor:
    """Turn boxes (scales, n, 3), each on the image that the one before cut out, to (scales, n, 4) on the first image.

    Returns:
        x and y of the upper left corner, width and height, as shares of the first image's side.
    """
    found = []
    left, top = torch.zeros_like(boxes[0, :, 0]), torch.zeros_like(boxes[0, :, 0])
    side = torch.ones_like(left)
    for x, y, half in (box.unbind(dim=1) for box in boxes):
        left, top, side = left + side * (x - half), top + side * (y - half), side * 2 * half
        found.append(torch.stack([left, top, side, side], dim=1))
    return torch.stack(found)
