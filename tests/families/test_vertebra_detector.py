"""The vertebra detector: what it refuses, how it is shown spines, that it learns to find bodies and names them."""

from itertools import product

import nibabel
import numpy as np
import pytest
import torch
from spine_run import vertebra_bundle

from mskray.cohorts.corners import read_corners
from mskray.config import validate
from mskray.errors import UserError
from mskray.families import family
from mskray.families.vertebra_detector import (
    TASK,
    VertebraDetectorConfig,
    VertebraDetectorRecipe,
    count_probabilities,
)
from mskray.families.vertebra_finding import load_vertebra_detector
from mskray.imaging.inputs import InputFormat
from mskray.imaging.spine import LEVELS
from mskray.imaging.volumes.volume import Volume
from mskray.storage import locate
from mskray.training.centre_loss import centre_loss
from mskray.training.recipe import to_batch
from mskray.training.spine_samples import BODY, MOST, NONE, PART, SLICES, SpineSamples
from mskray.training.validation import HIGHER_IS_BETTER
from mskray.verbs.find_vertebrae import find_vertebrae

SIZE = 128
STILL = {"rotation": 0, "translation": 0, "scale": 0, "brightness": 0, "contrast": 0, "single": 0}
# Slices right to left, then columns backwards and rows down, 4 mm and 1 mm apart, as NIfTI has it (RAS).
AFFINE = np.array([[-4.0, 0, 0, 16], [0, 1, 0, -64], [0, 0, 1, -64], [0, 0, 0, 1]])
SAME = {"gamma": 0, "coil": 0, "blur": 0, "noise": 0, "cut": 0}


def config(**sections) -> VertebraDetectorConfig:
    network = {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 16}
    return VertebraDetectorConfig.model_validate({"network": network, "data": {"image_size": SIZE}, **sections})


def drawn_spines(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of a cohort: bright bodies on noise, each pushed sideways from the one below; S1 is brighter at its top."""
    rng = np.random.default_rng(seed)
    images = rng.integers(20, 60, (count, 9, SIZE, SIZE), dtype=np.uint8)
    vertebrae = np.empty(count, object)
    for number in range(count):
        left, top, bodies = float(rng.integers(30, 70)), float(rng.integers(2, 8)), []
        for level in LEVELS:
            x, y = round(left), round(top)
            images[number, :, y : y + 12, x : x + 16] = 200
            if level == LEVELS[-1]:
                images[number, :, y : y + 12, x : x + 16] = 120
            ends = [x, y, x + 16, y, x + 16, y + 12, x, y + 12]
            names = [f"{axis}{corner}" for corner, axis in product(range(4), "xy")]
            bodies.append({"level": level, "slice": 4.0, **dict(zip(names, map(float, ends), strict=True))})
            left, top = left + float(rng.uniform(-3, 3)), top + 17
        vertebrae[number] = bodies
    return {"image": images, "vertebrae": vertebrae}


def batch_of(count: int) -> dict[str, torch.Tensor]:
    return to_batch(SpineSamples(SIZE).load(drawn_spines(count), InputFormat(SIZE)), torch.device("cpu"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"augment": {"flip": 0.5}}, "augment.flip"),
        ({"loop": {"class_weights": "inverse_frequency"}}, "loop.class_weights"),
        ({"data": {"image_size": 100}}, "data.image_size"),
        ({"network": {"backbone": "vgg16"}}, "network.backbone"),
        ({"finding": {"slices": 0}}, "finding.slices"),
    ],
)
def test_what_makes_no_sense_for_spines_is_refused(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(VertebraDetectorConfig, data, "test")


def test_a_cohort_of_radiographs_will_not_do(tiny_cohort) -> None:
    chosen, cohort = family("vertebra_detector"), tiny_cohort((), [{}])
    assert chosen.task(cohort, "") == TASK
    with pytest.raises(UserError, match="learns from corners, not from the task 'x'"):
        chosen.task(cohort, "x")
    with pytest.raises(UserError, match="reads spine cohorts"):
        chosen.check(cohort, config(), TASK)


def test_corners_move_with_the_pixels() -> None:
    """The brightest pixels of a moved spine lie inside its moved bodies, and nowhere else."""
    torch.manual_seed(0)
    recipe = VertebraDetectorRecipe(config(augment={**STILL, "rotation": 15, "scale": 0.3}, scanner=SAME))
    made = recipe.augment(batch_of(6))
    for image, corners, kinds in zip(made["image"], made["corners"].numpy(), made["kinds"], strict=True):
        for body, kind in zip(corners, kinds, strict=True):
            if kind == BODY:
                x, y = np.clip(body.mean(axis=0), 0, SIZE - 1).astype(int)
                assert image[1, y, x] > 0.6
                # Just outside the middle of the upper edge there is none.
                x, y = (1.3 * body[:2].mean(axis=0) - 0.3 * body[2:].mean(axis=0)).astype(int)
                assert not 0 <= y < SIZE or image[1, y, x] < 0.6


def test_bodies_outside_the_field_of_view_are_no_targets() -> None:
    torch.manual_seed(0)
    recipe = VertebraDetectorRecipe(config(augment={**STILL, "translation": 0.5}, scanner=SAME))
    batch = batch_of(20)
    made = recipe.augment(batch)
    whole = ((made["corners"] >= 0) & (made["corners"] <= SIZE)).flatten(2).all(dim=2)
    assert (whole | (made["kinds"] == NONE) | (made["kinds"] == PART)).all()
    assert (made["kinds"] == PART).any()
    assert (made["kinds"][whole] == batch["kinds"][whole]).all()


def test_slices_are_counted_from_the_one_that_is_shown() -> None:
    torch.manual_seed(0)
    images = torch.arange(5.0).view(1, 5, 1, 1).expand(30, 5, 32, 32) / 8
    batch = {"image": images, "corners": torch.full((30, MOST, 4, 2), 16.0), "slices": torch.zeros(30, MOST)}
    batch["kinds"] = torch.full((30, MOST), BODY)
    recipe = VertebraDetectorRecipe(config(augment={**STILL, "single": 0.5}, scanner=SAME))
    made = recipe.augment(batch)
    shown = made["image"][:, :, 16, 16] * 8
    away = shown[:, 1] - 2
    assert set(away.tolist()) == {-1, 0, 1}
    torch.testing.assert_close(made["slices"], -away[:, None].expand(-1, MOST))
    beside = torch.where(made["sliced"], 1.0, 0.0)
    torch.testing.assert_close(shown[:, 2] - shown[:, 1], beside)
    assert 5 < made["sliced"].sum() < 25


def test_the_number_of_bodies_is_that_of_independent_things() -> None:
    """Against the sum over all 2^3 outcomes; more than MOST count as MOST."""
    scores = torch.tensor([[0.9, 0.5, 0.2]])
    expected = [0.0] * (MOST + 1)
    for outcome in product([0, 1], repeat=3):
        expected[sum(outcome)] += float(
            np.prod([s if there else 1 - s for s, there in zip(scores[0].tolist(), outcome, strict=True)])
        )
    np.testing.assert_allclose(count_probabilities(scores)[0], expected, atol=1e-3)
    assert count_probabilities(torch.ones(1, MOST + 2))[0].argmax() == MOST
    assert count_probabilities(torch.zeros(1, MOST + 2))[0].argmax() == 0


def test_the_best_epoch_is_that_of_the_least_loss_of_the_points() -> None:
    """The validation's loss falls with that of the middle slices' points, not with that of the number of bodies."""
    torch.manual_seed(0)
    recipe, samples = VertebraDetectorRecipe(config()), SpineSamples(SIZE).load(drawn_spines(6), InputFormat(SIZE))
    network, batch = recipe.build().eval(), to_batch(samples, torch.device("cpu"))
    with torch.inference_mode():
        answer = recipe.answer(network, batch)
        middle = SLICES // 2
        maps = network(batch["image"][:, middle - 1 : middle + 2])
        expected = centre_loss(maps, batch["corners"], batch["kinds"], batch["slices"], torch.ones(6))
    figures = recipe.judge(recipe.judged(answer).numpy(), samples["label"])
    assert figures["val_loss"] == pytest.approx(float(expected))
    assert set(figures) == {f"val_{name}" for name in HIGHER_IS_BETTER}


def test_a_bundle_of_another_family_is_refused(tmp_path) -> None:
    from small_run import untrained_bundle

    with pytest.raises(UserError, match="vertebrae are found by a vertebra_detector"):
        load_vertebra_detector(untrained_bundle(tmp_path / "b"))


@pytest.mark.long
@pytest.mark.slow
def test_it_learns_to_find_bodies_and_to_name_them(tmp_path) -> None:
    """A few steps from scratch on drawn spines; saved, loaded, and asked for other spines."""
    torch.manual_seed(0)
    chosen = config(augment={**STILL, "translation": 0.1}, scanner=SAME)
    recipe, samples = VertebraDetectorRecipe(chosen), SpineSamples(SIZE).load(drawn_spines(48), InputFormat(SIZE))
    network = recipe.build()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(90):
        rows = np.arange(8) + 8 * (step % 6)
        batch = to_batch({name: values[rows] for name, values in samples.items()}, torch.device("cpu"))
        loss = recipe.loss(network, recipe.augment(batch), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bundle = vertebra_bundle(tmp_path / "bundle", chosen, network.state_dict())
    _, detector = load_vertebra_detector(bundle)
    others = drawn_spines(12, seed=1)
    path = tmp_path / "spine.nii.gz"
    nibabel.save(nibabel.Nifti1Image(others["image"][0][:, ::-1, ::-1].transpose(0, 2, 1), AFFINE), path)
    done = find_vertebrae(bundle, str(path), str(tmp_path / "corners.json"))
    (written,) = read_corners(locate(tmp_path / "corners.json")).values()
    same = detector.find_in(Volume(others["image"][0].astype(np.float32), (4.0, 1.0, 1.0), np.eye(4)))
    assert done.spines[path.name].notes == same.notes
    assert set(written.bodies) == {body.level for body in same.bodies}
    assert written.notes == same.notes
    for body in same.bodies:
        np.testing.assert_allclose(written.bodies[body.level].corners, body.corners, atol=1e-3)
    errors, right = [], 0
    for spine, bodies in zip(detector.find(others["image"]), others["vertebrae"], strict=True):
        known = {each["level"]: np.array(list(each.values())[2:]).reshape(4, 2) for each in bodies}
        right += [body.level for body in spine.bodies] == list(LEVELS[::-1])
        errors += [np.linalg.norm(body.corners - known[body.level], axis=1) for body in spine.bodies]
    assert right >= 10
    assert np.median(errors) < 1.5
