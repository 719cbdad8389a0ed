"""Do six tasks learn better together? One SpineNet with a branch point against six separate networks, on phantoms.

    .venv/bin/python tests/benchmarks/spine_tasks.py --seeds 5 6 7                    # a GPU: an hour
    .venv/bin/python tests/benchmarks/spine_tasks.py --seeds 5 --columns 128 --patients 200 --width 0.25 --epochs 20

Every seed draws patients and weights anew. Separate networks are the branch point "none": nothing is shared but the
order of the discs, each is trained on its own loss. Compared is the mean of the six average per-class accuracies on
held-out patients. The exit status is 1 where the branch point does not win on the mean of the seeds.
"""

import argparse
import sys
import time

import numpy as np
import torch
from disc_training import accuracies, add_options, trained
from phantom_discs import CHANGES, TASKS, rendered

from mskray.evaluation.grading import mean_and_sd
from mskray.imaging.phantoms.spine import SpineSpec
from mskray.models.vgg_m import BRANCHES


def main() -> None:
    options = _options()
    torch.set_num_threads(options.workers)
    weights = {task.name: options.small if task.name in CHANGES else 1.0 for task in TASKS}
    names, began = list(weights), time.monotonic()
    results: dict[str, list[list[float]]] = {branch: [] for branch in ("none", *options.branch)}
    for seed in options.seeds:
        options.seed = seed
        spec = SpineSpec(options.patients, seed)
        train = rendered(options.folder, spec, options.columns, options.workers)
        held = rendered(options.folder, SpineSpec(options.held_out, seed + 1000), options.columns, options.workers)
        print(f"seed {seed}: {len(train.labels):,} discs, {len(held.labels):,} held out", flush=True)
        for branch, found in results.items():
            recipe, network = trained(train, options.columns, weights, branch, options.width, options)
            reached = accuracies(held, recipe, network, options)
            found.append([reached[name] for name in names])
            print(_line(branch, [found[-1]]), flush=True)
    print(f"\n{'':8}" + " ".join(f"{name:>16}" for name in [*names, "mean"]))
    for branch, found in results.items():
        print(_line(branch, found))
    means = {branch: float(np.mean(found)) for branch, found in results.items()}
    print(f"{time.monotonic() - began:.0f} s, {options.device}")
    best = max(options.branch, key=means.__getitem__)
    if means[best] <= means["none"]:
        sys.exit(f"missed: {best} reaches {means[best]:.3f}, separate networks {means['none']:.3f}")


def _line(branch: str, found: list[list[float]]) -> str:
    columns = [*zip(*found, strict=True), tuple(float(np.mean(each)) for each in found)]
    cells = []
    for values in columns:
        mean, deviation = mean_and_sd(values)
        cells.append(f"{mean:.3f}" + (f" ± {deviation:.3f}" if len(values) > 1 else ""))
    return f"{branch:8}" + " ".join(f"{cell:>16}" for cell in cells)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--branch", nargs="+", default=["conv5"], choices=BRANCHES[1:], help="branch points to try")
    parser.add_argument("--small", type=float, default=1.0, help="weight in the loss of endplates and marrow")
    return parser.parse_args()


if __name__ == "__main__":
    main()
