"""The config of `spinenet`: the paper's recipe as defaults."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mskray.config import Section, setting
from mskray.models.vgg_m import BRANCHES, SMALLEST_SIDE
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.config import DataSection, LoopSection, Metric, OptimizerSection, ScheduleSection, TorchConfig
from mskray.training.disc_views import DiscAugment

_PAPER = "SpineNet, section 4"


class StackData(DataSection):
    """What the loop reads and in what portions."""

    image_size: int = setting(
        224,
        "columns of the network's input; a disc's has half as many rows, a radiograph's as many",
        unit="px",
        source=_PAPER,
        ge=SMALLEST_SIDE,
        le=2048,
    )
    slices: int = setting(9, "slices of the network's input; 1 for radiographs", source=_PAPER, ge=1, le=64)
    batch_size: int = setting(256, "samples per worker and step", unit="samples", source=_PAPER, ge=1, le=4096)
    shuffle_window: int = setting(
        2048, "samples among which order is random, beside the order of shards", unit="samples", ge=64, le=1_000_000
    )


class TasksSection(Section):
    """What is learned at once."""

    names: tuple[str, ...] = setting(
        (), "tasks to learn, of which the first stands for the whole in predictions; none for all of the cohort's"
    )
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = setting(
        {}, "weight of a task in the loss, by name; 1 where it is not given", source="SpineNet, section 2"
    )

    @model_validator(mode="after")
    def _named_once(self) -> "TasksSection":
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"tasks.names = {', '.join(self.names)}: name each task once")
        return self


class SpineNetSection(Section):
    """The network."""

    branch: Literal[BRANCHES] = setting(  # type: ignore[valid-type]
        "conv5", "last layer that tasks share; none for separate networks", source="SpineNet, table 2"
    )
    width: float = setting(1.0, "share of VGG-M-1024's channels and units", gt=0, le=2)
    dropout: float = setting(
        0.5, "share of fc6's and fc7's units left out in training", source="Chatfield et al. 2014", ge=0, lt=1
    )


class SpineNetOptimizer(OptimizerSection):
    """How the weights move."""

    name: Literal["adamw", "adam", "sgd"] = setting("sgd", "the optimizer", source=_PAPER)
    learning_rate: float = setting(1e-3, "peak learning rate", source=_PAPER, gt=0, le=10)
    weight_decay: float = setting(5e-4, "decay of weights (decoupled for adamw)", source=_PAPER, ge=0, le=1)


class SpineNetSchedule(ScheduleSection):
    """How the learning rate moves."""

    name: Literal["none", "plateau", "step", "cosine", "one_cycle"] = setting("plateau", "the schedule", source=_PAPER)
    factor: float = setting(0.1, "plateau and step: what the rate is multiplied by", source=_PAPER, gt=0, lt=1)
    patience: int = setting(
        25, "plateau: epochs without improvement before the rate falls", unit="epochs", ge=0, le=100
    )


class SpineNetLoop(LoopSection):
    """How long, how exactly, and when to stop; figures are means over the tasks."""

    epochs: int = setting(1000, "passes over the training split", unit="epochs", source=_PAPER, ge=1, le=10_000)
    class_weights: Literal["none", "inverse_frequency"] = setting(
        "inverse_frequency", "weight of each class in its task's loss", source="SpineNet, section 2"
    )
    metric: Metric = setting(
        "balanced_accuracy", "validation metric that picks the best epoch, steers plateau and stopping"
    )


class PredictSection(Section):
    """How a finished network predicts."""

    augment: bool = setting(
        True, "give the mean over 54 views: 9 places × 2 orders × 3 windows of slices; else one", source=_PAPER
    )


class SpineNetConfig(TorchConfig):
    """Config of the `spinenet` family."""

    data: StackData = StackData()
    tasks: TasksSection = TasksSection()
    network: SpineNetSection = SpineNetSection()
    optimizer: SpineNetOptimizer = SpineNetOptimizer()
    schedule: SpineNetSchedule = SpineNetSchedule()
    augment: DiscAugment = DiscAugment()
    loop: SpineNetLoop = SpineNetLoop()
    predict: PredictSection = PredictSection()


SEARCH_SPACE: Space = {
    "network.branch": choice(*BRANCHES),
    "network.dropout": uniform(0.0, 0.6),
    "optimizer.learning_rate": loguniform(1e-4, 1e-1),
    "optimizer.weight_decay": loguniform(1e-5, 1e-2),
    "augment.rotation": uniform(0.0, 20.0),
}

_SMALL = ("upper_endplate", "lower_endplate", "upper_marrow", "lower_marrow")
_BRANCH = {"network.branch": grid(*BRANCHES)}
# Section 2: 1 for every task "works well", others are to be tuned for different problems. Ours: a trunk that is learned
# from everything learns what is large first, and the four small changes with it where they weigh more. For cohorts with
# the six tasks of the paper.
_WEIGHTS = {"tasks.weights": grid({}, *(dict.fromkeys(_SMALL, weight) for weight in (2.0, 5.0, 10.0)))}
SPACES: Mapping[str, Space] = {"table-2": _BRANCH, "task-weights": _WEIGHTS, "table-2-task-weights": _BRANCH | _WEIGHTS}
"""Table 2's branch points and section 2's task weights."""
