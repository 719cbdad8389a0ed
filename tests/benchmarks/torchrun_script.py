"""What `bench_torchrun.py` gives to torchrun: a training of the classifier as one would write it.

    torchrun --standalone --nproc-per-node=2 tests/benchmarks/torchrun_script.py JOB.json EPOCHS

EPOCHS 0 ends after the first step.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from bench_training import _arrays, _optimizer
from torch.nn.parallel import DistributedDataParallel

from mskray.cohorts import open_cohort
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.training.recipe import to_batch
from mskray.training.samples import EachImage
from mskray.verbs.train import parse_job


def main() -> None:
    job, epochs = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    _, family, config = parse_job({**job, "out": "unused"}, "torchrun")
    assert isinstance(config, ClassifierConfig)
    cohort = open_cohort(job["cohort"])
    task = family.task(cohort, "")
    recipe = ClassifierRecipe(config, len(task.classes))
    arrays = {name: each[rank::world] for name, each in _arrays(cohort, EachImage(task.column), recipe).items()}
    network = recipe.build().to(memory_format=torch.channels_last)
    model = DistributedDataParallel(network)
    size = config.data.batch_size
    steps = len(arrays["image"]) // size
    total = torch.tensor(steps)
    dist.all_reduce(total, dist.ReduceOp.MIN)
    steps = int(total)
    optimizer, schedule = _optimizer(recipe, network, max(1, epochs) * steps)
    rates = []
    for epoch in range(max(1, epochs)):
        recipe.set_training(network, epoch)
        order = torch.randperm(len(arrays["image"])).numpy()
        started = time.perf_counter()
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            batch = recipe.augment(to_batch({name: each[rows] for name, each in arrays.items()}, torch.device("cpu")))
            recipe.loss(model, batch, None).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.after_update()
            if not epochs:
                print("first step", flush=True)
                return
        rates.append(steps * size * world / (time.perf_counter() - started))
    if rank == 0:
        print(f"images/s {len(rates) / sum(1 / each for each in rates):.2f}", flush=True)


if __name__ == "__main__":
    main()
