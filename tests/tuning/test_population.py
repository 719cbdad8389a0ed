"""Population based training: who goes on from whom, what may change, and that the same exchange can be done again."""

from pathlib import Path
from typing import Any

import pytest

from mskray.errors import UserError
from mskray.families import family
from mskray.storage import locate
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.population import check_population, exchanged, left_by, train_population
from mskray.tuning.space import parse_space

METRIC = "validation.study.kappa"
SPACE = {
    "optimizer.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "optimizer.name": {"choice": ["sgd", "adam", "adamw"]},
    "network.backbone": {"choice": ["resnet18", "vgg16"]},
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(locate(tmp_path))


def space(data: dict[str, Any] = SPACE) -> Any:
    return parse_space(data, family("classifier"), {}, "none", "test")


def members(figures: list[float], rounds: int = 1) -> list[TrialRecord]:
    return [
        TrialRecord(
            id=f"{place:012x}",
            number=place,
            parameters={
                "optimizer.learning_rate": 0.001 * (place + 1),
                "optimizer.name": "adam",
                "network.backbone": "resnet18" if place % 2 else "vgg16",
            },
            figures={METRIC: figure},
            rounds=rounds,
        )
        for place, figure in enumerate(figures)
    ]


def test_the_worst_quarter_goes_on_from_the_best_and_all_others_from_themselves(ledger: Ledger) -> None:
    before = members([0.1, 0.9, 0.5, 0.4, 0.8, 0.3, 0.2, 0.6])
    after = {each.id: each for each in exchanged(before, space(), METRIC, 0, ledger)}
    begins = {number: after[before[number].id].begins for number in range(8)}
    for number in (1, 2, 3, 4, 5, 7):
        assert begins[number] == left_by(ledger, before[number].id, 1).uri
        assert after[before[number].id].parameters == before[number].parameters
    best = {left_by(ledger, before[number].id, 1).uri: before[number] for number in (1, 4)}
    for number in (0, 6):
        donor = best[begins[number]]
        taken = after[before[number].id].parameters
        assert taken["network.backbone"] == donor.parameters["network.backbone"], "weights of another network"
        assert taken != donor.parameters
        assert 1e-4 <= taken["optimizer.learning_rate"] <= 1e-1


def test_an_exchange_done_again_is_the_same(ledger: Ledger) -> None:
    before = members([0.1, 0.9, 0.5, 0.4])
    assert exchanged(before, space(), METRIC, 3, ledger) == exchanged(before, space(), METRIC, 3, ledger)
    seeds = [exchanged(before, space(), METRIC, seed, ledger)[-1].parameters for seed in range(8)]
    assert any(each != seeds[0] for each in seeds)


def test_a_loss_is_better_where_it_is_lower(ledger: Ledger) -> None:
    metric = "validation.image.loss"
    before = [each.model_copy(update={"figures": {metric: float(each.number)}}) for each in members([0.0] * 4)]
    worst = {each.number: each.begins for each in exchanged(before, space(), metric, 0, ledger)}[3]
    assert worst == left_by(ledger, before[0].id, 1).uri


def test_a_population_that_was_cut_off_goes_on_where_it_was(ledger: Ledger) -> None:
    """After the first round, two of four members of the next, and of the last: nobody is exchanged twice."""
    for member in members([0.1, 0.9, 0.5, 0.4], rounds=0):
        ledger.write(member)
    trained: list[tuple[int, int]] = []

    def until(most: int) -> Any:
        def run(waiting: list[TrialRecord]) -> bool:
            for member in waiting:
                if len(trained) == most:
                    return False
                trained.append((member.number, member.rounds))
                state = "finished" if member.rounds == 2 else "open"
                ledger.write(member.model_copy(update={"rounds": member.rounds + 1, "state": state}))
            return True

        return run

    for most in (4, 6, 10):
        train_population(ledger, space(), METRIC, 0, 3, until(most))
    waiting = {each.number: (each.parameters, each.begins) for each in ledger.trials() if each.state == "open"}
    assert len(waiting) == 2
    train_population(ledger, space(), METRIC, 0, 3, until(12))
    after = {each.number: (each.parameters, each.begins) for each in ledger.trials() if each.number in waiting}
    assert after == waiting, "exchanged again in the last round"
    assert sorted(trained) == [(number, rounds) for number in range(4) for rounds in range(3)]
    assert {each.state for each in ledger.trials()} == {"finished"}


@pytest.mark.parametrize(
    ("name", "data", "count", "said"),
    [
        ("classifier", SPACE, 3, "needs 4 members"),
        ("classifier", {"network.backbone": {"choice": ["resnet18", "vgg16"]}}, 8, "has none of these"),
        ("classifier", {**SPACE, "loop.epochs": {"choice": [2, 4]}}, 8, "take loop.epochs out"),
        ("kalm", {"optimizer.learning_rate": {"loguniform": [1e-4, 1e-3]}}, 8, "trains 2 times"),
        ("pair_bovw", {"vocabulary": {"choice": [4, 8]}}, 8, "does not learn in epochs"),
    ],
)
def test_what_cannot_be_a_population_is_refused(name: str, data: dict[str, Any], count: int, said: str) -> None:
    chosen = family(name)
    with pytest.raises(UserError, match=said):
        check_population(chosen, parse_space(data, chosen, {}, "none", "test"), count, "test")
