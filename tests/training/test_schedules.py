"""Learning-rate schedules: their shape, that plateau fires, that they resume."""

import pytest
import torch

from mskray.config import validate
from mskray.errors import UserError
from mskray.training.config import OptimizerSection, ScheduleSection, TorchConfig
from mskray.training.schedules import Schedule, make_optimizer


def build(name: str, updates: int = 100, **settings) -> tuple[torch.optim.Optimizer, Schedule]:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = make_optimizer([parameter], OptimizerSection(learning_rate=1.0))
    return optimizer, Schedule(optimizer, ScheduleSection(name=name, **settings), 1.0, updates, higher_is_better=True)


def rates(optimizer: torch.optim.Optimizer, schedule: Schedule, updates: int) -> list[float]:
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_update()
    return found


@pytest.mark.parametrize(
    ("name", "first", "peak_at", "last"),
    [("none", 1.0, 0, 1.0), ("cosine", 1 / 11, 10, 0.001), ("one_cycle", 0.04, 10, 0.001)],
)
def test_shapes(name: str, first: float, peak_at: int, last: float) -> None:
    found = rates(*build(name, warmup=0.1), 100)
    assert found[0] == pytest.approx(first, rel=0.05)
    assert max(found) == pytest.approx(1.0, rel=1e-3)
    assert abs(found.index(max(found)) - peak_at) <= 1
    assert found[-1] == pytest.approx(last, abs=2e-3)


@pytest.mark.parametrize("updates", range(1, 25))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_one_cycle_of_a_few_updates_falls_from_the_peak(updates: int, warmup: float) -> None:
    found = rates(*build("one_cycle", updates, warmup=warmup), updates)
    assert all(0 < rate <= 1.0 for rate in found)
    assert found[-1] < 1.0 or updates == 1


def test_plateau_fires_after_patience() -> None:
    optimizer, schedule = build("plateau", patience=2, factor=0.5)
    for metric in (0.7, 0.6, 0.6):
        schedule.after_epoch(metric)
    assert optimizer.param_groups[0]["lr"] == 1.0
    schedule.after_epoch(0.6)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "plateau"])
def test_a_restored_schedule_goes_on_in_the_same_way(name: str) -> None:
    whole, cut = build(name), build(name)
    expected = rates(*whole, 100)
    begun = rates(*cut, 40)
    optimizer, schedule = build(name)
    optimizer.load_state_dict(cut[0].state_dict())
    schedule.load_state_dict(cut[1].state_dict())
    assert begun + rates(optimizer, schedule, 60) == pytest.approx(expected)


@pytest.mark.parametrize("patience", [5, 6])
def test_stopping_before_an_epoch_at_the_lower_rate_is_refused(patience: int) -> None:
    data = {"schedule": {"name": "plateau", "patience": 5}, "loop": {"patience": patience}}
    with pytest.raises(UserError, match=r"lets the plateau schedule fire: loop\.patience must be 7 at least"):
        validate(TorchConfig, data, "job.yaml")
    validate(TorchConfig, {**data, "loop": {"patience": 7}}, "job.yaml")
    assert TorchConfig.model_validate(data).loop.patience == patience, "a finished bundle is read all the same"


def test_only_parameters_that_learn_are_optimised() -> None:
    fixed, free = torch.nn.Parameter(torch.zeros(1), requires_grad=False), torch.nn.Parameter(torch.zeros(1))
    assert make_optimizer([fixed, free], OptimizerSection(name="sgd")).param_groups[0]["params"] == [free]
