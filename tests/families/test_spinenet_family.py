"""The spinenet family: what its recipe makes of a batch, what its predictor says, and which jobs it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_spinenet import MEANS, config, fitted, recipe
from stack_cohort import PICTURES, SIDE, STACKS, TILT, discs, write_cohort

from mskray.bundles import card, save_bundle
from mskray.cohorts import Task
from mskray.cohorts.schema import ImageFormat
from mskray.ensemble import load
from mskray.errors import UserError
from mskray.families import Images, Predictor, family
from mskray.families.spinenet import SpineNetRecipe
from mskray.families.spinenet_config import SpineNetConfig
from mskray.prediction.batch import probability_columns
from mskray.prediction.tasks import answers_tasks, shared_tasks
from mskray.storage import locate
from mskray.training.disc_views import look, views_of_test
from mskray.training.recipe import to_batch


def predictor(**sections: dict) -> Predictor:
    return family("spinenet").predictor(fitted(recipe(**sections)))


def test_the_defaults_are_the_paper_s_recipe() -> None:
    given = SpineNetConfig()
    assert (given.data.image_size, given.data.slices, given.data.batch_size) == (224, 9, 256)
    optimizer = given.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (optimizer.learning_rate, given.schedule.name, given.schedule.factor) == (1e-3, "plateau", 0.1)
    assert (given.loop.epochs, given.loop.class_weights) == (1000, "inverse_frequency")
    assert (given.network.branch, given.network.width, given.predict.augment) == ("conv5", 1.0, True)


def test_the_means_are_the_network_s() -> None:
    state = recipe().initial_state(MEANS)
    torch.testing.assert_close(state["mean"].flatten(), torch.from_numpy(MEANS).float())


def batch(labels: list[list[int]]) -> dict[str, torch.Tensor]:
    stacks, _ = discs(len(labels), seed=0)
    return to_batch({"image": stacks, "label": np.array(labels)}, torch.device("cpu"))


def gradients(made: SpineNetRecipe, labels: list[list[int]], balance: torch.Tensor | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = made.build()
    made.loss(network, made.augment(batch(labels)), balance).backward()
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def test_a_task_without_labels_in_the_batch_is_not_taught() -> None:
    found = gradients(recipe(), [[0, -1], [1, -1], [2, -1]], torch.ones(5))
    assert all(torch.isfinite(each).all() for each in found.values())
    assert any(each.any() for name, each in found.items() if name.startswith("shared."))
    assert any(each.any() for name, each in found.items() if name.startswith("branches.task_side."))
    assert not any(each.any() for name, each in found.items() if name.startswith("branches.task_type."))


def test_a_task_of_weight_nothing_is_not_taught() -> None:
    found = gradients(recipe(), [[0, 1], [1, 0]], None)
    assert any(each.any() for name, each in found.items() if name.startswith("branches.task_type."))
    weights = {"names": ["side", "type"], "weights": {"type": 0}}
    made = SpineNetRecipe(config(tasks=weights), recipe().given, (SIDE, TILT))
    found = gradients(made, [[0, 1], [1, 0]], None)
    assert not any(each.any() for name, each in found.items() if name.startswith("branches.task_type."))


def test_classes_are_balanced_task_by_task() -> None:
    """The weights of both tasks stand one after the other: a class of weight nothing teaches nothing."""
    found = gradients(recipe(), [[2, 1], [2, 1]], torch.tensor([1.0, 1, 0, 1, 1]))
    assert not any(each.any() for name, each in found.items() if name.startswith("branches.task_side."))
    assert any(each.any() for name, each in found.items() if name.startswith("branches.task_type."))


def test_augmentation_gives_inputs_of_the_network_s_shape() -> None:
    made = recipe().augment(batch([[0, 1], [1, 0]]))
    assert made["image"].shape == (2, 3, 42, 84)
    assert made["label"].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("augmented", [False, True])
def test_every_task_is_answered_and_the_first_stands_for_the_whole(augmented: bool) -> None:
    predict = predictor(predict={"augment": augmented})
    stacks, _ = discs(3, seed=1)
    said = predict(Images(list(stacks)))
    assert {name: part.shape for name, part in said.parts.items()} == {"side": (3, 3), "type": (3, 2)}
    np.testing.assert_array_equal(said.probabilities, said.parts["side"])
    for part in said.parts.values():
        np.testing.assert_allclose(part.sum(axis=1), 1, atol=1e-5)
    alone = predict(Images([stacks[1]])).parts["type"]
    np.testing.assert_allclose(alone[0], said.parts["type"][1], atol=1e-5)


def test_a_prediction_is_the_mean_over_54_views() -> None:
    made, images = recipe(), batch([[0, 1]])
    network = made.build().eval()
    with torch.inference_mode():
        averaged, single = made.averaged(network, images), made.answer(network, images)
    assert not torch.allclose(averaged.probabilities, single.probabilities, atol=1e-7)
    # A stack that is the same everywhere looks the same from everywhere.
    same = {"image": torch.full((1, *STACKS.shape), 0.3)}
    with torch.inference_mode():
        averaged, single = made.averaged(network, same), made.answer(network, same)
    torch.testing.assert_close(averaged.probabilities, single.probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize("discs", [1, 3, 50], ids=["many views at once", "the last fewer", "a view at once"])
def test_views_that_go_together_say_what_each_says_alone(discs: int) -> None:
    made, images = recipe(), batch([[0, 1]] * discs)
    network = made.build().eval()
    contexts = images["image"]
    with torch.inference_mode():
        views = list(views_of_test(contexts, made.given.shape))
        alone = [network(look(contexts, each, made.given.shape)) for each in views]
        together = made.averaged(network, images).parts
    for task in made.tasks:
        expected = torch.stack([each[task.name].softmax(dim=1) for each in alone]).mean(dim=0)
        torch.testing.assert_close(together[task.name], expected, atol=1e-6, rtol=0)


def test_a_stack_of_other_sides_is_brought_to_the_stored_ones() -> None:
    predict = predictor()
    stack = np.repeat(np.repeat(discs(1, seed=2)[0][0], 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(predict.prepare(stack), discs(1, seed=2)[0][0])


@pytest.mark.parametrize("shape", [(64, 64), (120,)])
def test_a_picture_is_no_disc(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="for a spinenet that learned from discs, which are stacks of slices"):
        predictor()(Images([np.zeros(shape, np.uint8)]))


def test_the_bundle_knows_its_tasks(tmp_path: Path) -> None:
    save_bundle(fitted(recipe()), locate(tmp_path), "f00")
    assert answers_tasks(str(tmp_path))
    voter = load(str(tmp_path))
    assert voter.tasks == {"side": SIDE.classes, "type": TILT.classes}
    columns = probability_columns(voter(Images(list(discs(2, seed=0)[0]))), voter.classes, voter.tasks)
    wanted = [f"prob_{name}" for name in SIDE.classes]
    wanted += [f"side:prob_{name}" for name in SIDE.classes] + [f"type:prob_{name}" for name in TILT.classes]
    assert list(columns) == wanted
    text = (tmp_path / "card.md").read_text()
    assert text == card(voter.bundles[0])
    assert "tells front from middle from back (task `side`), lying from standing (task `type`) on discs" in text
    assert "- training discs with a label of type: 6: lying 3 (50%), standing 3 (50%)" in text
    assert "- images of 5 × 72 × 120 px, uint8" in text


def test_shared_tasks(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path, {"test": discs(4, seed=0)})
    assert shared_tasks({"type": TILT.classes, "other": ("a", "b")}, cohort, "model") == (TILT,)
    with pytest.raises(UserError, match="has no task of model"):
        shared_tasks({"other": ("a", "b")}, cohort, "model")
    with pytest.raises(UserError, match="those of model are standing, lying"):
        shared_tasks({"type": ("standing", "lying")}, cohort, "model")


def refused(folder: Path, task: str = "", splits=None, written: dict | None = None, **sections: dict) -> str:
    halves = {"train": discs(12, seed=0), "validation": discs(12, seed=1)}
    cohort = write_cohort(folder, splits or halves, **written or {})
    chosen = family("spinenet")
    with pytest.raises(UserError) as error:
        chosen.check(cohort, config(**sections), chosen.task(cohort, task))
    return str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"task": "type"}, r"give tasks.names=\[type\] in place of task"),
        ({"tasks": {"names": ["colour"]}}, "has no task 'colour': its tasks are side, type"),
        ({"tasks": {"weights": {"colour": 2}}}, "tasks.weights names colour: the tasks to learn are side, type"),
        ({"tasks": {"names": ["side"], "weights": {"type": 2}}}, "tasks.weights names type"),
        ({"tasks": {"weights": {"side": 0, "type": 0}}}, "nothing would be learned"),
        ({"data": {"image_size": 224, "slices": 3}}, r"the middle 84 of 120 columns are an input, not 224"),
        ({"data": {"image_size": 84, "slices": 9}}, r"5 slices are stored, fewer than 9"),
        ({"data": {"image_size": 80, "slices": 3}}, "for discs set image_size to 82 or more"),
        ({"data": {"image_size": 41, "slices": 3}}, r"set image_size to 82 or more$"),
        ({"data": {"image_size": 84, "slices": 3, "intensity": "rescaled"}}, "vertebral bodies at mid-grey"),
    ],
)
def test_jobs_that_cannot_be_learned(tmp_path: Path, sections: dict, message: str) -> None:
    found = refused(tmp_path, **sections)
    assert re.search(message, found), found


def test_a_split_without_two_classes_of_a_task_is_refused(tmp_path: Path) -> None:
    stacks, labels = discs(12, seed=0)
    splits = {"train": (stacks, labels), "validation": (stacks, {**labels, "type": np.zeros(12, int)})}
    assert "split validation: task type needs labelled images of at least two classes" in refused(tmp_path, "", splits)


def test_a_task_of_one_side_wants_slices_in_their_order(tmp_path: Path) -> None:
    """In reverse they show the mirror image, whose left is the other side: neither learned so nor averaged over."""
    left = Task(name="left_narrowing", classes=("none", "severe"))
    stacks, labels = discs(12, seed=0, missing=0)
    splits = dict.fromkeys(("train", "validation"), (stacks, {"left_narrowing": labels["type"]}))
    assert "left_narrowing would be of the other side" in refused(tmp_path / "a", "", splits, {"tasks": (left,)})
    cohort = write_cohort(tmp_path / "b", splits, (left,))
    ordered = config(augment={"slice_flip": 0}, predict={"augment": True})
    family("spinenet").check(cohort, ordered, left)
    made = SpineNetRecipe(ordered, recipe().given, (left,))
    seen = []

    def network(images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.extend(images)
        return {"left_narrowing": torch.zeros(len(images), 2)}

    steps = torch.arange(5.0).view(1, 5, 1, 1).expand(1, *made.given.context.shape) / 4
    made.averaged(network, {"image": steps})  # type: ignore[arg-type]
    assert len(seen) == 27
    assert all((each.diff(dim=0) > 0).all() for each in seen)


def test_second_readings_are_no_tasks_unless_they_are_named(tmp_path: Path) -> None:
    again = Task(name="type_second", classes=TILT.classes)
    stacks, labels = discs(12, seed=0)
    cohort = write_cohort(tmp_path, {"train": (stacks, {**labels, "type_second": labels["type"]})}, (SIDE, TILT, again))
    chosen = family("spinenet")
    assert chosen.tasks(cohort, config()) == (SIDE, TILT)
    assert chosen.tasks(cohort, config(tasks={"names": ["type_second"]})) == (again,)


def test_radiographs_need_one_slice(tmp_path: Path) -> None:
    pictures = np.zeros((4, 48, 48), np.uint8)
    labels = {"grade": np.array([0, 1, 0, 1])}
    splits = dict.fromkeys(("train", "validation"), (pictures, labels))
    written = {"tasks": (Task(name="grade", classes=("a", "b")),), "image": PICTURES, "kind": "radiograph"}
    assert "set data.slices=1" in refused(tmp_path / "a", "", splits, written)
    cohort = write_cohort(tmp_path / "b", splits, **written)
    fits = config(data={"image_size": 48, "slices": 1})
    family("spinenet").check(cohort, fits, cohort.tasks[0])
    written["kind"] = "spine"
    assert "reads disc or radiograph cohorts" in refused(tmp_path / "c", "", splits, written)


def test_a_task_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="name each task once"):
        config(tasks={"names": ["side", "side"]})


def test_discs_that_are_too_small_for_any_input_are_ingested_anew(tmp_path: Path) -> None:
    small = ImageFormat(size=100, dtype="uint8", fit="pad", slices=5, rows=60)
    stacks = np.zeros((12, *small.shape), np.uint8)
    labels = discs(12, seed=0, missing=0)[1]
    splits = {"train": (stacks, labels), "validation": (stacks, labels)}
    found = refused(tmp_path, "", splits, {"image": small}, data={"image_size": 60, "slices": 3})
    assert "ingest them with --size 120 or more: this cohort's are 100 px wide" in found
