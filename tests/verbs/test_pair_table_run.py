"""A pair table from its pairs to its files, and what puts its cells together."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_pairs import pair_cohort

from mskray.cohorts import open_cohort
from mskray.cohorts.change import CHANGE
from mskray.cohorts.ingest import ingest
from mskray.estimators.cache import Cache
from mskray.estimators.pair_cells import Cell, CellResult, Fold, Work
from mskray.estimators.pair_words import KeyPointSection, PairWords, SplitsWords
from mskray.estimators.pairs import AugmentSection, FoldOutcome, Judged
from mskray.imaging.keypoints import WIDTHS, Kind
from mskray.progress import Progress
from mskray.storage import locate
from mskray.verbs.pair_table import CELLS, PAGE, TABLE, TEXT, PairTableConfig, _kept, _outcomes, pair_table

NOTHING = np.zeros(0, np.int64)


def test_a_pair_that_one_descriptor_cannot_judge_is_left_out_of_all(tmp_path: Path) -> None:
    cohort = pair_cohort(tmp_path / "pairs", {"train": [0, 1, 2, 1], "test": [0, 1, 2]})
    cache, augment = Cache(locate(tmp_path / "cache"), 10**9), AugmentSection(noise_copies=0)
    gone: dict[tuple[Kind, str], list[tuple[int, int]]] = {
        ("sift", "train"): [(1, 0)],
        ("sift", "test"): [],
        ("orb", "train"): [],
        ("orb", "test"): [(2, 0), (2, 1)],
    }
    words: dict[Kind, SplitsWords] = {}
    for (kind, name), images in gone.items():
        split = PairWords.open(cohort, name, CHANGE, KeyPointSection(descriptor=kind), augment, cache)
        lengths = np.ones((split.pairs, 1, 2), np.int32)
        for row, member in images:
            lengths[row, 0, member] = 0
        width = WIDTHS[kind] // 8 if kind == "orb" else WIDTHS[kind]
        split.parts.write(0, {"descriptors": np.zeros((lengths.sum(), width), np.uint8), "lengths": lengths})
        words[kind] = SplitsWords((*(words[kind].splits if kind in words else ()), split))
    said: list[Progress] = []
    kept, reasons = _kept(cohort, words, said.append)
    assert kept.tolist() == [0, 2, 3, 4, 5]
    assert reasons == [
        "pair train-001: no SIFT key point before",
        "pair test-002: no ORB key point before and after",
    ]
    assert [each.stage for each in said] == [f"2 of 7 pairs left out of every model: {reasons[0]} …"]


class Nothing:
    """Work that is not done."""

    def __call__(self, fold: Fold) -> CellResult:
        raise AssertionError("outcomes are read, no cell is run")


def test_outcomes_stand_by_task_and_model_whatever_the_order_of_cells() -> None:
    folds, work = ["fold 1", "fold 2", "all folds"], Nothing()

    def result(model: str, fold: str, *keys: str) -> tuple[Cell, CellResult]:
        """Judged by a number that says of which cell and key it is."""
        outcomes = {}
        for key in keys:
            judged = Judged(NOTHING, np.array([[float(len(f"{key}{model}")), folds.index(fold)]]))
            outcomes[key] = FoldOutcome(judged, judged)
        given: Work = work
        return Cell(model, Fold(fold, NOTHING, NOTHING), {}, given), CellResult(outcomes, {})

    results = [
        result("SIFT, |V| = 50", fold, "change/svm", "change/gaussian_nb", "improved/svm") for fold in folds[::-1]
    ]
    results += [result("CNN softmax", fold, "change/softmax", "improved/softmax") for fold in folds]
    found = _outcomes(results, folds)
    assert {task: list(models) for task, models in found.items()} == {
        "change": ["CNN softmax", "NB-BOW, SIFT, |V| = 50", "SVM-BOW, SIFT, |V| = 50"],
        "improved": ["CNN softmax", "SVM-BOW, SIFT, |V| = 50"],
    }
    for models in found.values():
        for each in models.values():
            assert [one.dev.probabilities[0, 1] for one in (*each.folds, each.final)] == [0, 1, 2]
    naive = found["change"]["NB-BOW, SIFT, |V| = 50"].final.train.probabilities[0, 0]
    assert naive == len("change/gaussian_nbSIFT, |V| = 50")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(570)
def test_from_pairs_to_a_table(ray_cluster: str, tmp_path: Path) -> None:
    """Every model of both tasks has its errors over the pairs that there are; asked again, no cell is made again."""
    options = {"patients": 24, "image_size": 128, "noise": 0.02}
    settings = {"size": 128, "split_fractions": [0.6, 0.2, 0.2], "shard_rows": 32}
    ingest("phantom-pairs", None, tmp_path / "cohort", options, settings, key=b"a key for tests only")
    cohort, out = open_cohort(tmp_path / "cohort"), tmp_path / "table"
    config = PairTableConfig.model_validate(
        {
            "network": {"backbone": "resnet18", "weights": "none"},
            "data": {"image_size": 64},
            "descriptors": ["sift", "orb"],
            "vocabularies": [8],
            "keypoints": {"most": 40},
            "augment": {"noise_copies": 1},
            "folds": {"count": 2},
            "softmax": {"features": 32, "C": [10.0]},
            "resamples": 100,
        }
    )
    said: list[Progress] = []
    table = pair_table(str(cohort.location), str(out), config, said.append)
    splits = {name: count.images for name, count in cohort.manifest.counts.splits.items()}
    assert table.counts == {
        "cross-validated": splits["train"] + splits["validation"],
        "held out (test)": splits["test"],
        "refused": 0,
    }
    models = ["CNN softmax", *(f"{judge}-BOW, {kind}, |V| = 8" for judge in ("NB", "SVM") for kind in ("ORB", "SIFT"))]
    assert list(table.rows) == ["change", "improved"]
    for rows in table.rows.values():
        assert [row.name for row in rows[:5]] == models
        assert [row.members for row in rows[-3:]] == [tuple(models)] * 3
        assert len(rows) == 5 + 3 + 3
        for row in rows:
            assert row.test is not None
            # With two folds, each pair is learned from once and developed on once.
            assert row.train.n == row.dev.n == table.counts["cross-validated"]
            assert row.test.n == splits["test"]
            assert all(0 <= each.value <= 1 for each in (row.train, row.dev, row.test))
        assert rows[0].train.value < rows[0].dev.value, "the softmax knows no better what it has learned"
    assert len(table.vocabularies) == 2 * 3
    assert len(list((out / CELLS).iterdir())) == 3 + 2 * 3
    assert json.loads((out / TABLE).read_text()) == json.loads(json.dumps(table.to_dict()))
    assert all(f"| {name} |" in (out / TEXT).read_text() for name in ("CRMO: CNN softmax", "CNN softmax"))
    assert "SVM-BOW, ORB, |V| = 8" in (out / PAGE).read_text()

    said.clear()
    again = pair_table(str(cohort.location), str(out), config, said.append)
    assert "9 of 9 cells are there already" in [each.stage for each in said]
    assert again.to_dict() == table.to_dict()
