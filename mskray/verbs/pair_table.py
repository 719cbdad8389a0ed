"""`mskray pair-table COHORT --out FOLDER`: every model of pairs and their votes, as in CRMO's table.

For three classes and for two: `pair_softmax`, and `pair_bovw` with each descriptor, size of vocabulary and classifier.
Pairs of the test split are held out, those of the validation split where there is no test split; all others are dealt
to folds.

Each vocabulary is learned from at most `kmeans.most` descriptors of its fold's training pairs, drawn evenly from all of
them: 50,000 unless told otherwise, 0 for all. Its k-means runs in the process of its cell: cells are spread over the
cluster, not the passes of one vocabulary; training the family pair_bovw learns from all descriptors, and spreads the
passes where one process does not hold them.

Cells (a vocabulary in a fold with all that is judged by it, or the softmax in a fold) run side by side on Ray; a
finished one is a file in the folder and is not made again.

Patients are dealt to folds once, by the first task's classes, so that both tasks share vocabularies.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import ray
from pydantic import Field

from mskray import cluster
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.change import CHANGE, IMPROVED, PAIR
from mskray.cohorts.reach import check_everywhere
from mskray.config import setting
from mskray.errors import UserError
from mskray.estimators.cache import Cache, kept_in_use
from mskray.estimators.network_features import VERSION as FEATURES_VERSION
from mskray.estimators.network_features import FeatureNetwork
from mskray.estimators.pair_cells import Cell, CellResult, Fold, SoftmaxWork, WordsWork, read_cell, run_cells
from mskray.estimators.pair_features import pair_features
from mskray.estimators.pair_table import Outcomes, table_rows
from mskray.estimators.pair_words import VERSION as WORDS_VERSION
from mskray.estimators.pair_words import (
    ImageSection,
    KeyPointSection,
    PairWords,
    SplitsWords,
    extract,
    refusals,
    usable,
)
from mskray.estimators.pairs import FoldOutcome, FoldSection, Pairs, check_folds, check_reversal, fold_numbers
from mskray.estimators.starts import KMeansSection
from mskray.estimators.words import Classifier, ClassifierSection, JudgeSection
from mskray.families.feature_source import check_bundle
from mskray.families.pair_softmax import PairSoftmaxConfig, feature_network_of
from mskray.imaging.keypoints import KINDS, Kind
from mskray.progress import Progress, Report, silent
from mskray.storage import check_access, locate
from mskray.training.feed import LOADER_CPUS
from mskray.training.run import Resources
from mskray.verbs.pair_table_text import PairTable

CELLS, TABLE, TEXT, PAGE = "cells", "pair-table.json", "pair-table.md", "pair-table.html"
# Which pairs can be judged depends on all descriptors of the table, and so do folds and results.
_DECIDE = ("keypoints", "descriptors", "augment", "folds")
_SOFTMAX = "CNN softmax"
_SHORT: Mapping[str, str] = {"svm": "SVM", "gaussian_nb": "NB", "multinomial_nb": "multinomial NB"}


class TableKMeansSection(KMeansSection):
    """As for one model; a table has many vocabularies."""

    most: int = setting(
        50_000,
        "descriptors that each learns from, drawn evenly from all; 0 for all",
        unit="descriptors",
        ge=0,
        le=10**10,
    )


class TableResources(Resources):
    """What a table may occupy: actors that extract features first, then cells."""

    cpus_per_cell: float = setting(
        1.0,
        "CPUs reserved for each cell: more for fewer cells at once, each with more memory",
        unit="CPUs",
        gt=0,
        le=256,
    )


class PairTableConfig(PairSoftmaxConfig):
    """What the table holds; the softmax's sections are those of its family."""

    descriptors: tuple[Kind, ...] = setting(KINDS, "key points", source="CRMO", min_length=1)
    vocabularies: tuple[Annotated[int, Field(ge=2, le=100_000)], ...] = setting(
        (50, 500), "sizes of vocabulary", unit="words", source="CRMO", min_length=1
    )
    classifiers: tuple[Classifier, ...] = setting(("svm", "gaussian_nb"), "judges", source="CRMO", min_length=1)
    resamples: int = setting(2000, "resamples of the patients, for intervals", ge=100, le=100_000)
    keypoints: ImageSection = ImageSection()
    kmeans: TableKMeansSection = TableKMeansSection()
    classifier: JudgeSection = JudgeSection()
    resources: TableResources = TableResources()


def pair_table(cohort: str, out: str, config: PairTableConfig, report: Report = silent) -> PairTable:
    """Fill the table and write it to `out`; cells that are there already are not made again.

    Raises:
        UserError: before any work, where the cohort, a fold or `out` does not do; later as a cell does.
    """
    opened, place = open_cohort(cohort), locate(out)
    tasks = _tasks(opened)
    check_bundle(config.network, opened, ("radiograph",))
    for task in tasks:
        check_reversal(task, config.augment)
    check_access(place, write=True)
    splits, last = list(opened.splits), _held_out(opened)
    pairs = {task.name: Pairs.of_splits(opened, splits, task) for task in tasks}
    held = np.repeat([split == last for split in splits], [len(Pairs.read(opened, each, tasks[0])) for each in splits])
    _folds(pairs[tasks[0].name], held, config.folds, str(opened.location))  # refused here, before anything is extracted
    network, config = feature_network_of(config)
    resources = config.resources
    with cluster.session():
        check_everywhere([opened.location], [place])
        need = cluster.Need("features", resources.workers, resources.cpus_per_worker, resources.gpus)
        cluster.require(need, LOADER_CPUS)
        cluster.require(cluster.Need("a cell of the table", 1, resources.cpus_per_cell), 0.0)
        words = {kind: _extracted(opened, splits, tasks[0], kind, config, report) for kind in config.descriptors}
        kept, left_out = _kept(opened, words, report)
        refused = len(held) - len(kept)
        pairs, held = {name: each.some(kept) for name, each in pairs.items()}, held[kept]
        folds = _folds(pairs[tasks[0].name], held, config.folds, str(opened.location))
        facts = {
            "cohort": opened.content_hash,
            "words": WORDS_VERSION,
            **config.model_dump(mode="json", include=set(_DECIDE)),
        }
        cells = _softmax_cells(opened, splits, kept, pairs, folds, network, config, facts, report)
        cells += _words_cells(words, kept, pairs, folds, config, facts)
        told = kept_in_use(report, [split.parts.folder for each in words.values() for split in each.splits])
        run_cells(cells, place.join(CELLS), resources.cpus_per_cell, resources.max_failures, told)
    results = [(cell, read_cell(place.join(CELLS, cell.file))) for cell in cells]
    models = _outcomes(results, [fold.name for fold in folds])
    learned = tuple({"model": cell.model, "fold": cell.fold.name, **each.facts} for cell, each in results if each.facts)
    stopped = sum(not each["converged"] for each in learned)
    if stopped:
        report(Progress(f"{stopped} of {len(learned)} vocabularies did not converge: raise kmeans.iterations"))
    report(Progress("computing errors and intervals"))
    rows = {name: table_rows(each, models[name], _SOFTMAX, config.resamples) for name, each in pairs.items()}
    counts = {"cross-validated": int((~held).sum()), f"held out ({last})": int(held.sum()), "refused": refused}
    table = PairTable(
        str(opened.location),
        opened.content_hash,
        config.model_dump(mode="json"),
        counts,
        tuple(left_out),
        learned,
        rows,
    )
    place.join(TABLE).write_json(table.to_dict())
    place.join(TEXT).write_bytes(table.markdown().encode())
    place.join(PAGE).write_bytes(table.html().encode())
    return table


def _tasks(cohort: Cohort) -> list[Task]:
    if cohort.manifest.kind != PAIR:
        raise UserError(f"pair-table reads pair cohorts, {cohort.location} holds {cohort.manifest.kind}s")
    found = [task for task in (CHANGE, IMPROVED) if task in cohort.tasks]
    if not found:
        raise UserError(f"cohort {cohort.location} has neither task {CHANGE.name} nor {IMPROVED.name}: ingest pairs")
    if "train" not in cohort.splits:
        raise UserError(f"cohort {cohort.location} has no train split (it has {', '.join(cohort.splits)})")
    for split in cohort.splits:
        labels = cohort.manifest.counts.splits[split].labels
        counts = {task.name: sum(labels[task.name].get(name, 0) for name in task.classes) for task in found}
        if split == _held_out(cohort) and not any(counts.values()):
            raise UserError(
                f"cohort {cohort.location}, split {split}: no pair of it has a label, and it would be held out: bring "
                "labels, or ingest without this split"
            )
        if len(set(counts.values())) > 1:
            said = " and ".join(f"{name} of {count}" for name, count in counts.items())
            raise UserError(
                f"cohort {cohort.location}, split {split}: labels of {said} pairs: both tasks need the same"
            )
    return found


def _held_out(cohort: Cohort) -> str:
    """Return the split that is held out, "" where there is one alone."""
    return cohort.splits[-1] if len(cohort.splits) > 1 else ""


def _extracted(
    cohort: Cohort, splits: list[str], task: Task, kind: Kind, config: PairTableConfig, report: Report
) -> SplitsWords:
    section = KeyPointSection(descriptor=kind, **config.keypoints.model_dump())
    cache = Cache.of(config.cache, cohort)
    found = [PairWords.open(cohort, split, task, section, config.augment, cache) for split in splits]
    for each in found:
        extract(each, report)
    return SplitsWords(tuple(found))


def _kept(cohort: Cohort, words: Mapping[Kind, SplitsWords], report: Report) -> tuple[np.ndarray, list[str]]:
    """Return the rows of the pairs that every model can judge, and of the others why not."""
    good: Any = True
    reasons: list[str] = []
    for each in words.values():
        for split in each.splits:
            reasons += refusals(cohort, split, split.lengths())
        good = good & usable(each.lengths())
    if not good.all():
        report(Progress(f"{int((~good).sum())} of {len(good)} pairs left out of every model: {reasons[0]} …"))
    return np.flatnonzero(good), reasons


def _folds(pairs: Pairs, held: np.ndarray, section: FoldSection, where: str) -> list[Fold]:
    """Deal what is not held out to folds; the last one learns from all of it and is held to what is held out."""
    inside = np.flatnonzero(~held)
    some = pairs.some(inside)
    number = fold_numbers(some, section)
    check_folds(some, number, where)
    folds = [
        Fold(f"fold {each + 1} of {section.count}", inside[number != each], inside[number == each])
        for each in range(section.count)
    ]
    return [*folds, Fold("all folds", inside, np.flatnonzero(held))]


def _softmax_cells(
    cohort: Cohort,
    splits: list[str],
    kept: np.ndarray,
    pairs: Mapping[str, Pairs],
    folds: list[Fold],
    network: FeatureNetwork,
    config: PairTableConfig,
    facts: Mapping[str, Any],
    report: Report,
) -> list[Cell]:
    task = next(iter(pairs.values())).task
    cache = Cache.of(config.cache, cohort)
    found = pair_features(cohort, tuple(splits), task, network, config.augment, cache, config.resources, None, report)
    features = ray.put(np.concatenate([found[split] for split in splits if len(found[split])])[kept])
    decide = {
        **facts,
        "features": FEATURES_VERSION,
        "network": network.hash,
        "input": vars(network.input),
        "softmax": config.softmax.model_dump(mode="json"),
    }
    work = SoftmaxWork(features, config.softmax, config.folds, config.augment, pairs)
    return [Cell(_SOFTMAX, fold, decide, work) for fold in folds]


def _words_cells(
    words: Mapping[Kind, SplitsWords],
    kept: np.ndarray,
    pairs: Mapping[str, Pairs],
    folds: list[Fold],
    config: PairTableConfig,
    facts: Mapping[str, Any],
) -> list[Cell]:
    """Return the cells of every vocabulary, those that take longest first."""
    decide = {**facts, **config.model_dump(mode="json", include={"kmeans", "classifier", "classifiers"})}
    sections = tuple(ClassifierSection(name=name, **config.classifier.model_dump()) for name in config.classifiers)
    return [
        Cell(
            f"{kind.upper()}, |V| = {size}",
            fold,
            {**decide, "kind": kind, "size": size},
            WordsWork(each, kept, size, config.kmeans, sections, config.augment, pairs),
        )
        for size in sorted(config.vocabularies, reverse=True)
        for kind, each in words.items()
        for fold in folds
    ]


def _outcomes(results: list[tuple[Cell, CellResult]], folds: list[str]) -> dict[str, dict[str, Outcomes]]:
    """Return what each model said, by task and name, the softmax first."""
    found: dict[str, dict[str, dict[str, FoldOutcome]]] = {}
    for cell, result in results:
        for key, outcome in result.outcomes.items():
            task, judge = key.split("/")
            name = cell.model if judge == "softmax" else f"{_SHORT[judge]}-BOW, {cell.model}"
            found.setdefault(task, {}).setdefault(name, {})[cell.fold.name] = outcome
    return {
        task: {
            name: Outcomes(tuple(each[fold] for fold in folds[:-1]), each[folds[-1]])
            for name, each in sorted(models.items(), key=lambda item: (item[0] != _SOFTMAX, item[0]))
        }
        for task, models in found.items()
    }
