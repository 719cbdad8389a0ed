"""What `bench_gpu.py` measures: networks, what they read, bare steps, and what devices can do at most."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stack_cohort import discs, write_cohort
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mskray.cohorts import Cohort
from mskray.cohorts.schema import ABNORMALITY, ImageFormat
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.imaging.regions import fit_to_format
from mskray.storage import locate
from mskray.training.precision import autocast_dtype, prepare
from mskray.training.recipe import Recipe, as_tensor, scaled
from mskray.training.run import Resources, Run, Trained
from mskray.training.samples import Samples
from mskray.training.schedules import make_optimizer
from mskray.verbs.train import parse_job

PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L4": 121e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, from NVIDIA's data sheets (those with sparsity halved)."""
_SEED, _SHARD_ROWS = 0, 128
_FIT = {"schedule": {"name": "none"}, "optimizer": {"name": "adamw", "learning_rate": 1e-5}}


@dataclass(frozen=True)
class Model:
    """A family's job; `small` are the sections that make it little work."""

    job: dict[str, Any]
    small: dict[str, Any]
    side: int
    batch: int


def _classifier(backbone: str, batch: int) -> Model:
    job = {"family": "classifier", "network": {"backbone": backbone, "weights": "none"}, **_FIT}
    return Model(job, {}, 224, batch)


MODELS = {
    "resnet50": _classifier("resnet50", 256),
    "densenet169": _classifier("densenet169", 128),
    "vgg16": _classifier("vgg16", 128),
    "kalm of vgg16, its local training": Model(
        {"family": "kalm", "network": {"backbone": "vgg16", "weights": "none"}, "local": _FIT, **_FIT},
        {"network": {"backbone": "resnet18", "weights": "none", "size": 64}},
        448,
        48,
    ),
    "spinenet": Model(
        {"family": "spinenet", "predict": {"augment": False}, **_FIT}, {"network": {"width": 0.1}}, 224, 128
    ),
}
_SMALL_SIDE, _SMALL_BATCH = 64, 4


@dataclass(frozen=True)
class Work:
    """A recipe with what it learns from.

    Args:
        cohort: its train split lists the same shards again and again, so that an epoch is long and little is stored.
    """

    recipe: Recipe
    samples: Samples
    state: dict[str, Tensor]
    cohort: Cohort

    @property
    def batch(self) -> int:
        return self.recipe.config.data.batch_size

    def times(self, count: int) -> "Work":
        """The same with every shard listed `count` times."""
        manifest = self.cohort.manifest
        longer = manifest.model_copy(update={"shards": manifest.shards * count})
        return replace(self, cohort=replace(self.cohort, manifest=longer))


def work_of(name: str, folder: str, small: bool) -> Work:
    """Write a model's cohort and return its recipe as the family makes it; of several trainings the last."""
    import sys

    model = MODELS[name]
    discs_wanted = model.job["family"] == "spinenet"
    side = 2 * _SMALL_SIDE if small and model.job["family"] == "kalm" else model.side
    side = _SMALL_SIDE if small and model.job["family"] == "classifier" else side
    cohort = _discs(folder, small) if discs_wanted else _phantoms(folder, side, 16 if small else 384)
    # A disc's input is twice as wide as its image is high: 84 px is what the network needs at least.
    size = (84 if small else 112) if discs_wanted else side
    data = {"image_size": size, "batch_size": _SMALL_BATCH if small else model.batch, "shuffle_window": 8192}
    data |= {"slices": 3 if small else 5} if discs_wanted else {}
    sections = {**model.job, **(model.small if small else {})}
    _, family, config = parse_job({**sections, "data": data, "cohort": str(cohort.location), "out": "unused"}, name)
    taken: list[Work] = []

    def fit(recipe: Recipe, samples: Samples, initial: Callable[[], Any], cohort: Cohort, run: Run) -> Trained:
        taken.append(Work(recipe, samples, initial(), cohort))
        names = tuple(each for task in recipe.tasks or (run.task,) for each in task.classes)
        return Trained(taken[-1].state, [{}], {}, dict.fromkeys(names, 1))

    module: Any = sys.modules[type(family).__module__]
    before, module.fit = module.fit, fit
    try:
        run = Run(locate(tempfile.gettempdir()), "benchmark", family.task(cohort, ""), Resources(), local=True)
        family.fit(cohort, config, run)
    finally:
        module.fit = before
    return taken[-1]


def _phantoms(folder: str, side: int, count: int) -> Cohort:
    spec = PhantomSpec(patients=count, seed=_SEED, image_size=max(96, side))
    pictures, labels = [], []
    for study in studies(spec):
        for view in range(len(study.views)):
            pictures.append(fit_to_format(render(spec, study.index, view).pixels, side, "pad", "uint8")[0])
            labels.append(study.label)
        if len(pictures) >= count:
            break
    images, known = np.stack(pictures[:count]), {ABNORMALITY.name: np.array(labels[:count])}
    image = ImageFormat(size=side, dtype="uint8", fit="pad")
    place = Path(folder) / f"phantoms-{side}"
    return write_cohort(place, _splits(images, known), (ABNORMALITY,), image, "radiograph", _SHARD_ROWS)


def _discs(folder: str, small: bool) -> Cohort:
    return write_cohort(Path(folder) / "discs", _splits(*discs(16 if small else 384, _SEED)), shard_rows=_SHARD_ROWS)


def _splits(images: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    return dict.fromkeys(("train", "validation"), (images, labels))


class Bare:
    """The step without a loop: the same network and arithmetic on one batch that lies on the device as it was stored.

    Args:
        eager: fp32 in the usual memory layout, an optimizer that is not fused, never compiled.
    """

    def __init__(self, work: Work, device: torch.device, compile_as: str = "off", eager: bool = False) -> None:
        self.recipe, self.device, self.graphs = work.recipe, device, compile_as == "graphs" and not eager
        self.network = work.recipe.build()
        self.network.load_state_dict(work.state)
        learning = [each for each in self.network.parameters() if each.requires_grad]
        if eager:
            self.network.to(device)
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=False)
            self.dtype = None
        else:
            prepare(self.network, device, compile_as)
            self.optimizer = make_optimizer(self.network.parameters(), work.recipe.config.optimizer)
            self.dtype = autocast_dtype(work.recipe.config.loop.precision, device)
        self.given = self._batch(work)

    def _batch(self, work: Work) -> dict[str, Tensor]:
        cohort = work.cohort
        columns = ["image", *work.samples.columns]
        arrays = work.samples.load(
            cohort.read_shard(cohort.shards("train")[0], columns), work.recipe.config.data.input_format
        )
        enough = -(-work.batch // len(arrays["label"]))
        return {
            name: as_tensor(np.concatenate([values] * enough)[: work.batch]).to(self.device)
            for name, values in arrays.items()
        }

    def train(self, given: dict[str, Tensor] | None = None) -> None:
        """One step."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        batch = self.recipe.augment(scaled(given or self.given))
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss = self.recipe.loss(self.network, batch, None)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def answer(self, given: dict[str, Tensor] | None = None) -> None:
        """One batch's answers."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            self.recipe.judged(self.recipe.answer(self.network, scaled(given or self.given))).float()

    def step(self, training: bool) -> Callable[..., None]:
        """What is timed, with the network in the mode for it."""
        if training:
            self.recipe.set_training(self.network, 0)
            return self.train
        self.network.eval()
        return self.answer

    def flops(self, training: bool) -> float:
        """FLOPs of one image, counted by PyTorch: a multiplication with its addition is two."""
        few = {name: values[:2] for name, values in self.given.items()}
        with FlopCounterMode(display=False) as counter:
            self.step(training)(few)
        return counter.get_total_flops() / 2


def peak(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a device, None where its name is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAKS.items() if part in name), None)
