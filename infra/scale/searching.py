"""What a search costs beside its trials, by their number: Ray Tune, the ledger, the leaderboard and the drawing.

A trial sleeps and writes its record as trials do. Drawing is timed apart, with the sampler of a search over six
parameters, because what it costs grows with what it has seen.
"""

import resource
import tempfile
import time
from typing import Any

import numpy as np
import optuna

from infra.scale.planning import Memory
from mskray import cluster
from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning.job import SchedulerSection, SearchSection
from mskray.tuning.leaderboard import ranked
from mskray.tuning.ledger import Description, Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan, Tell, Work
from mskray.tuning.runner import run_trials
from mskray.tuning.search import Listed, _sampler

METRIC = "validation.study.kappa"
_MB = 1e6


def measure_tune(trials: int, slots: int, seconds: float = 0.1) -> dict[str, Any]:
    """Run a search of so many sleeping trials.

    Returns:
        Seconds of all, of the ideal on so many slots, over it a trial; of reading the ledger, ranking, drawing; MB.
    """
    with tempfile.TemporaryDirectory(prefix="mskray-scale-") as folder, cluster.session(dashboard=True):
        memory = Memory()
        ledger = Ledger(locate(folder))
        drawn = np.random.default_rng(0).random((trials, 6)).tolist()
        records = [
            TrialRecord(
                id=f"{number:012x}", number=number, parameters={f"p{key}": each for key, each in enumerate(row)}
            )
            for number, row in enumerate(drawn)
        ]
        writing = _seconds(lambda: [ledger.write(record) for record in records])
        plan = Plan(ledger, "none", "none", "", {}, Resources(), 1, 0, METRIC)
        ran = _seconds(
            lambda: run_trials(
                plan, Listed(records), lambda: slots, SchedulerSection(), 1, lambda *_: None, _sleeping(seconds)
            )
        )
        reading = _seconds(ledger.trials)
        found = ledger.trials()
        assert sum(record.state == "finished" for record in found) == trials
        ranking = _seconds(lambda: ranked(_description(), found))
        memory.end()
    ideal = trials * seconds / slots
    return {
        "trials": trials,
        "slots": slots,
        "seconds_a_trial": seconds,
        "seconds": ran,
        "overhead_s_a_trial": (ran - ideal) / trials,
        "ledger_write_ms": 1e3 * writing / trials,
        "ledger_read_s": reading,
        "leaderboard_s": ranking,
        **_drawing(trials),
        "before_mb": memory.before / _MB,
        "peak_mb": memory.peak() / _MB,
        "children_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / _MB,
    }


def _sleeping(seconds: float) -> Work:
    def work(plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
        time.sleep(seconds)
        figures = {METRIC: sum(record.parameters.values()) / len(record.parameters)}
        ended = record.model_copy(update={"state": "finished", "figures": figures, "seconds": seconds})
        plan.ledger.write(ended)
        return ended

    return work


def _drawing(trials: int) -> dict[str, float]:
    """Seconds of all draws, and of one at the end."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=_sampler(SearchSection(), 0))
    taken = [_seconds(lambda: _draw(study)) for _ in range(trials)]
    last = taken[-10:]
    return {"drawing_s": sum(taken), "last_draw_ms": 1e3 * sum(last) / len(last)}


def _draw(study: optuna.Study) -> None:
    trial = study.ask()
    study.tell(trial, sum(trial.suggest_float(f"p{key}", 0.0, 1.0) for key in range(6)))


def _description() -> Description:
    return Description(
        family="none",
        cohort="none",
        cohort_hash="",
        task="",
        base={},
        space={},
        metrics=(METRIC,),
        search={},
        scheduler={},
        folds={},
        repeats={},
        fingerprint="",
        created="",
        versions={},
    )


def _seconds(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
