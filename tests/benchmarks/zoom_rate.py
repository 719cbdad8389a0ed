"""Images/s of the zoom: whole batches on the device against the prototype's way, one image at a time on the host.

    .venv/bin/python tests/benchmarks/zoom_rate.py --backbone vgg19 --canvas 448 --input 224

"The time per batch is very high, since the prototype uses a lot of computation on the host" (ZHAW, section IV-B3). So
the peer takes one image at a time through the same network and the same guided backprop, and does the rest in numpy and
OpenCV: entropy by box filters, region, crop. Weights are random, images are noise: the work does not depend on them.
Boxes can differ where a rounding moves the peak of such a noise's entropy.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from mskray.explain import look
from mskray.families.zoom import LookingConfig, ZoomRecipe
from mskray.models.backbones import BACKBONES, Backbone


def main() -> None:
    given = _arguments()
    device = torch.device(given.device)
    config = LookingConfig.model_validate(
        {
            "data": {"image_size": given.canvas},
            "zoom": {"bundle": "none"},
            "network": {"backbone": given.backbone},
            "input_size": given.input,
        }
    )
    recipe = ZoomRecipe(config, 2)
    torch.manual_seed(0)
    built = recipe.build().to(device).eval()
    images = torch.rand(given.images, 1, given.canvas, given.canvas)

    @torch.inference_mode()
    def batched() -> np.ndarray:
        parts = [recipe.answer(built, {"image": part.to(device)}) for part in images.split(given.batch)]
        return torch.cat([part.boxes["zoom"] for part in parts]).cpu().numpy()

    @torch.inference_mode()
    def singly() -> np.ndarray:
        return np.stack([_one_image(built, image, recipe, device) for image in images])

    boxes, rates = {}, {}
    for name, way in (("batched", batched), ("one at a time", singly)):
        way()
        boxes[name], rates[name] = _timed(way, given.rounds, given.images)
    same = np.abs(boxes["batched"] - boxes["one at a time"]).max(axis=1) < 1
    for name, found in rates.items():
        print(f"{name:14} {np.median(found):7.1f} images/s, rounds {', '.join(f'{rate:.1f}' for rate in found)}")
    print(f"{'same boxes':14} {same.mean():7.0%}")
    print(f"{'ratio':14} {np.median(rates['batched']) / np.median(rates['one at a time']):7.2f}")


def _timed(way: Callable[[], np.ndarray], rounds: int, count: int) -> tuple[np.ndarray, list[float]]:
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = way()
        rates.append(count / (time.perf_counter() - started))
    return found, rates


def _one_image(network: Backbone, image: Tensor, recipe: ZoomRecipe, device: torch.device) -> np.ndarray:
    """The prototype's way with one image (1, side, side); return its box."""
    zoom, size = recipe.config.zoom, recipe.size
    canvas = image[0].numpy()
    side = len(canvas)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    response, _ = look(network, torch.from_numpy(small)[None, None].to(device), None)
    values = response[0].cpu().numpy()
    grey = 0.5 + 0.5 * (values - values.mean()) / values.std()
    entropy = _entropy(np.clip(grey * zoom.bins, 0, zoom.bins - 1).astype(np.uint8), zoom.neighbourhood, zoom.bins)
    mask = entropy >= entropy.min() + zoom.threshold * (entropy.max() - entropy.min())
    box = _extended(_around_peak(mask, entropy) * (side / size), size, side)
    x, y, length = box[:3]
    middle = (x + length / 2 - 0.5, y + length / 2 - 0.5)
    patch = cv2.getRectSubPix(canvas, (round(length), round(length)), middle)
    patch = cv2.resize(patch, (size, size), interpolation=cv2.INTER_LINEAR)
    network(torch.from_numpy(patch)[None, None].to(device)).softmax(dim=1).cpu()
    return box


def _entropy(levels: np.ndarray, neighbourhood: int, bins: int) -> np.ndarray:
    window, border = (neighbourhood, neighbourhood), cv2.BORDER_CONSTANT
    count = cv2.boxFilter(np.ones(levels.shape, np.float32), -1, window, normalize=False, borderType=border)
    result = np.zeros(levels.shape, np.float32)
    for level in range(bins):
        here = (levels == level).astype(np.float32)
        share = cv2.boxFilter(here, -1, window, normalize=False, borderType=border) / count
        result -= share * np.log2(np.maximum(share, 1e-30))
    return result


def _around_peak(mask: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    row, column = np.unravel_index(entropy.argmax(), entropy.shape)
    top, bottom = _stretch(mask.any(axis=1), row)
    left, right = _stretch(mask[top:bottom].any(axis=0), column)
    top, bottom = _stretch(mask[:, left:right].any(axis=1), row)
    return np.array([left, top, right - left, bottom - top], np.float32)


def _stretch(profile: np.ndarray, at: np.intp) -> tuple[int, int]:
    off = np.flatnonzero(~profile)
    return int(off[off < at].max(initial=-1)) + 1, int(off[off > at].min(initial=len(profile)))


def _extended(box: np.ndarray, least: int, side: int) -> np.ndarray:
    length = max(*box[2:], least)
    x, y = (min(max(box[axis] + box[2 + axis] / 2 - length / 2, 0), side - length) for axis in (0, 1))
    return np.array([x, y, length, length], np.float32)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vgg19", choices=BACKBONES)
    parser.add_argument("--canvas", type=int, default=448, help="side of the full resolution, px")
    parser.add_argument("--input", type=int, default=224, help="side of the network's input, px")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
