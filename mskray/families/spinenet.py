"""SpineNet: several grades of a disc from one network, with a branch for each (Jamaludin et al. 2016).

    mskray ingest phantom-discs --out cohorts/discs
    mskray train jobs/configs/phantom-spinenet.yaml
    mskray train jobs/configs/knee-spinenet.yaml         radiographs: any tasks of any such cohort

Learns every task that `tasks.names` names, by default all that the cohort has but second readings; samples without a
label of a task say nothing of it. A prediction is the mean over 54 views of the disc unless `predict.augment` is off.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import SECOND, ImageFormat
from mskray.errors import UserError
from mskray.explain.hotspots import Copies, hotspots
from mskray.families.base import Family, Images, Prediction, Predictor, register
from mskray.families.spinenet_config import SEARCH_SPACE, SPACES, SpineNetConfig
from mskray.families.torch_predictor import TorchPredictor
from mskray.imaging.intensity import to_dtype
from mskray.models.vgg_m import SMALLEST_SIDE, SpineNet
from mskray.progress import Progress
from mskray.space import Space
from mskray.training.disc_samples import DiscSamples, StackInput, smallest_stored, stack_input
from mskray.training.disc_views import Views, augment, look, views_of_test
from mskray.training.driver import driver_of
from mskray.training.feed import describe_split
from mskray.training.fit import fit
from mskray.training.means import channel_means
from mskray.training.multitask import multitask_loss, multitask_metrics, spans
from mskray.training.recipe import Answer, Batch, Recipe, to_batch
from mskray.training.run import Run

_TOGETHER = 64
"""Views of discs that go through the network at once, unless the discs alone are more."""


@dataclass(frozen=True)
class SpineNetRecipe(Recipe):
    """SpineNet's side of the shared loop."""

    config: SpineNetConfig
    given: StackInput
    tasks: tuple[Task, ...]
    compiles: ClassVar[bool] = True

    def build(self) -> SpineNet:
        network = self.config.network
        tasks = {task.name: len(task.classes) for task in self.tasks}
        return SpineNet(tasks, *self.given.shape, network.branch, network.width, network.dropout)

    def initial_state(self, means: np.ndarray) -> dict[str, Tensor]:
        """Draw the first weights; `means` (slices,) of the training inputs are what the network subtracts."""
        torch.manual_seed(self.config.loop.seed)
        built = self.build()
        built.mean.copy_(torch.from_numpy(means).float().view(-1, 1, 1))
        return built.state_dict()

    def augment(self, batch: Batch) -> Batch:
        return {**batch, "image": augment(batch["image"], self.given.shape, self.config.augment)}

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Sum of the tasks' cross-entropies by `tasks.weights`, each balanced by class as the loop asks."""
        logits = network(batch["image"])
        balance = [None if class_weights is None else class_weights[span] for span in spans(self.tasks)]
        weights = [self.config.tasks.weights.get(task.name, 1.0) for task in self.tasks]
        return multitask_loss(
            [logits[task.name] for task in self.tasks],
            batch["label"],
            weights,
            balance,
            self.config.loop.label_smoothing,
        )

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """What is said of the middle of the context; `parts` has every task's probabilities."""
        return self._answer(network, batch["image"][self.given.middle])

    def averaged(self, network: nn.Module, batch: Batch) -> Answer:
        """The mean of what is said of the 54 views (`views_of_test`), 27 to a network that saw no order reversed."""
        images, shape = batch["image"], self.given.shape
        views = list(views_of_test(images, shape, both_orders=self.config.augment.slice_flip > 0))
        said: list[Mapping[str, Tensor]] = []
        # Several views of a few discs at once: fc6's weights, 150 MB a task, are read once for all of them.
        together = max(1, _TOGETHER // len(images))
        for start in range(0, len(views), together):
            some = views[start : start + together]
            joined = Views(torch.cat([each.matrix for each in some]), torch.cat([each.slices for each in some]))
            seen = look(images.repeat(len(some), 1, 1, 1), joined, shape)
            said.append(self._answer(network, seen).parts)
        parts = {
            task.name: torch.cat([each[task.name] for each in said]).unflatten(0, (len(views), -1)).mean(dim=0)
            for task in self.tasks
        }
        return Answer(parts[self.tasks[0].name], parts)

    def judged(self, answer: Answer) -> Tensor:
        return torch.cat([answer.parts[task.name] for task in self.tasks], dim=1)

    def judge(self, judged: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return multitask_metrics(judged, labels, self.tasks)

    def _answer(self, network: nn.Module, images: Tensor) -> Answer:
        logits = network(images)
        parts = {task.name: logits[task.name].float().softmax(dim=1) for task in self.tasks}
        return Answer(parts[self.tasks[0].name], parts)


class SpineNetPredictor(TorchPredictor):
    """A fitted SpineNet: each image's probabilities of every task, those of the first for the whole."""

    recipe: SpineNetRecipe

    @torch.inference_mode()
    def __call__(self, images: Images) -> Prediction:
        answer = self.recipe.averaged if self.recipe.config.predict.augment else self.recipe.answer
        return self.prediction(answer(self.network, self._batch(images)))

    def hotspots(self, images: Images, task: str, target: np.ndarray, copies: int) -> tuple[np.ndarray, np.ndarray]:
        """See `StackExplainer.hotspots`; copies differ as those that the network was trained with."""
        canvas, given = self._batch(images)["image"], self.recipe.given
        many = Copies(copies, self.recipe.config.augment)
        chosen = torch.from_numpy(np.asarray(target, np.int64))
        # Of one task, one branch is asked; of an unknown one all are, and the refusal names them.
        known = any(task == each.name for each in self.recipe.tasks)
        network = partial(self.network, tasks={task}) if known else self.network
        maps = hotspots(network, canvas, task, chosen, shape=given.shape, copies=many)
        return canvas[given.middle].float().cpu().numpy(), maps.cpu().numpy()

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return one image as the context of the network's input, (slices, rows, columns) in the cohort's dtype.

        Raises:
            UserError: a picture where the network learned from stacks, or the other way round.
        """
        stack = bool(self.image.get("slices"))
        if (pixels.ndim == 3) != stack:
            raise UserError(
                f"an image of {' × '.join(map(str, pixels.shape))} px for a spinenet that learned from "
                f"{'discs, which are stacks of slices: give it a cohort of discs' if stack else 'radiographs'}"
            )
        return (
            self.recipe.given.context(to_dtype(pixels, self.image["dtype"])) if stack else super().prepare(pixels)[None]
        )

    def _batch(self, images: Images) -> Batch:
        return to_batch({"image": np.stack([self.prepare(pixels) for pixels in images.pixels])}, self.device)


# Tasks whose answer depends on which side of the body a slice is, as the RSNA 2024 lumbar data name them.
_SIDES = ("left_", "right_")


@register
class SpineNetFamily(Family):
    name: ClassVar[str] = "spinenet"
    summary: ClassVar[str] = "several tasks at once: multi-task VGG-M with a branch point, on discs or radiographs"
    kinds: ClassVar[tuple[str, ...]] = ("disc", "radiograph")
    Config: ClassVar[type[SpineNetConfig]] = SpineNetConfig
    judged_by: ClassVar[str] = "tasks.balanced_accuracy"
    learns: ClassVar[str] = "several tasks at once"

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return the cohort's first task; which are learned is in the config, not in the job."""
        if name:
            raise UserError(f"family {self.name} learns several tasks: give tasks.names=[{name}] in place of task")
        return super().task(cohort, name)

    def tasks(self, cohort: Cohort, config: SpineNetConfig) -> tuple[Task, ...]:
        """Return the tasks to learn, in order: the named ones, or all that are no second reading of another.

        Raises:
            UserError: the cohort lacks one.
        """
        if config.tasks.names:
            return tuple(cohort.task(name) for name in config.tasks.names)
        known = {task.name for task in cohort.tasks}
        again = {name for name in known if name.endswith(SECOND) and name.removesuffix(SECOND) in known}
        return tuple(task for task in cohort.tasks if task.name not in again)

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, cohort: Cohort, config: SpineNetConfig, task: Task) -> None:
        self.check_kind(cohort)
        tasks = self.tasks(cohort, config)
        names = [each.name for each in tasks]
        strangers = sorted(set(config.tasks.weights) - set(names))
        if strangers:
            raise UserError(
                f"tasks.weights names {', '.join(strangers)}: the tasks to learn are {', '.join(names)}; leave it out, "
                "or add it to tasks.names"
            )
        if not any(config.tasks.weights.get(name, 1.0) for name in names):
            raise UserError("tasks.weights gives every task the weight 0: nothing would be learned")
        sided = [name for name in names if name.startswith(_SIDES)]
        if sided and cohort.image.slices and config.augment.slice_flip:
            raise UserError(
                f"augment.slice_flip = {config.augment.slice_flip:g}: slices in reverse show a spine's mirror image, "
                f"in which {', '.join(sided)} would be of the other side: set augment.slice_flip=0"
            )
        for each in tasks:
            self.check_classes(cohort, each, "leave it out of tasks.names")
        if cohort.image.slices and config.data.intensity != "stored":
            raise UserError(
                f"data.intensity = {config.data.intensity}: a disc is stored with its vertebral bodies at mid-grey, "
                "which must stay: leave the key out"
            )
        if not cohort.image.slices and config.data.slices != 1:
            raise UserError(
                f"data.slices = {config.data.slices}: cohort {cohort.location} holds radiographs, which have one: set "
                "data.slices=1"
            )
        given = self._given(cohort, config)
        if min(given.rows, given.columns) < SMALLEST_SIDE:
            needed = 2 * SMALLEST_SIDE
            least = smallest_stored(needed)
            cure = f"for discs set image_size to {needed} or more"
            if cohort.image.slices and cohort.image.size < least:
                cure += f", and ingest them with --size {least} or more: this cohort's are {cohort.image.size} px wide"
            raise UserError(
                f"data.image_size = {config.data.image_size} makes inputs of {given.rows} × {given.columns} px, the "
                f"network needs {SMALLEST_SIDE} a side: {cure}"
            )

    def fit(self, cohort: Cohort, config: SpineNetConfig, run: Run) -> Fitted:
        tasks, given = self.tasks(cohort, config), self._given(cohort, config)
        # The bundle's config names the tasks, in their order.
        named = config.tasks.model_copy(update={"names": tuple(task.name for task in tasks)})
        config = config.model_copy(update={"tasks": named})
        recipe = SpineNetRecipe(config, given, tasks)
        context = given.context if cohort.image.slices else None
        samples = DiscSamples(tuple(task.column for task in tasks), context, config.data.image_size)
        _tell_of_absent(cohort, tasks, run)
        split, _ = describe_split(cohort, "train", samples, config.data.input_format)

        def initial() -> dict[str, Tensor]:
            with closing(driver_of(run)) as driver:
                return recipe.initial_state(channel_means(driver.readers, split, given, run.report))

        trained = fit(recipe, samples, initial, cohort, run)
        fitted = self.fitted(cohort, config, tasks[0], trained)
        sample = "disc" if fitted.kind == "disc" else "image"
        return replace(fitted, tasks={task.name: task.classes for task in tasks}, sample=sample)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = SpineNetConfig.model_validate(fitted.config)
        tasks = tuple(Task(name=name, classes=fitted.tasks[name]) for name in config.tasks.names)
        given = stack_input(ImageFormat.model_validate(fitted.image), config.data.image_size, config.data.slices)
        return SpineNetPredictor(SpineNetRecipe(config, given, tasks), fitted, device)

    def search_space(self) -> Space:
        return SEARCH_SPACE

    def spaces(self) -> Mapping[str, Space]:
        return SPACES

    def _given(self, cohort: Cohort, config: SpineNetConfig) -> StackInput:
        """Return what the network is given of the cohort's images. Raises UserError where they are too small."""
        try:
            return stack_input(cohort.image, config.data.image_size, config.data.slices)
        except ValueError as error:
            raise UserError(
                f"cohort {cohort.location} is too small for data.image_size = {config.data.image_size}, data.slices = "
                f"{config.data.slices} ({error}): lower them, or ingest with a larger --size"
            ) from None


def _tell_of_absent(cohort: Cohort, tasks: tuple[Task, ...], run: Run) -> None:
    """Say which classes no training sample has: they cannot be learned."""
    for task in tasks:
        counts = cohort.manifest.counts.splits["train"].labels[task.name]
        absent = [name for name in task.classes if not counts.get(name)]
        if absent:
            run.report(Progress(f"no training sample of {task.name} is {', '.join(absent)}: it will never be called"))
