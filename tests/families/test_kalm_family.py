"""KALM as a family: what its two trainings learn, that each resumes, what it answers, what it refuses."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_run import run as train
from small_run import small_job

from mskray.cohorts import Cohort
from mskray.config import validate
from mskray.errors import UserError
from mskray.families import family
from mskray.families.kalm import GlobalRecipe, KalmConfig, LocalRecipe
from mskray.models.kalm import Kalm
from mskray.progress import Progress
from mskray.storage import locate
from mskray.verbs.evaluate import evaluate_model

SMALL: dict[str, Any] = {
    "network": {"backbone": "mobilenet_v3_small", "weights": "none", "size": 64},
    "data": {"image_size": 128, "batch_size": 8, "shuffle_window": 64},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "schedule": {"name": "none"},
    "loop": {"epochs": 1},
    "local": {"epochs": 2, "optimizer": {"name": "adam", "learning_rate": 1e-3}, "schedule": {"name": "none"}},
}


def config(**sections: Any) -> KalmConfig:
    return KalmConfig.model_validate({key: {**value, **sections.get(key, {})} for key, value in SMALL.items()})


def recipe(**sections: Any) -> LocalRecipe:
    return LocalRecipe(config(**sections).stage("local"), 2)


def made(local: LocalRecipe) -> Kalm:
    network = local.build()
    network.load_state_dict(local.initial_state(GlobalRecipe(local.config.stage("global"), 2).initial_state()))
    return network


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"image": torch.rand(count, 1, 128, 128), "label": torch.arange(count) % 2}


@pytest.mark.parametrize(
    "given", [{}, {"data": {"cache": "stream"}, "optimizer": {"momentum": 0.5}, "loop": {"seed": 1}}]
)
def test_the_defaults_are_those_of_the_paper(given: dict[str, Any]) -> None:
    stages = [KalmConfig.model_validate(given).stage(name) for name in ("global", "local")]
    assert [(stage.data.image_size, stage.data.batch_size, stage.loop.epochs) for stage in stages] == [
        (224, 64, 30),
        (448, 64, 30),
    ]
    for stage in stages:
        assert (stage.optimizer.name, stage.optimizer.learning_rate) == ("adam", 1e-5)
        assert (stage.schedule.name, stage.schedule.every, stage.schedule.factor) == ("step", 20, 0.1)
        assert stage.loop.metric == "accuracy"


def test_a_step_of_the_second_training_moves_the_local_half_alone() -> None:
    local = recipe()
    network = made(local)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1)
    for _ in range(2):
        local.set_training(network, 0)
        optimizer.zero_grad()
        local.loss(network, batch(), None).backward()
        optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith("cnn_g.")}, "weights or BatchNorm of CNN_g moved"
    assert {"key_area.fc_w.weight", "key_area.fc_h.weight"} <= moved
    assert any(name.startswith("cnn_l.") and name.endswith("running_mean") for name in moved)


def test_the_answer_is_the_mean_of_both_and_says_where_it_looked() -> None:
    local = recipe()
    network = made(local).eval()
    with torch.no_grad():
        network.cnn_l.network.classifier.bias.copy_(torch.tensor([0.0, 3.0]))  # type: ignore[union-attr, operator]
        answer = local.answer(network, batch())
        _, _, box = network(batch()["image"])
    torch.testing.assert_close(answer.probabilities, (answer.parts["global"] + answer.parts["local"]) / 2)
    torch.testing.assert_close(answer.probabilities.sum(dim=1), torch.ones(4))
    assert not torch.allclose(answer.parts["global"], answer.parts["local"])
    x, y, w, h = answer.boxes["key_area"].unbind(dim=1)
    torch.testing.assert_close((x + w / 2) / 128 * 2 - 1, box[:, 0])
    torch.testing.assert_close((y + h / 2) / 128 * 2 - 1, box[:, 1])
    torch.testing.assert_close(torch.stack([w, h], dim=1) / 128, box[:, 2:])


@pytest.mark.parametrize("side", [0.25, 0.5])
def test_the_key_area_starts_at_its_side(side: float) -> None:
    local = recipe(local={"side": side})
    network = local.build()
    network.load_state_dict(local.initial_state(GlobalRecipe(local.config.stage("global"), 2).initial_state()))
    rows = local.config.data.image_size
    box = local.answer(network.eval(), {"image": torch.rand(2, 1, rows, rows)}).boxes["key_area"]
    assert torch.allclose(box[:, 2:], torch.full((2, 2), side * rows))


@pytest.mark.parametrize("start", ["initial", "global"])
def test_the_local_network_starts_where_it_is_told(start: str) -> None:
    local = recipe(local={"start": start})
    first = GlobalRecipe(local.config.stage("global"), 2).initial_state()
    trained = {name: value + 1 for name, value in first.items()}
    state = local.initial_state(trained)
    expected = first if start == "initial" else trained
    for name in first:
        torch.testing.assert_close(state[f"cnn_g.{name}"], trained[name])
        torch.testing.assert_close(state[f"cnn_l.{name}"], expected[name])


def test_explanations_look_into_the_global_network_through_whole_images() -> None:
    local = recipe()
    network = made(local).eval()
    explained = local.explained(network)
    with torch.no_grad():
        torch.testing.assert_close(
            explained(batch()["image"]).softmax(dim=1), local.answer(network, batch()).parts["global"]
        )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"network": {"size": 32}}, "network.size = 32: the last map of mobilenet_v3_small has one cell"),
        ({"network": {"backbone": "inception_v4"}}, "network.size = 64: inception_v4 needs at least 75 px"),
        ({"data": {"image_size": 96}}, "data.image_size = 96 is no multiple of network.size = 64"),
        (
            {"loop": {"patience": 2}, "local": {"schedule": {"name": "plateau", "patience": 2}}},
            "lets the plateau schedule fire",
        ),
        ({"network": {"backbone": "resnet19"}}, "network.backbone"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(sections: dict[str, Any], message: str) -> None:
    data = {key: {**value, **sections.get(key, {})} for key, value in SMALL.items()}
    with pytest.raises(UserError, match=message) as caught:
        validate(KalmConfig, data, "job.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_cohort_of_small_images_is_refused(phantom_cohort: Cohort) -> None:
    with pytest.raises(UserError, match=r"data.image_size = 448: cohort .* holds \d+ px, nothing finer for kalm"):
        family("kalm").check(phantom_cohort, KalmConfig(), phantom_cohort.tasks[0])


class CutOff(Exception):
    """What ends a job in the middle."""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_cut_off_between_its_trainings_goes_on_with_the_second(
    phantom_cohort: Cohort, tmp_path: Path, ray_cluster: str
) -> None:
    out, seen = tmp_path / "bundle", list[str]()
    sections = {**SMALL, "data": {**SMALL["data"], "image_size": phantom_cohort.image.size}}
    job = {**small_job(phantom_cohort, locate(out)), **sections, "family": "kalm"}

    def cut_off(progress: Progress) -> None:
        seen.append(progress.stage)
        if sum(stage.startswith("starting") for stage in seen) == 2:
            raise CutOff

    with pytest.raises(CutOff):
        train(job, cut_off)
    assert trained_stages(seen) == {"global"}
    seen.clear()
    bundle = train(job, lambda progress: seen.append(progress.stage))
    assert trained_stages(seen) == {"local"}, "the finished training began anew"
    assert {each.name for each in out.iterdir()} == {"bundle.json", "card.md", "tensorboard", "weights.safetensors"}

    assert bundle.epochs == 2
    assert [entry.get("global/epoch", 0) for entry in bundle.history] == [1, 0, 0]
    assert bundle.best["global/val_accuracy"] == bundle.history[0]["global/val_accuracy"]
    # What was validated is what was saved, and it is shown beside its parts.
    result, folder = evaluate_model(str(out), str(phantom_cohort.location), "validation", resamples=100)
    figures = {name: group.figures["accuracy"].value for name, group in result.image.model_parts.items()}
    assert list(figures) == ["global", "local"]
    assert result.image.overall.figures["accuracy"].value == pytest.approx(bundle.best["val_accuracy"], abs=1e-5)
    assert figures["global"] == pytest.approx(bundle.best["global/val_accuracy"], abs=1e-5)
    table = pq.read_table(io.BytesIO(folder.join("predictions.parquet").read_bytes()))
    assert {len(box) for box in table["box_key_area"].to_pylist()} == {4}


def trained_stages(seen: list[str]) -> set[str]:
    """Names of the trainings of which an epoch was reported."""
    return {stage.partition("/epoch ")[0] for stage in seen if "/epoch " in stage}
