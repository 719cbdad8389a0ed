"""Searches of 24 trials and what a trial costs beside its work, against Optuna with joblib on as many slots.

    python tests/benchmarks/bench_tune.py

Two trials run side by side, each with one thread, on a Ray session of two CPUs and in two processes of joblib. Both try
the same list, a grid, on the same stored pixels:

- a classifier (mobilenet_v3_small at 96 px, from random weights): 8 learning rates × 3 sizes of batch, 2 epochs. Trials
  share no work but the decoded shards. The peer is a bare PyTorch loop with the family's network, loss, augmentation,
  optimizer and schedule that judges the validation split after each epoch;
- bags of visual words on pairs (pair_bovw): 3 descriptors × 4 vocabularies × 2 classifiers. Trials share
  descriptors and vocabularies. The peer finds the same descriptors and fits the same classifiers; its k-means is
  scikit-learn's, on as many descriptors and to the same tolerance; each trial begins with the images, as scripts do.

Ours also judges each trial by every figure, writes its ledger, checkpoints and at the end its page. Both start counting
with Ray started and packages imported; what processes of trials take to start counts. Last, trials that do nothing or
wait for a second: 8 to 128 of them.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from measure import Case, Found, Growth, Reach, alternate, apart, keep_to, main, seconds

OURS, PEER, IDEAL = "mskray tune", "Optuna with joblib", "ideal"
SLOTS = 2
SECOND_TRIALS, COUNTS = 32, (8, 32, 128)
METRIC = "validation.image.auroc"
_CLASSIFIER: dict[str, Any] = {
    "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
    "data": {"image_size": 96, "batch_size": 32},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "one_cycle"},
    "loop": {"epochs": 2},
}
JOBS: dict[str, dict[str, Any]] = {
    "classifier": _CLASSIFIER,
    "pair_bovw": {"kmeans": {"most": 50_000}, "augment": {"reverse": False, "noise_copies": 0}},
}
SPACES: dict[str, dict[str, list[Any]]] = {
    "classifier": {
        "optimizer.learning_rate": [1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 3e-3, 1e-2],
        "data.batch_size": [16, 32, 64],
    },
    "pair_bovw": {
        "vocabulary": [500, 200, 100, 50],
        "classifier.name": ["svm", "gaussian_nb"],
        "keypoints.descriptor": ["orb", "sift", "surf"],
    },
}
# Source, its options, side of what is stored, the task.
COHORTS: dict[str, tuple[str, dict[str, int], int, str]] = {
    "classifier": ("phantom", {"patients": 300, "image_size": 128}, 96, "abnormality"),
    "pair_bovw": ("phantom-pairs", {"patients": 150, "image_size": 192}, 192, "improved"),
}
REACH = {"classifier": 1.0, "pair_bovw": 1.0}
ALLOWED_OVER = 0.2
"""Ray's own bar for Tune: time over the ideal."""
CLOSE = 0.1


def cases(options: argparse.Namespace) -> Iterator[Found]:
    with tempfile.TemporaryDirectory() as folder:
        for family in SPACES:
            if options.only not in family:
                continue
            apart(__file__, "prepare", folder=folder, family=family, share=0.3 if options.small else 1.0)
            yield sweep(folder, family, options.small, options.rounds)
    if options.only in "overhead":
        yield from overhead(options)


def space_of(family: str, small: bool) -> dict[str, list[Any]]:
    return {key: values[-2:] if small else values for key, values in SPACES[family].items()}


def sweep(folder: str, family: str, small: bool, rounds: int) -> Case:
    trials = math.prod(len(values) for values in space_of(family, small).values())
    figures: dict[str, list[float]] = {}

    def run(name: str, function: str) -> float:
        found = apart(__file__, function, folder=folder, family=family, small=small)
        figures[name] = found["figures"]
        return float(found["seconds"])

    runs = alternate({OURS: partial(run, OURS, "ours"), PEER: partial(run, PEER, "peer")}, rounds)
    best = {name: max(each) for name, each in figures.items()}
    if not small and abs(best[OURS] - best[PEER]) > CLOSE:
        raise RuntimeError(f"{family}: the best trials have AUROC {best}: this is not the same work")
    told = ", ".join(f"{name} {value:.3f}" for name, value in best.items())
    rates = ", ".join(f"{name} {3600 * trials / statistics.median(each):,.0f}" for name, each in runs.items())
    notes = [f"Trials an hour: {rates}.", f"Best AUROC of a trial: {told}."]
    return Case(f"{trials} trials of {family}, {SLOTS} slots", "s", OURS, runs, [Reach(PEER, REACH[family])], notes)


def overhead(options: argparse.Namespace) -> Iterator[Found]:
    counts = COUNTS[:2] if options.small else COUNTS
    trials = counts[0] if options.small else SECOND_TRIALS
    waiting: dict[str, Callable[[], float]] = {
        OURS: partial(apart, __file__, "ours_waits", trials=trials, each=1.0),
        PEER: partial(apart, __file__, "peer_waits", trials=trials, each=1.0),
        IDEAL: lambda: trials / SLOTS,
    }
    what = f"{trials} trials of a second, {SLOTS} slots"
    yield Case(what, "s", OURS, alternate(waiting, options.rounds), [Reach(IDEAL, 1 / (1 + ALLOWED_OVER))])
    points: dict[str, list[tuple[float, float]]] = {OURS: [], PEER: []}
    for count in counts:
        nothing = {
            name: partial(apart, __file__, function, trials=count, each=0.0)
            for name, function in ((OURS, "ours_waits"), (PEER, "peer_waits"))
        }
        for name, values in alternate(nothing, options.rounds).items():
            points[name].append((float(count), statistics.median(values)))
    yield Growth("trials that do nothing", "trials", "s", points)


def prepare(folder: str, family: str, share: float) -> None:
    """Ingest a cohort; write its pixels and labels as arrays for the peer."""
    from mskray.cohorts import open_cohort
    from mskray.cohorts.ingest import ingest

    source, options, size, task = COHORTS[family]
    _start_ray()
    settings = {"size": size, "split_fractions": [0.7, 0.2, 0.1]}
    some = {**options, "patients": int(options["patients"] * share)}
    ingest(source, None, f"{folder}/{family}-cohort", some, settings, key=b"a key for the benchmark")
    cohort = open_cohort(f"{folder}/{family}-cohort")
    column = cohort.task(task).column
    os.mkdir(f"{folder}/{family}")
    for split in ("train", "validation"):
        parts = [cohort.read_shard(shard, ["image", column, "patient_id"]) for shard in cohort.shards(split)]
        for name, key in (("image", "image"), ("label", column), ("patient", "patient_id")):
            whole = np.concatenate([part[key] for part in parts])
            known = np.concatenate([part[column] for part in parts]) >= 0
            values = whole[known].astype(np.int64) if name == "label" else whole[known]
            np.save(f"{folder}/{family}/{split}-{name}.npy", values.astype(str) if name == "patient" else values)


def ours(folder: str, family: str, small: bool) -> dict[str, Any]:
    keep_to(SLOTS)
    from mskray.progress import silent
    from mskray.verbs.tune import parse_search, tune

    space = space_of(family, small)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        job = {
            **JOBS[family],
            "family": family,
            "cohort": f"{folder}/{family}-cohort",
            "task": COHORTS[family][3],
            "out": f"{place}/search",
            "preset": "none",
            "metric": METRIC,
            "space": {key: {"grid": values} for key, values in space.items()},
            "search": {"method": "grid"},
            "budget": {"trials": math.prod(len(values) for values in space.values())},
            "trials": {"at_once": SLOTS},
            "resources": {"cpus_per_worker": 0.75},
            **({"cache": {"uri": f"{place}/cache"}} if family == "pair_bovw" else {}),
        }
        _start_ray()
        found: list[Any] = []
        took = seconds(lambda: found.append(tune(*parse_search(job, "benchmark"), "benchmark", silent)))
        records = found[0].trials()
    if wrong := [record.reason for record in records if record.state != "finished"]:
        raise RuntimeError(f"{len(wrong)} of {len(records)} trials did not finish: {wrong[0]}")
    return {"seconds": took, "figures": [record.figures[METRIC] for record in records]}


def peer(folder: str, family: str, small: bool) -> dict[str, Any]:
    keep_to(SLOTS)
    import joblib  # noqa: F401
    import optuna  # noqa: F401
    from tuning_peer import classifier, optimize, words

    objective, given = {"classifier": (classifier, [_CLASSIFIER]), "pair_bovw": (words, [])}[family]
    began = time.perf_counter()
    figures = optimize(objective, space_of(family, small), SLOTS, f"{folder}/{family}", *given)
    return {"seconds": time.perf_counter() - began, "figures": figures}


def ours_waits(trials: int, each: float) -> float:
    """Seconds for trials that wait, from the first record to the last and Tune's return."""
    keep_to(SLOTS)
    from mskray.storage import locate
    from mskray.training.run import Resources
    from mskray.tuning.job import SchedulerSection
    from mskray.tuning.ledger import Ledger, TrialRecord
    from mskray.tuning.ray_trial import Plan, Tell
    from mskray.tuning.runner import run_trials
    from mskray.tuning.search import Listed

    def wait(plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
        time.sleep(each)
        update = {"state": "finished", "figures": {METRIC: 0.5}, "seconds": each}
        ended: TrialRecord = record.model_copy(update=update)
        plan.ledger.write(ended)
        return ended

    _start_ray()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(locate(folder))
        plan = Plan(ledger, "none", "none", "", {}, Resources(), 1, 0, METRIC)
        records = [TrialRecord(id=f"{number:012x}", number=number, parameters={}) for number in range(trials)]
        began = time.perf_counter()
        for record in records:
            ledger.write(record)
        run_trials(plan, Listed(records), lambda: SLOTS, SchedulerSection(), 1, lambda record, result: None, wait)
        took = time.perf_counter() - began
        finished = sum(record.state == "finished" for record in ledger.trials())
    if finished != trials:
        raise RuntimeError(f"{finished} of {trials} trials finished")
    return took


def peer_waits(trials: int, each: float) -> float:
    keep_to(SLOTS)
    import joblib  # noqa: F401
    import optuna  # noqa: F401
    from tuning_peer import optimize, waits

    began = time.perf_counter()
    optimize(waits, {"number": list(range(trials))}, SLOTS, each)
    return time.perf_counter() - began


def _start_ray() -> None:
    """As `mskray.cluster.session` does, with as many CPUs as there are slots."""
    os.environ.update(RAY_worker_niceness="0", RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0")
    import ray

    ray.init("local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


if __name__ == "__main__":
    main(cases, prepare, ours, peer, ours_waits, peer_waits)
