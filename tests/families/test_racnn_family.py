"""The racnn family: its config, phases, losses and answers, and one run end to end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_run import run, small_job
from torch.nn import functional as F

from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import SplitCount
from mskray.config import GIVEN
from mskray.ensemble import describe
from mskray.errors import UserError
from mskray.families import Images, family, load_predictor
from mskray.families.racnn import RacnnConfig, RacnnRecipe, random_crop
from mskray.models.racnn import Racnn, rank_loss
from mskray.prediction.batch import Predicting
from mskray.storage import locate

NETWORK = {"backbone": "resnet18", "weights": "none", "crop": 48, "zoom": 48, "hidden": 8, "pretraining": 2}


def recipe(**network: object) -> RacnnRecipe:
    sections = {"network": {**NETWORK, **network}, "data": {"image_size": 64}}
    return RacnnRecipe(RacnnConfig.model_validate(sections), 2)


def built(made: RacnnRecipe) -> Racnn:
    torch.manual_seed(0)
    return made.build()


def batch(side: int = 48) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"image": torch.rand(4, 1, side, side), "label": torch.tensor([0, 1, 1, 0])}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"network": {"crop": 600}}, r"network.crop = 600 is larger than data.image_size = 512"),
        ({"network": {"zoom": 64, "backbone": "inception_v3"}}, "network.zoom = 64: inception_v3 needs at least 75 px"),
        ({"network": {"zoom": 32}}, "network.zoom = 32: the last map of vgg19 has one cell a side"),
        ({"network": {"scale_weights": [0, 0, 0]}}, "network.scale_weights"),
        ({"network": {"pretraining": 3}, "loop": {"epochs": 3}}, "leaves no epoch to classify"),
        ({"loop": {"patience": 1}}, r"loop.patience = 1: for up to 1 epochs on end .*raise it above them"),
        ({"network": {"alternate": 3}, "loop": {"patience": 3}}, r"loop.patience = 3: for up to 3 epochs"),
        ({"network": {"pretraining": 2}, "loop": {"patience": 2}}, r"loop.patience = 2: for up to 2 epochs"),
        (
            {"network": {"alternate": 2}, "schedule": {"name": "plateau", "patience": 2}},
            r"schedule.patience = 2: for up to 2 epochs",
        ),
    ],
)
def test_what_does_not_fit_is_refused(sections: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RacnnConfig.model_validate(sections, context=GIVEN)


@pytest.mark.parametrize(
    "sections",
    [
        {"loop": {"patience": 0}},
        {"network": {"alternate": 3}, "loop": {"patience": 4}, "schedule": {"name": "cosine", "patience": 0}},
        {"loop": {"patience": 4}, "schedule": {"name": "plateau", "patience": 2}},
    ],
)
def test_enough_patience_is_accepted(sections: dict) -> None:
    RacnnConfig.model_validate(sections)


def test_defaults_are_those_of_zhaw() -> None:
    config = RacnnConfig()
    assert (config.data.image_size, config.network.crop, config.network.zoom) == (512, 448, 224)
    assert config.network.scale_weights == (1, 1, 2)
    assert (config.optimizer.name, config.data.batch_size, config.network.backbone) == ("adam", 8, "vgg19")


def test_phases_follow_each_other() -> None:
    made = recipe(alternate=2)
    names = "".join(made.phase(epoch)[0] + made.phase(epoch)[2] for epoch in range(8))
    assert names == "pe" * 2 + "ca" * 2 + "po" * 2 + "ca" * 2


def test_each_phase_has_its_loss() -> None:
    made, given = recipe(), batch()
    network = built(made)
    expected = []
    for epoch in (0, 2, 3):
        made.set_training(network, epoch)
        network.eval()  # so that BatchNorm answers twice alike
        logits, boxes, peaks = network(given["image"])
        if epoch == 0:
            expected = [F.mse_loss(boxes, peaks)]
        elif epoch == 2:
            entropies = [F.cross_entropy(each, given["label"]) for each in logits]
            expected = [entropies[0] + entropies[1] + 2 * entropies[2]]
        else:
            expected = [rank_loss(logits.softmax(dim=2), given["label"], 0.05)]
        torch.testing.assert_close(made.loss(network, given, None), expected[0])


def test_weights_that_were_frozen_in_a_phase_learn_again_in_the_next() -> None:
    made, given = recipe(), batch()
    network = built(made)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    for epoch, half in ((0, "proposals"), (2, "scales"), (3, "proposals"), (4, "scales")):
        made.set_training(network, epoch)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        made.loss(network, given, None).backward()
        optimizer.step()
        optimizer.zero_grad()
        after = network.state_dict()
        assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {half}


@torch.inference_mode()
def test_the_answer_weighs_the_scales_and_places_its_boxes() -> None:
    made, given = recipe(), batch(side=64)
    network = built(made).eval()
    answer = made.answer(network, given)
    one, two, three = (answer.parts[f"scale {number}"] for number in (1, 2, 3))
    torch.testing.assert_close(answer.probabilities, (one + two + 2 * three) / 4)
    torch.testing.assert_close(one, network.scales[0](given["image"][:, :, 8:56, 8:56]).softmax(dim=1))
    second, third = answer.boxes["scale 2"], answer.boxes["scale 3"]
    for box in (second, third):
        assert box[:, :2].min() >= 8
        assert (box[:, :2] + box[:, 2:]).max() <= 56
    # The third scale's box lies in the second's.
    assert (third[:, :2] >= second[:, :2] - 1e-4).all()
    assert (third[:, :2] + third[:, 2:] <= second[:, :2] + second[:, 2:] + 1e-4).all()
    assert made.explained(network) is network.scales[0]


def test_random_crops_are_windows_of_their_image() -> None:
    torch.manual_seed(0)
    images = torch.arange(2 * 100.0).view(2, 1, 10, 10)
    crops = torch.stack([random_crop(images, 7) for _ in range(50)])
    starts = crops[:, :, 0, 0, 0].long()
    assert torch.equal(crops[0, 1, 0], images[1, 0].flatten()[starts[0, 1] - 100 :].unfold(0, 7, 1)[::10][:7])
    assert len(set(starts[:, 0].tolist())) > 10
    assert torch.equal(random_crop(images, 10), images)


def test_a_cohort_coarser_than_the_image_is_refused(tiny_cohort: Callable[..., Cohort]) -> None:
    task = Task(name="abnormality", classes=("normal", "abnormal"))
    made = tiny_cohort((task,), [{task.name: 0}])
    split = SplitCount(images=2, studies=1, patients=1, labels={task.name: {"normal": 1, "abnormal": 1}})
    counts = made.manifest.counts.model_copy(update={"splits": {"train": split, "validation": split}})
    cohort = Cohort(made.location, made.manifest.model_copy(update={"counts": counts}))
    with pytest.raises(UserError, match=r"data.image_size = 64: cohort .* holds 32 px, nothing finer for racnn"):
        family("racnn").check(cohort, recipe().config, task)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_in_turn_and_the_bundle_predicts(phantom_cohort, tmp_path: Path) -> None:
    network = {**NETWORK, "backbone": "mobilenet_v3_small", "pretraining": 1}
    job = small_job(phantom_cohort, locate(tmp_path / "bundle"), family="racnn", network=network)
    job["loop"] = {"epochs": 3}
    bundle = run(job)
    assert len(bundle.history) == 3
    # Distances to the peaks, then cross-entropies of four weights in all, then the rank loss of two pairs.
    losses = [entry["train_loss"] for entry in bundle.history]
    assert losses[0] < 0.2 < 1.5 < losses[1]
    assert losses[2] < 1.5

    location = str(tmp_path / "bundle")
    table = Predicting(location, describe(location)).cohort(phantom_cohort, ["validation"])
    names = table["instance_id"].to_pylist()
    assert len(names) == phantom_cohort.count("validation")
    assert {"scale 1:prob_abnormal", "scale 3:prob_abnormal", "box_scale 2", "box_scale 3"} <= set(table.column_names)
    images = phantom_cohort.images("validation", names)
    _, predict = load_predictor(location)
    found = predict(Images([images[name] for name in names]))
    np.testing.assert_allclose(found.probabilities[:, 1], table["prob_abnormal"].to_numpy(), atol=1e-4)
    np.testing.assert_allclose(found.boxes["scale 3"], np.array(table["box_scale 3"].to_pylist()), atol=0.01)
