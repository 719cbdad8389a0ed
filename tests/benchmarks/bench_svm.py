"""Bagged SVMs on 20,000 × 2,048 features: seconds, and memory above what was there before.

    python tests/benchmarks/bench_svm.py

Ten SVMs with a polynomial kernel of degree 5, each on a tenth of the rows drawn with replacement, on standardised
features. Ours reads files of features and fits on Ray tasks; the peer is scikit-learn's
BaggingClassifier(SVC(…), n_jobs=2) on an array in memory. Memory is of the whole tree of processes, from before the
features are read; both judge the same held-out rows.
"""

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import Case, Found, Reach, alternate, apart, main, seconds
from peaks import Peak

OURS, PEER = "mskray bagged SVMs", "scikit-learn BaggingClassifier(n_jobs=2)"
FEATURES, LATENT, CLUSTERS, FILE_ROWS, HELD_OUT = 2048, 24, 3, 1024, 1000
BAGS, SHARE, DEGREE = 10, 0.1, 5


def cases(options: argparse.Namespace) -> Iterator[Found]:
    rows = 2000 if options.small else 20_000
    figures: dict[str, dict[str, list[float]]] = {name: {OURS: [], PEER: []} for name in ("mb", "accuracy")}
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, function: str) -> float:
            found = apart(__file__, function, folder=folder, rows=rows)
            for figure, values in figures.items():
                values[name].append(found[figure])
            return float(found["seconds"])

        apart(__file__, "prepare", folder=folder, rows=rows)
        runs = alternate({OURS: lambda: run(OURS, "ours"), PEER: lambda: run(PEER, "peer")}, options.rounds)
    what = f"{BAGS} SVMs on bags of {SHARE:.0%} of {rows:,} × {FEATURES:,} features"
    reached = ", ".join(f"{name} {np.median(values):.3f}" for name, values in figures["accuracy"].items())
    yield Case(f"{what}, time", "s", OURS, runs, [Reach(PEER, 1.0)], [f"Held-out accuracy: {reached}."])
    yield Case(f"{what}, memory", "MB", OURS, figures["mb"], [Reach(PEER, 10.0)])


def prepare(folder: str, rows: int) -> None:
    """Two classes as clusters in a space of 24 dimensions that a line cannot part, laid into 2,048 with noise."""
    shape = np.random.default_rng(0)
    centres = shape.normal(0, 0.5, (2, CLUSTERS, LATENT))
    basis = shape.normal(0, 1, (LATENT, FEATURES)).astype(np.float32)
    for name, count, seed in (("train", rows, 1), ("test", HELD_OUT, 2)):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, count)
        files = _files(folder, name, count)
        for number, size in enumerate(files.counts):
            part = labels[number * FILE_ROWS : number * FILE_ROWS + size]
            centre = centres[part, random.integers(0, CLUSTERS, size)]
            latent = (centre + random.normal(0, 1, centre.shape)).astype(np.float32)
            noise = random.normal(0, 4, (size, FEATURES)).astype(np.float32)
            files.write(number, np.maximum(latent @ basis + noise, 0))
        np.save(f"{folder}/{name}-labels.npy", labels)


def ours(folder: str, rows: int) -> dict[str, float]:
    import ray

    from mskray.estimators.bagging import Bagging, Labelled
    from mskray.estimators.bags import BagSection, SvmSection
    from mskray.progress import silent
    from mskray.storage import locate

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    labels, held = _labels(folder)
    whole = np.array(["ALL"] * rows, dtype=object)
    train = Labelled(_files(folder, "train", rows), labels, whole, np.arange(rows))
    test = Labelled(_files(folder, "test", HELD_OUT), held, whole[:HELD_OUT], np.arange(HELD_OUT))
    svm = SvmSection(degree=DEGREE, per_part=False)
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as place, Peak() as peak:
        bagging = Bagging(2, svm, BagSection(number=BAGS, max_samples=SHARE), locate(place), silent)

        def fit() -> None:
            bagging.check(rows, FEATURES, FILE_ROWS)
            found.extend(bagging.fit(train, test))

        took = seconds(fit)
    judged = found[0].probabilities(test.files.gather(np.arange(HELD_OUT)), test.parts.tolist()).argmax(axis=1)
    ray.shutdown()
    return {"seconds": took, "mb": peak.above_mb, "accuracy": float((judged == held).mean())}


def peer(folder: str, rows: int) -> dict[str, float]:
    from sklearn.ensemble import BaggingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    labels, held = _labels(folder)
    svm = SVC(kernel="poly", degree=DEGREE, gamma=1 / FEATURES, coef0=1.0)
    model = make_pipeline(StandardScaler(), BaggingClassifier(svm, BAGS, max_samples=SHARE, n_jobs=2, random_state=0))
    with Peak() as peak:
        train = _files(folder, "train", rows).gather(np.arange(rows))
        took = seconds(lambda: model.fit(train, labels))
    test = _files(folder, "test", HELD_OUT).gather(np.arange(HELD_OUT))
    return {"seconds": took, "mb": peak.above_mb, "accuracy": float(model.score(test, held))}


def _files(folder: str, name: str, rows: int) -> Any:
    from mskray.estimators.features import FeatureFiles
    from mskray.storage import locate

    counts = tuple(min(FILE_ROWS, rows - start) for start in range(0, rows, FILE_ROWS))
    return FeatureFiles(locate(folder).join(name), counts)


def _labels(folder: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(f"{folder}/train-labels.npy"), np.load(f"{folder}/test-labels.npy")


if __name__ == "__main__":
    main(cases, prepare, ours, peer)
