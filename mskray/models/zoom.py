"""From a response to a box to a crop: local entropy, threshold, region, extension. All images of a batch at once.

Source: "Learn to Zoom from Network Response" (ZHAW), section III-C. Boxes are (n, 4) x, y, w, h in pixels, x and y of
the upper left corner.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.models.sampling import sample


def local_entropy(values: Tensor, neighbourhood: int, bins: int) -> Tensor:
    """Return the entropy, in bits, of the grey levels around each pixel (ZHAW eq. 5, with the minus sign it lacks).

    Args:
        values: (n, rows, columns); [0, 1] is cut into `bins` levels, what lies outside counts as the nearest one.
        neighbourhood: side of the square around each pixel, odd. At the border only pixels of the image count.
    Returns:
        (n, rows, columns) float32, from 0 to log2(bins).
    """
    levels = (values * bins).clamp(0, bins - 1).to(torch.uint8)
    count = _box_sum(torch.ones_like(values[:1], dtype=torch.float32), neighbourhood)
    result = torch.zeros_like(values, dtype=torch.float32)
    # One level at a time: all at once would need `bins` times the memory.
    for level in range(bins):
        share = _box_sum((levels == level).float(), neighbourhood) / count
        result -= share * share.clamp(min=torch.finfo(share.dtype).tiny).log2()
    return result.clamp_(min=0)


def region(entropy: Tensor, threshold: float) -> Tensor:
    """Return the box (n, 4) around the part above the threshold in which the entropy is highest.

    From the peak the box reaches to the first row and the first column without a pixel above the threshold. So it
    holds all that hangs together with the peak, and other parts only where no empty row or column lies between.
    (Labelling connected parts would need a loop over images.)

    Args:
        entropy: (n, rows, columns).
        threshold: 0 to 1, from each image's lowest entropy to its highest. Of a flat map the region is all.
    """
    low, high = entropy.amin(dim=(1, 2), keepdim=True), entropy.amax(dim=(1, 2), keepdim=True)
    mask = entropy >= low + threshold * (high - low)
    peak = entropy.flatten(1).argmax(dim=1)
    row, column = peak // entropy.shape[2], peak % entropy.shape[2]
    top, bottom = _run(mask.any(dim=2), row)
    left, right = _run((mask & _between(top, bottom, mask.shape[1]).unsqueeze(2)).any(dim=1), column)
    top, bottom = _run((mask & _between(left, right, mask.shape[2]).unsqueeze(1)).any(dim=2), row)
    return torch.stack([left, top, right - left, bottom - top], dim=1)


def extend(box: Tensor, least: float, side: int) -> Tensor:
    """Make boxes squares of at least `least` px around their middle, shifted so that they lie inside the image.

    Args:
        box: (n, 4), inside an image of `side` × `side` px, `side` at least `least`.
    """
    corner, lengths = box[:, :2].float(), box[:, 2:].float()
    length = lengths.amax(dim=1, keepdim=True).clamp(min=least)
    start = (corner + lengths / 2 - length / 2).clamp(min=0).minimum(side - length)
    return torch.cat([start, length, length], dim=1)


def crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Cut boxes out of images (n, channels, side, side) and bring them to size × size, bilinearly."""
    side = images.shape[-1]
    middle, lengths = box[:, :2] + box[:, 2:] / 2, box[:, 2:]
    return sample(images, torch.cat([middle * 2 / side - 1, lengths / side], dim=1), size)


def _box_sum(values: Tensor, side: int) -> Tensor:
    """Sum over a square around each pixel; the sums of 0 and 1 are exact up to 16 million pixels."""
    before, after = side // 2 + 1, side // 2
    total = F.pad(values, (before, after, before, after)).cumsum(dim=2)
    total = (total[:, :, side:] - total[:, :, :-side]).cumsum(dim=1)
    return total[:, side:] - total[:, :-side]


def _run(profile: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and end (n,) of the unbroken stretch of True in profile (n, length) around the index `at` (n,)."""
    index, length = torch.arange(profile.shape[1], device=profile.device), profile.shape[1]
    here = at.unsqueeze(1)
    start = torch.where(~profile & (index < here), index, -1).amax(dim=1) + 1
    end = torch.where(~profile & (index > here), index, length).amin(dim=1)
    return start, end


def _between(start: Tensor, end: Tensor, length: int) -> Tensor:
    index = torch.arange(length, device=start.device)
    return (index >= start.unsqueeze(1)) & (index < end.unsqueeze(1))
