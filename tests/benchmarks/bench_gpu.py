"""Images a second on one GPU, in training and in inference: resnet50, densenet169, vgg16, KALM, SpineNet.

    make bench-gpu                                                   exit code 2 where there is no GPU
    python tests/benchmarks/bench_gpu.py --only resnet50 --compile on --seconds 10 --json build/gpu.json
    python tests/benchmarks/bench_gpu.py --device cpu --small        shows that it runs, measures nothing

Needs no Ray. Phantoms and discs are made and stored as a cohort on the spot; its shards are listed as often as makes an
epoch as long as `--seconds`. All subjects do the same work in one process, in turn: the family's own augmentation, loss
and optimizer on batches of stored bytes.

- ours: mskray's loop in local mode (`mskray train --local`), shards held in memory: images are read from shards,
  gathered in random order, sent, normalised and augmented on the device; bf16, channels_last, fused optimizer. The
  first epoch, in which kernels are chosen and shards read, does not count. For inference, its pass over a
  validation split, figures included. "streamed" reads every shard anew in each epoch.
- the bare step: the same arithmetic and settings on one batch that lies on the device: the limit;
- fp32 eager: the bare step in fp32 (PyTorch's defaults, so convolutions may use TF32), usual memory layout, an
  optimizer that is not fused, never compiled.

Model FLOP utilisation is images/s × FLOPs of an image (counted by PyTorch, on the network as it is) / the device's
dense bf16 peak. The loop's share of time waiting for data is that of the host: gathering and sending, most of which the
device does not notice.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from measure import Case, Found, Reach, alternate, main, tell

OURS, STREAMED, LIMIT, EAGER = "mskray", "mskray, streamed", "bare step", "bare step, fp32 eager"
_WARM_STEPS, _EPOCHS = 5, 3
_REACH = 0.95


def cases(options: argparse.Namespace) -> Iterator[Found]:
    import torch
    from gpu_models import MODELS, work_of

    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        tell("bench_gpu: torch finds no GPU here; --device cpu --small shows that it runs")
        sys.exit(2)
    for name in MODELS:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="mskray-gpu-") as folder:
            work = work_of(name, folder, options.small)
            for training in (True, False):
                yield case(name, work, training, device, options)


def case(name: str, work: Any, training: bool, device: Any, options: argparse.Namespace) -> Case:
    from gpu_models import peak

    seconds = 0.2 if options.small else options.seconds
    limit = partial(bare, work, training, device, options.compile, False, seconds)
    # An epoch as long as asked for, from what the device can do.
    shard_rows = work.cohort.count("train")
    wanted = limit() * seconds
    longer = work.times(max(1, round(wanted / shard_rows)))
    waiting: dict[str, list[float]] = {OURS: [], STREAMED: []}
    subjects: dict[str, Callable[[], float]] = {
        OURS: partial(ours, longer, training, device, options.compile, "memory", waiting[OURS]),
        LIMIT: limit,
        EAGER: partial(bare, work, training, device, "off", True, seconds),
    }
    if training:
        subjects[STREAMED] = partial(ours, longer, True, device, options.compile, "stream", waiting[STREAMED])
    runs = alternate(subjects, options.rounds)
    what = f"{name}, {'training' if training else 'inference'} at {_size(work)} px, batches of {work.batch}"
    if options.compile != "off":
        what += f", compiled ({options.compile}) but for fp32"
    told = ((subject, _spread(shares)) for subject, shares in waiting.items() if shares)
    notes = [f"{subject}: the host gathers and sends for {share}" for subject, share in told]
    each = flops(work, training, device)
    notes.append(f"{each / 1e9:,.2f} GFLOP an image")
    if most := peak(device):
        used = statistics.median(runs[OURS]) * each / most
        notes.append(f"model FLOP utilisation {used:.1%} of {most / 1e12:,.0f} TFLOP/s (dense bf16)")
    factor = statistics.median(ours / theirs for ours, theirs in zip(runs[OURS], runs[EAGER], strict=True))
    notes.append(f"{factor:.2f} times fp32 eager, on {_device(device)}")
    for note in notes:
        tell(f"  {note}")
    return Case(what, "images/s", OURS, runs, [Reach(LIMIT, _REACH)], notes)


def bare(work: Any, training: bool, device: Any, compile_as: str, eager: bool, seconds: float) -> float:
    """Images/s of the bare step over some seconds."""
    import torch
    from gpu_models import Bare

    benchmark = torch.backends.cudnn.benchmark
    subject = Bare(work, device, compile_as, eager)
    step = subject.step(training)
    for _ in range(_WARM_STEPS):
        step()
    _wait(device)
    steps, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        for _ in range(5):
            step()
        _wait(device)
        steps += 5
    torch.backends.cudnn.benchmark = benchmark
    _free(device)
    return steps * work.batch / passed


def ours(work: Any, training: bool, device: Any, compile_as: str, cache: str, waiting: list[float]) -> float:
    """Images/s of the loop, but for its first epoch or first pass; adds its shares of waiting for data."""
    with tempfile.TemporaryDirectory(prefix="mskray-gpu-run-") as folder:
        trainer, readers = _trainer(work, training, device, compile_as, cache, Path(folder))
        try:
            if training:
                trainer.run()
                found = trainer.position.history[1:]
                waiting.extend(entry["wait_share"] for entry in found)
                return len(found) / sum(1 / entry["images_per_s"] for entry in found)
            trainer.validate()
            started = time.perf_counter()
            trainer.validate()
            return float(trainer.work.validation.rows / (time.perf_counter() - started))
        finally:
            readers.close()
            del trainer
            _free(device)


def _trainer(work: Any, training: bool, device: Any, compile_as: str, cache: str, folder: Path) -> Any:
    """The loop as `mskray.training.local` runs it, and its readers."""
    from mskray.storage import locate
    from mskray.training.assignment import Assignment
    from mskray.training.feed import describe_split, hold
    from mskray.training.loop import Trainer
    from mskray.training.memory import keep_memory
    from mskray.training.readers import Threads
    from mskray.training.session import Session

    keep_memory()
    config, readers = work.recipe.config, Threads()
    loop = config.loop.model_copy(update={"epochs": _EPOCHS, "checkpoint_minutes": 0.0})
    recipe = replace(work.recipe, config=config.model_copy(update={"loop": loop}))
    train, _ = describe_split(work.cohort, "train", work.samples, config.data.input_format)
    # A training is judged on a single shard, so that little but training happens.
    validation = train.only(0) if training else train
    held = [hold(readers, split, "", 1) if cache == "memory" else () for split in (train, validation)]
    session = Session(locate(folder), lambda event: None, readers, device)
    given = Assignment(recipe, train, validation, *held, None, lambda event: None, compile=compile_as)
    return Trainer(given, work.state, session), readers


def flops(work: Any, training: bool, device: Any) -> float:
    from gpu_models import Bare

    found = Bare(work, device).flops(training)
    _free(device)
    return found


def _size(work: Any) -> int:
    return int(work.recipe.config.data.image_size)


def _spread(shares: list[float]) -> str:
    return f"{statistics.median(shares):.1%} of the time ({min(shares):.1%} to {max(shares):.1%})"


def _device(device: Any) -> str:
    import torch

    if device.type != "cuda":
        return "a CPU"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: Any) -> None:
    """Give memory back, and forget what was compiled."""
    import gc

    import torch

    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda:0", help="cpu only shows that it runs")
    parser.add_argument("--compile", choices=("off", "on", "graphs"), default="off", help="as resources.compile")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of an epoch of ours and of a bare run")


if __name__ == "__main__":
    main(cases, options=_options)
