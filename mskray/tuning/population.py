"""Population based training (Jaderberg et al. 2017): weak members go on from strong members' weights.

All members train some epochs, a round; then each of the worst quarter takes the weights and the values of one of the
best quarter, and values that may change during a training are perturbed: by a fifth either way, or to a neighbour in a
choice, or drawn anew. A member stands in the ledger with the rounds that it has behind it, so that a population that
was cut off goes on where it was.

Ray Tune's own scheduler pauses a trial by killing its process, and with it a training of Ray Train in the middle of an
epoch; here a round ends by itself, with its checkpoint written.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from mskray.errors import UserError
from mskray.families import Family
from mskray.space import Parameter
from mskray.storage import Location
from mskray.training.config import TorchConfig
from mskray.tuning.figures import sign
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.space import SearchSpace

LEAST = 4
"""Members of the smallest population: a quarter of it is one."""
_QUARTER, _RESAMPLED, _FACTORS = 0.25, 0.25, (0.8, 1.2)
_CHANGING = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.momentum",
    "augment.",
    "loop.label_smoothing",
)
"""Keys whose values may change while a network trains: all others decide what its weights or its checkpoint mean."""


def check_population(chosen: Family, space: SearchSpace, members: int, where: str) -> None:
    """Raise UserError where a population cannot be trained."""
    cure = "set scheduler.name=asha, or none"
    if not issubclass(chosen.Config, TorchConfig):
        raise UserError(f"{where}: scheduler.name=pbt: {chosen.name} does not learn in epochs: {cure}")
    if len(chosen.epoch_keys) > 1:
        raise UserError(f"{where}: scheduler.name=pbt: {chosen.name} trains {len(chosen.epoch_keys)} times: {cure}")
    if not any(map(_changes, space.parameters)):
        raise UserError(
            f"{where}: scheduler.name=pbt changes {', '.join(_CHANGING)}… while it trains, and the space has none of "
            f"these: add one, or {cure}"
        )
    epochs = next(iter(chosen.epoch_keys.values()))
    if epochs in space.parameters:
        raise UserError(f"{where}: scheduler.name=pbt trains all members as long: take {epochs} out of the space")
    if members < LEAST:
        raise UserError(f"{where}: scheduler.name=pbt needs {LEAST} members: raise budget.trials (now {members})")


def train_population(
    ledger: Ledger,
    space: SearchSpace,
    metric: str,
    seed: int,
    rounds: int,
    run: Callable[[list[TrialRecord]], bool],
) -> None:
    """Train the members that the ledger holds, round by round, with an exchange before each but the first.

    Args:
        run: runs the next round of these members; tells whether there is time for another.
    """
    for number in range(rounds):
        members = _open(ledger)
        behind = [each for each in members if each.rounds < number]
        if behind and not run(behind):  # their process was lost in an earlier round
            return
        members = _open(ledger)
        # Where some have this round behind them, also at its end, an exchange before it was made by an earlier call.
        begun = any(each.rounds > number for each in ledger.trials())
        if number and len(members) >= 2 and not begun:
            members = exchanged(members, space, metric, seed, ledger)
            for member in members:
                ledger.write(member)
        waiting = [each for each in members if each.rounds == number]
        if waiting and not run(waiting):
            return
    if not _open(ledger):
        for member in ledger.trials():
            with suppress(UserError, OSError):  # no more than in the way
                _rounds(ledger, member.id).delete_dir()


def _open(ledger: Ledger) -> list[TrialRecord]:
    return [each for each in ledger.trials() if each.state == "open" and not each.seed]


def exchanged(
    members: Sequence[TrialRecord], space: SearchSpace, metric: str, seed: int, ledger: Ledger
) -> list[TrialRecord]:
    """Return the members as they begin their next round, all of which have the same number of rounds behind them.

    The same members give the same result, so that an exchange that was cut off is done again to the same end.
    """
    rounds = members[0].rounds
    random = Random(f"{seed} {rounds}")
    ranked = sorted(members, key=lambda each: (-sign(metric) * each.figures[metric], each.number))
    few = max(1, round(_QUARTER * len(ranked)))
    result = []
    for place, member in enumerate(ranked):
        donor, parameters = member, member.parameters
        if place >= len(ranked) - few:
            donor = ranked[random.randrange(few)]
            parameters = _perturbed(donor.parameters, space, random)
        begins = left_by(ledger, donor.id, rounds).uri
        result.append(member.model_copy(update={"parameters": parameters, "begins": begins}))
    return result


def left_by(ledger: Ledger, member: str, rounds: int) -> Location:
    """Where a member's checkpoint after so many rounds is."""
    return _rounds(ledger, member).join(str(rounds))


def _rounds(ledger: Ledger, member: str) -> Location:
    return ledger.room(member).join("rounds")


def _perturbed(values: Mapping[str, Any], space: SearchSpace, random: Random) -> dict[str, Any]:
    return {
        key: _moved(value, space.parameters[key], random) if _changes(key) else value for key, value in values.items()
    }


def _moved(value: Any, parameter: Parameter, random: Random) -> Any:
    anew = random.random() < _RESAMPLED
    if parameter.finite:
        known = list(parameter.values)
        if anew:
            return random.choice(known)
        return known[min(max(known.index(value) + random.choice((-1, 1)), 0), len(known) - 1)]
    low, high = parameter.values
    if anew and parameter.kind == "loguniform":
        moved = low * (high / low) ** random.random()
    elif anew:
        moved = low + (high - low) * random.random()
    else:
        moved = value * random.choice(_FACTORS)
    moved = min(max(moved, low), high)
    return round(moved) if isinstance(low, int) and isinstance(high, int) else moved


def _changes(key: str) -> bool:
    return key.startswith(_CHANGING)
