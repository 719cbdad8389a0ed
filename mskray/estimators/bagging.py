"""Bags of SVMs fitted on Ray tasks, in bounded memory; each finished bag is a file that a later run finds.

A task holds one bag and its kernel, never the split, and tells Ray how much that is (`bag_bytes`). So at most
min(CPUs, memory of a node / memory of a bag) bags are fitted at once on a node; what one process holds does not grow
with the cohort, but with `bag.max_samples` up to `bag.most_rows`. The driver holds the support vectors, up to
`number` × rows of a bag for each model, twice while the bundle is written. Tasks never import torch.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from mskray.errors import Fault, UserError, user_error_in
from mskray.estimators.bags import Bag, BagSection, SvmSection, bag_bytes, bag_size, draw_bag, models_for
from mskray.estimators.features import FeatureFiles
from mskray.estimators.out_of_bag import decide, left_out, spread_duals
from mskray.estimators.svm import (
    ALL_PARTS,
    CONSTANT,
    BaggedSVM,
    FittedBag,
    PartModel,
    Polynomial,
    Standard,
    fit_svms,
    mean_of_bags,
)
from mskray.progress import Progress, Report
from mskray.storage import Location


@dataclass(frozen=True)
class Labelled:
    """The features of a split, with the class (rows,), the body part (rows,) and the patient (rows,) of each."""

    files: FeatureFiles
    labels: np.ndarray
    parts: np.ndarray
    patients: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """Numbers of the rows that a model is fitted on or calibrated with, ascending."""
        return np.arange(len(self.labels)) if name == ALL_PARTS else np.flatnonzero(self.parts == name)


@dataclass(frozen=True)
class Bagging:
    """How to fit.

    Args:
        classes: number of classes.
        folder: where finished bags are kept; it belongs to this very job.
    """

    classes: int
    svm: SvmSection
    bag: BagSection
    folder: Location
    report: Report

    def check(self, largest: int, width: int, file_rows: int) -> None:
        """Say how much memory a task takes at most; raise UserError where no node has it, for it would wait for ever.

        Args:
            largest: most rows of any model; width: features; file_rows: most rows of a file of features.
        """
        rows = bag_size(largest, self.bag)
        need = self._bytes(largest, width, file_rows)
        most = max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if need > most:
            raise UserError(
                f"a bag of {rows:,} rows of {width:,} features needs {need / 2**20:,.0f} MB, the largest node has "
                f"{most / 2**20:,.0f} MB for tasks: lower bag.most_rows (now {self.bag.most_rows:,}) or svm.cache_mb"
            )
        self.report(Progress(f"bags of up to {rows:,} of {largest:,} images: {need / 2**20:,.0f} MB for each in work"))

    def fit(self, train: Labelled, validation: Labelled | None) -> tuple[BaggedSVM, np.ndarray]:
        """Fit every model on `train`, calibrate it on `validation`; `check` comes before.

        Args:
            validation: None where no split is held back: calibrated out of bag (`mskray.estimators.out_of_bag`).
        Returns:
            The model, and its probabilities (n, classes) for the rows of `validation`, else for those of `train`, out
            of bag, with NaN where no bag leaves the patient out.
        Raises:
            UserError: tasks failed more often than Ray tries them again, or every bag holds all patients of a class.
        """
        held = validation or train
        names, lines = models_for((train.parts, held.parts), (train.labels, held.labels), self.classes, self.svm)
        for line in lines:
            self.report(Progress(line))
        standards = self._standards(train, names)
        kernel = Polynomial(self.svm.degree, 1 / len(standards[ALL_PARTS].mean), self.svm.coef0)
        self._fit_bags(train, standards, kernel)
        model = BaggedSVM(kernel, {name: self._join(train, name, standards[name]) for name in names})
        return self._calibrate_out_of_bag(model, train) if validation is None else self._calibrate(model, validation)

    def _standards(self, train: Labelled, names: list[str]) -> dict[str, Standard]:
        known = sorted(set(train.parts))
        rows, sums, squares = train.files.moments(np.searchsorted(known, train.parts.astype(str)), len(known))
        of = {part: Standard.of(rows[i], sums[i], squares[i]) for i, part in enumerate(known) if part in names}
        return {**of, ALL_PARTS: Standard.of(rows.sum(), sums.sum(axis=0), squares.sum(axis=0))}

    def _fit_bags(self, train: Labelled, standards: dict[str, Standard], kernel: Polynomial) -> None:
        there = {entry.path for entry in self.folder.walk()}
        files, waiting, kept = ray.put(train.files), [], 0
        for index, (name, standard) in enumerate(standards.items()):
            rows = train.of(name)
            labels, shared = train.labels[rows], ray.put(standard)
            memory = self._bytes(len(rows), len(standard.mean), max(train.files.counts))
            for number in range(self.bag.number):
                place = _bag_file(name, number)
                if place in there:
                    kept += 1
                    continue
                drawn = draw_bag(labels, self.bag, (index, number))
                job = _BagJob(
                    Bag(rows[drawn.rows], drawn.counts),
                    labels[drawn.rows],
                    self.classes,
                    kernel,
                    self.svm.C,
                    self.svm.cache_mb,
                    self.folder.join(place),
                )
                waiting.append(_fit_bag.options(memory=memory).remote(job, files, shared))
        total = kept + len(waiting)
        note = f"{kept} kept" if kept else ""
        for done, _ in enumerate(_finished(waiting), kept + 1):
            self.report(Progress("fitting SVMs", done, total, "bags", note=note))

    def _bytes(self, rows: int, width: int, file_rows: int) -> int:
        """Most memory of a task that fits a bag of some of `rows`; every class may add a row to the bag."""
        return bag_bytes(bag_size(rows, self.bag) + self.classes, width, file_rows, self.svm.cache_mb)

    def _join(self, train: Labelled, name: str, standard: Standard) -> PartModel:
        rows = train.of(name)
        used, duals, intercepts = mean_of_bags(rows, self._bags(name))
        vectors = train.files.gather(rows[used])
        standard(vectors, out=vectors)
        return PartModel(standard, vectors, duals, intercepts, np.ones(len(duals)), np.zeros(len(duals)))

    def _bags(self, name: str) -> list[FittedBag]:
        contents = (self.folder.join(_bag_file(name, number)).read_bytes() for number in range(self.bag.number))
        return [FittedBag(**np.load(io.BytesIO(content), allow_pickle=False)) for content in contents]

    def _calibrate(self, model: BaggedSVM, validation: Labelled) -> tuple[BaggedSVM, np.ndarray]:
        """Fit each model's sigmoids on the validation images of its body part, that over all parts on all images.

        The probabilities returned with them, (n, classes) of the validation images, are by sigmoids fitted without
        their patients.
        """
        names = model.named(validation.parts.tolist())
        shared, starts = ray.put(model), validation.files.starts
        pending = [
            _decide.remote(shared, validation.files, number, names[starts[number] : starts[number + 1]])
            for number in validation.files.numbers
        ]
        own, over_all = (
            np.concatenate(parts) for parts in zip(*_results(pending, self._told("calibrating")), strict=True)
        )
        models, result = {}, np.empty((len(names), self.classes))
        for name, each in model.models.items():
            decision, inside = (over_all if name == ALL_PARTS else own), validation.of(name)
            models[name] = each.calibrated(decision[inside], validation.labels[inside])
            answered = names[inside] == name
            crossed = each.crossed(decision[inside], validation.labels[inside], validation.patients[inside])
            result[inside[answered]] = crossed[answered]
        return self._made(model.kernel, models), result

    def _calibrate_out_of_bag(self, model: BaggedSVM, train: Labelled) -> tuple[BaggedSVM, np.ndarray]:
        """Fit each model's sigmoids on its own rows, each judged by the bags without its patient.

        A body part of which too few rows are so judged is left to the model over all parts.
        """
        models: dict[str, PartModel] = {}
        found = {name: self._out_of_bag(model, name, train) for name in model.models}
        for name, decision in found.items():
            labels, known = train.labels[train.of(name)], np.isfinite(decision).all(axis=1)
            counts = np.bincount(labels[known], minlength=self.classes)
            if counts.min() > 0:
                models[name] = model.models[name].calibrated(decision[known], labels[known])
            elif name == ALL_PARTS:
                raise UserError(
                    f"every bag holds an image of each patient with class number {int(counts.argmin())}, so nothing "
                    "calibrates: lower bag.max_samples or raise bag.number"
                )
            else:
                self.report(Progress(f"{name} is answered by the model over all parts: too few images are out of bag"))
        result = np.empty((len(train.labels), self.classes))
        names = BaggedSVM(model.kernel, models).named(train.parts.tolist())
        for name, each in models.items():
            inside = train.of(name)
            answered = names[inside] == name
            result[inside[answered]] = each.probabilities(found[name][answered])
        return self._made(model.kernel, models), result

    def _made(self, kernel: Polynomial, models: dict[str, PartModel]) -> BaggedSVM:
        for name in (name for name, each in models.items() if each.constant):
            self.report(
                Progress(f"the model {f'of {name}' if name else 'over all parts'} tells nothing apart: {CONSTANT}")
            )
        return BaggedSVM(kernel, models)

    def _out_of_bag(self, model: BaggedSVM, name: str, train: Labelled) -> np.ndarray:
        """Decisions (n, outputs) of a model for its own rows, NaN where every bag holds the patient."""
        rows, bags = train.of(name), self._bags(name)
        outside = left_out(train.patients[rows], rows, bags)
        part, spread = ray.put(model.models[name]), ray.put(spread_duals(rows, mean_of_bags(rows, bags)[0], bags))
        pending = [
            decide.remote(
                part, model.kernel, spread, train.files, number, rows[at] - train.files.starts[number], outside[at]
            )
            for number, at in train.files.where(rows)
        ]
        return np.concatenate(list(_results(pending, self._told(f"calibrating {name or 'over all parts'}"))))

    def _told(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(Progress(stage, done, total, "shards"))


@dataclass(frozen=True)
class _BagJob:
    """One bag, its rows those of the whole split; `labels` (m,) of its distinct rows; `place` of its result."""

    bag: Bag
    labels: np.ndarray
    classes: int
    kernel: Polynomial
    C: float
    cache_mb: int
    place: Location


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def _fit_bag(job: _BagJob, files: FeatureFiles, standard: Standard) -> None:
    features = files.gather(job.bag.rows)
    standard(features, out=features)
    gram = job.kernel(features, features)
    del features
    duals, intercepts = fit_svms(gram, job.labels, job.bag.counts, job.classes, job.C, job.cache_mb)
    buffer = io.BytesIO()
    np.savez(buffer, rows=job.bag.rows, duals=duals, intercepts=intercepts)
    job.place.write_bytes(buffer.getbuffer())


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def _decide(model: BaggedSVM, files: FeatureFiles, number: int, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return decisions (n, outputs) of one file's rows: of the model named for each, and of that over all parts."""
    features = files.read(number)
    over_all = model.models[ALL_PARTS].decision(features, model.kernel)
    own = over_all.copy()
    for name in set(names) - {ALL_PARTS}:
        own[names == name] = model.models[name].decision(features[names == name], model.kernel)
    return own, over_all


def _finished(waiting: list[Any]) -> Iterator[None]:
    """Yield as tasks finish, in any order; those that wait are cancelled when one fails."""
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            yield
    except RayError as error:
        raise _stopped(error) from error
    finally:
        for each in waiting:
            with suppress(RayError):
                ray.cancel(each)


def _results(pending: list[Any], told: Callable[[int, int], None]) -> Iterator[Any]:
    """Yield the tasks' results in order."""
    try:
        for done, each in enumerate(pending, 1):
            yield ray.get(each)
            told(done, len(pending))
    except RayError as error:
        raise _stopped(error) from error


def _stopped(error: RayError) -> UserError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[-1][:300]
    return user_error_in(error) or (UserError if isinstance(error, RayTaskError) else Fault)(
        f"fitting SVMs stopped ({type(error).__name__}: {reason}): the same command goes on with the bags that are left"
    )


def _bag_file(name: str, number: int) -> str:
    """Name a bag's file; body parts are any text, so they are spelt in hexadecimal."""
    return f"bag-{name.encode().hex() or 'all'}-{number:04d}.npz"
