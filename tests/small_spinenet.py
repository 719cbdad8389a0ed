"""A SpineNet of random weights for the discs of `stack_cohort`: its recipe, and what a bundle of it holds."""

import numpy as np
from stack_cohort import SIDE, STACKS, TILT

from mskray.bundles import Fitted
from mskray.families.spinenet import SpineNetRecipe
from mskray.families.spinenet_config import SpineNetConfig
from mskray.training.disc_samples import stack_input

MEANS = np.array([0.4, 0.45, 0.5])
SMALL = {"data": {"image_size": 84, "slices": 3}, "network": {"width": 0.05}, "predict": {"augment": False}}


def config(**sections: dict) -> SpineNetConfig:
    return SpineNetConfig.model_validate({**SMALL, **sections})


def recipe(tasks=(SIDE, TILT), **sections: dict) -> SpineNetRecipe:
    made = config(**{"tasks": {"names": [task.name for task in tasks]}, **sections})
    return SpineNetRecipe(made, stack_input(STACKS, made.data.image_size, made.data.slices), tasks)


def fitted(made: SpineNetRecipe) -> Fitted:
    image = STACKS.model_dump(mode="json", exclude_defaults=True)
    first = made.tasks[0]
    facts = {"task": first.name, "classes": first.classes, "kind": "disc", "body_parts": ("LSPINE",), "image": image}
    learned = {"history": [], "best": {}, "labels": {f"{t.name}/{c}": 3 for t in made.tasks for c in t.classes}}
    tasks = {task.name: task.classes for task in made.tasks}
    settings, state = made.config.model_dump(mode="json"), made.initial_state(MEANS)
    cohort = {"uri": "s3://bucket/discs", "content_hash": "ab" * 32}
    return Fitted("spinenet", settings, state=state, cohort=cohort, sample="disc", tasks=tasks, **facts, **learned)
