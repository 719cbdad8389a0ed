"""KALM: a global network, the key area that its own feature map points at, and a local network on that area.

Source: "KALM" (equations 1 to 10, figure 2). Coordinates are those of `grid_sample`: an image reaches from -1 to 1
along x (columns) and y (rows), whatever its size in pixels.
"""

import math

import torch
from torch import Tensor, nn

from mskray.models.backbones import Backbone, map_shape
from mskray.models.sampling import sample


def aggregate(maps: Tensor) -> Tensor:
    """Sum a feature map (n, channels, height, width) over its channels (KALM eq. 4): (n, height, width)."""
    return maps.sum(dim=1)


def profiles(response: Tensor) -> tuple[Tensor, Tensor]:
    """Sum a response (n, height, width) over rows and over columns (KALM eq. 5), each scaled to [0, 1] (eq. 6).

    Returns:
        V_w (n, width) and V_h (n, height). A flat profile, where eq. 6 divides by zero, becomes zeros.
    """
    return _unit_range(response.sum(dim=1)), _unit_range(response.sum(dim=2))


def locate_peak(profile: Tensor, centred: bool = False) -> Tensor:
    """Where a profile (n, length) is largest, in [-1, 1] (KALM eq. 7); it carries no gradient.

    Args:
        centred: False is the paper's index / length × 2 - 1, the left edge of the cell, so that +1 is never reached
            and every box lies half a cell too far to the upper left; True is the middle of the cell.
    """
    index, length = profile.argmax(dim=1), profile.shape[1]
    numerator = 2 * index + 1 if centred else 2 * index
    return numerator.to(profile.dtype) / length - 1


def to_pixels(box: Tensor, rows: int, columns: int) -> Tensor:
    """Turn boxes as in `sample` into (n, 4) x, y, w, h in pixels, x and y of the upper left corner, not clipped."""
    x, y, w, h = box.unbind(dim=1)
    return torch.stack([(x - w + 1) / 2 * columns, (y - h + 1) / 2 * rows, w * columns, h * rows], dim=1)


class KeyArea(nn.Module):
    """Feature map → box of the key area (KALM eq. 4 to 7). Only w and h are learned.

    Args:
        height, width: of the feature map.
    """

    def __init__(self, height: int, width: int, centred: bool = False) -> None:
        super().__init__()
        self.fc_w, self.fc_h = nn.Linear(width, 1), nn.Linear(height, 1)
        self._centred = centred

    @torch.no_grad()
    def start_at(self, side: float) -> None:
        """Make every box `side` of the image wide and high, until FC_w and FC_h learn; `side` in (0, 1)."""
        for layer in (self.fc_w, self.fc_h):
            layer.weight.zero_()
            layer.bias.fill_(math.log(side / (1 - side)))

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, 4) x, y, w, h as `sample` takes them."""
        across, down = profiles(aggregate(maps))
        w, h = torch.sigmoid(self.fc_w(across)).squeeze(1), torch.sigmoid(self.fc_h(down)).squeeze(1)
        return torch.stack([locate_peak(across, self._centred), locate_peak(down, self._centred), w, h], dim=1)


def global_network(name: str, classes: int, size: int) -> Backbone:
    """CNN_g (KALM eq. 1 to 3): a backbone whose head is one linear layer on the mean of its last map.

    Args:
        size: side of its input, px; finer images are brought there by the mean over their pixels.
    """
    return Backbone(name, classes, pooled=True, input_size=size)


class Kalm(nn.Module):
    """CNN_g, the key area and CNN_l.

    Args:
        backbone: a member of `mskray.models.backbones.BACKBONES`; CNN_l has the same architecture, weights of its own.
        size: side of both networks' input, px; images come at a multiple of it (in the paper twice), so that the key
            area is cut from finer pixels.
    """

    def __init__(self, backbone: str, classes: int, size: int = 224, centred: bool = False) -> None:
        super().__init__()
        self.size = size
        self.cnn_g = global_network(backbone, classes, size)
        self.cnn_l = Backbone(backbone, classes, pooled=True)
        self.key_area = KeyArea(*map_sides(backbone, size), centred=centred)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the whole image and of the key area, each (n, classes), and the boxes (n, 4).

        The whole image's feature map is cut off from the boxes' gradient: in the second stage FC_w, FC_h and CNN_l
        learn, and CNN_g stays as the first stage left it.
        """
        maps = self.cnn_g.maps(images)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round a box of 448 px to whole pixels
            box = self.key_area(maps.detach().float())
        return self.cnn_g.score(maps), self.cnn_l(sample(images, box, self.size)), box


def map_sides(backbone: str, size: int) -> tuple[int, int]:
    """Return height and width of a backbone's last map for images of `size` px; nothing is computed."""
    _, height, width = map_shape(backbone, size)
    return height, width


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    spread = high - low
    return (values - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
