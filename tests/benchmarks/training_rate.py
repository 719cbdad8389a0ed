"""Images/s of the training loop over whole epochs, first batches included, against a bare PyTorch loop.

    .venv/bin/python tests/benchmarks/training_rate.py --cohort COHORT --weights MOBILENET_V2.safetensors

The bare loop holds the same tensors in memory and does the same arithmetic in the same memory layout: augmentation,
forward, backward, update. It runs in processes of its own, before and after ours, with the same number of threads. Ours
includes whatever it waits for; loading begins while the worker starts, as in any run. Without --cohort, phantoms
are used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    arguments = _arguments()
    if arguments.bare:
        print(json.dumps(_bare(arguments.cohort, arguments.weights, arguments.epochs)))
        return
    with tempfile.TemporaryDirectory(prefix="mskray-benchmark-") as folder:
        cohort = arguments.cohort or _phantoms(folder)
        bare = [_bare_process(cohort, arguments)]
        ours, history = _ours(cohort, arguments.weights, arguments.epochs, folder)
        bare.append(_bare_process(cohort, arguments))
    rates = [_over_all(each) for each in bare]
    mean = sum(rates) / len(rates)
    by_epoch = ", ".join(f"{entry['images_per_s']:.1f}" for entry in history)
    waiting = ", ".join(f"{entry['wait_share']:.1%}" for entry in history)
    print(f"bare loop   {', '.join(f'{rate:.1f}' for rate in rates)} images/s over {arguments.epochs} epochs")
    print(f"ours        {ours:.1f} images/s, by epoch {by_epoch}")
    print(f"waiting     {waiting} of each epoch")
    print(f"validation  auroc {history[-1]['val_auroc']:.3f}, kappa {history[-1]['val_kappa']:.3f}")
    print(f"ratio       {ours / mean:.3f}")


def _job(cohort: str, weights: str, epochs: int, out: str) -> dict[str, Any]:
    return {
        "family": "classifier",
        "cohort": cohort,
        "out": out,
        "network": {"backbone": "mobilenet_v2", "weights": weights},
        "data": {"image_size": 160, "batch_size": 32},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"name": "one_cycle"},
        "loop": {"epochs": epochs},
    }


def _ours(cohort: str, weights: str, epochs: int, folder: str) -> tuple[float, list[dict[str, Any]]]:
    from mskray.progress import Display
    from mskray.verbs.train import parse_job, train

    bundle = train(*parse_job(_job(cohort, weights, epochs, f"{folder}/bundle"), "benchmark"), report=Display())
    return _over_all([entry["images_per_s"] for entry in bundle.history]), bundle.history


def _over_all(rates: list[float]) -> float:
    """Images/s over epochs of equal length: the harmonic mean."""
    return len(rates) / sum(1 / rate for rate in rates)


def _bare_process(cohort: str, arguments: argparse.Namespace) -> list[float]:
    command = [sys.executable, __file__, "--bare", "--cohort", cohort, "--weights", arguments.weights]
    done = subprocess.run(
        [*command, "--epochs", str(arguments.epochs)], check=True, stdout=subprocess.PIPE, text=True, timeout=3600
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _bare(cohort_uri: str, weights: str, epochs: int) -> list[float]:
    """Images/s of each epoch of a plain loop."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from mskray.cohorts import open_cohort
    from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
    from mskray.training.augmentation import augment
    from mskray.verbs.train import parse_job

    _, _, config = parse_job(_job(cohort_uri, weights, epochs, "unused"), "benchmark")
    assert isinstance(config, ClassifierConfig)
    cohort = open_cohort(cohort_uri)
    parts = [cohort.read_shard(shard, ["image", "label_abnormality"]) for shard in cohort.shards("train")]
    images = torch.from_numpy(np.concatenate([part["image"] for part in parts]))
    labels = torch.from_numpy(np.concatenate([part["label_abnormality"] for part in parts])).long()
    recipe = ClassifierRecipe(config, 2)
    network = recipe.build()
    network.load_state_dict(recipe.initial_state())
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    steps = len(labels) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * steps + 1, pct_start=0.1)
    rates = []
    for _ in range(epochs):
        started = time.monotonic()
        order = torch.randperm(len(labels))
        for step in range(steps):
            rows = order[step * 32 : (step + 1) * 32]
            batch = augment(images[rows].unsqueeze(1).float().div_(255), config.augment)
            loss = F.cross_entropy(network(batch), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        rates.append(steps * 32 / (time.monotonic() - started))
    return rates


def _phantoms(folder: str) -> str:
    from mskray.cohorts.ingest import ingest

    place = str(Path(folder) / "cohort")
    settings = {"size": 160, "split_fractions": [0.7, 0.15, 0.15]}
    ingest("phantom", None, place, {"patients": 1000, "image_size": 192}, settings, key=b"benchmark key, not a secret")
    return place


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", help="cohort of 160 px with the task abnormality; phantoms if not given")
    parser.add_argument("--weights", default="none", help="none, imagenet, or the URI of a state dict")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
