"""Do evidence hotspots point at what is wrong? The pointing game on endplate defects and marrow changes of phantoms.

    .venv/bin/python tests/benchmarks/hotspots.py                         # a GPU: minutes; 224 columns as in the paper
    .venv/bin/python tests/benchmarks/hotspots.py --columns 128 --patients 400 --width 0.5         # two cores: hours

Trains a SpineNet with all six tasks, then asks of every held-out disc with a change for the evidence of that change.
A map's peak over all nine slices hits when it lies on the change: in its own slice, exactly or within the margin of
Zhang et al. (15 px of 500), and, last column, within the margin of the change in any slice. Held against each other:
the paper's hotspots, the single-pass saliency of Simonyan et al., both with options that the paper does not have
(guided backprop, a Gaussian over the map before its peak is taken), and the middle of the disc.

The exit status is 1 where the paper's hotspots hit less than 0.8 within the margin, or no more than Simonyan's.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from disc_training import accuracies, add_options, to_input, trained
from phantom_discs import CHANGES, TASKS, Discs, input_shape, rendered
from torch import Tensor, nn

from mskray.explain.gates import guided_gates
from mskray.explain.hotspots import ONE, Copies, blurred, hotspots
from mskray.explain.localisation import mask_hits, volume_peaks, zhang_margin
from mskray.imaging.phantoms.spine import SpineSpec

GOAL = 0.8
PAPER, PEER, MIDDLE = "hotspots", "Simonyan", "middle of the disc"
GROUPS = {"endplates": CHANGES[:2], "marrow": CHANGES[2:]}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.workers)
    began = time.monotonic()
    train = rendered(options.folder, SpineSpec(options.patients, options.seed), options.columns, options.workers)
    held = rendered(options.folder, SpineSpec(options.held_out, options.seed + 1000), options.columns, options.workers)
    print(f"{len(train.labels):,} discs, {len(held.labels):,} held out, {time.monotonic() - began:.0f} s", flush=True)
    weights = {task.name: 1.0 for task in TASKS}
    recipe, network = trained(train, options.columns, weights, "conv5", options.width, options)
    for name, value in accuracies(held, recipe, network, options).items():
        print(f"  {name:16} average per-class accuracy {value:.3f}")
    missed = []
    for group, tasks in GROUPS.items():
        found = measured(held, network, tasks, options)
        _print(group, found)
        within, peer = (found[name][:, 1].mean() for name in (PAPER, PEER))
        if within < GOAL or within <= peer:
            missed.append(f"{group} {within:.3f}, {PEER} {peer:.3f}")
    print(f"{time.monotonic() - began:.0f} s, {options.device}")
    if missed:
        sys.exit(f"missed: below {GOAL} or not above {PEER}: {'; '.join(missed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--copies", type=int, default=64, help="augmented copies that a map is averaged over")
    parser.add_argument("--sigma", type=float, default=0.01, help="of the Gaussian, as a share of the columns")
    parser.add_argument("--seed", type=int, default=5)
    return parser.parse_args()


def methods(network: nn.Module, images: Tensor, task: str, options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """Each method's maps (n, slices, rows, columns) of contexts for class 1 of a task, plain and then smoothed."""
    shape, ones = input_shape(options.columns), torch.ones(len(images), dtype=torch.long)
    for name, copies in ((PAPER, Copies(options.copies)), (PEER, ONE)):
        for gates, guided in ((nullcontext(), ""), (guided_gates(network), ", guided")):
            with gates:
                maps = hotspots(network, images, task, ones, shape=shape, copies=copies)
            yield name + guided, maps
            yield f"{name}{guided}, Gaussian", blurred(maps, options.sigma * options.columns)


def measured(
    held: Discs, network: nn.Module, tasks: tuple[str, ...], options: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Each method with its hits (n, 3): exactly, within the margin, within it in any slice."""
    margin = zhang_margin(options.columns)
    hits: dict[str, list[np.ndarray]] = defaultdict(list)
    middle = np.array([side // 2 for side in input_shape(options.columns)], float)
    for task in tasks:
        place = CHANGES.index(task)
        shown = np.flatnonzero(held.truth[:, place].any(axis=(1, 2, 3)))
        for rows in np.array_split(shown, -(-len(shown) // options.batch)):
            truth = held.truth[rows, place]
            for name, maps in methods(network, to_input(held.images[rows], options.device), task, options):
                hits[name].append(_hits(volume_peaks(maps.cpu().numpy()), truth, margin))
            hits[MIDDLE].append(_hits(np.tile(middle, (len(rows), 1)), truth, margin))
    return {name: np.concatenate(each) for name, each in hits.items()}


def _hits(points: np.ndarray, truth: np.ndarray, margin: float) -> np.ndarray:
    exact, near = mask_hits(points, truth), mask_hits(points, truth, margin)
    return np.stack([exact, near, mask_hits(points, truth, margin, any_slice=True)], axis=1)


def _print(group: str, found: dict[str, np.ndarray]) -> None:
    print(f"\n{group}, {len(found[PAPER])} changes {'exact':>17} {'within margin':>15} {'in any slice':>15}")
    for name, hits in found.items():
        shares, errors = hits.mean(axis=0), hits.std(axis=0) / np.sqrt(len(hits))
        cells = (f"{share:9.3f} ±{error:.3f}" for share, error in zip(shares, errors, strict=True))
        print(f"  {name:28} {' '.join(cells)}")
    print(flush=True)


if __name__ == "__main__":
    main()
