"""The pair table: errors and votes by hand, cells that are kept, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pairs import pair_cohort

from mskray.cohorts import Cohort
from mskray.cohorts.change import CHANGE
from mskray.cohorts.schema import MISSING
from mskray.config import validate
from mskray.errors import UserError
from mskray.estimators import pair_cells
from mskray.estimators.cache import Cache
from mskray.estimators.kmeans import fit_kmeans
from mskray.estimators.pair_cells import Cell, CellResult, Fold, missing_cells, read_cell, run_cells, write_cell
from mskray.estimators.pair_samples import PairImages
from mskray.estimators.pair_table import Outcomes, table_rows, text_cells, vote_outcomes
from mskray.estimators.pair_words import KeyPointSection, PairWords, SplitsWords
from mskray.estimators.pairs import AugmentSection, FoldOutcome, Judged, Pairs
from mskray.estimators.pieces import Here
from mskray.progress import Progress
from mskray.storage import locate
from mskray.verbs.pair_table import PairTableConfig, pair_table
from mskray.verbs.pair_table_text import PairTable

N = 12
PAIRS = Pairs(CHANGE, np.arange(N + 3) % 3, None, np.array([f"p{number}" for number in range(N + 3)]))
FOLDS = [
    Fold(f"fold {k + 1}", np.flatnonzero(np.arange(N) // 4 != k), np.arange(N)[4 * k : 4 * k + 4]) for k in range(3)
]
FINAL = Fold("all folds", np.arange(N), np.arange(N, N + 3))


def said(rows: np.ndarray, right: np.ndarray, sure: float) -> Judged:
    """The true class with probability `sure` where `right`, else the class after it."""
    rows = np.asarray(rows)
    called = np.where(right, PAIRS.labels[rows], (PAIRS.labels[rows] + 1) % 3)
    found = np.full((len(rows), 3), (1 - sure) / 2)
    found[np.arange(len(rows)), called] = sure
    return Judged(rows, found)


def model(right: np.ndarray, sure: float = 0.8) -> Outcomes:
    """A model that knows what it learned, and of what was held from it the pairs of `right` (n,)."""

    def judged(fold: Fold) -> FoldOutcome:
        return FoldOutcome(
            said(fold.rows, np.ones(len(fold.rows), bool), sure), said(fold.held, right[fold.held], sure)
        )

    return Outcomes(tuple(map(judged, FOLDS)), judged(FINAL))


def wrong_at(*rows: int) -> np.ndarray:
    right = np.ones(N + 3, bool)
    right[list(rows)] = False
    return right


def test_errors_by_hand() -> None:
    """Three of twelve wrong, one of each class: F1 of each class 6 / 8; all three held out are right."""
    (row,) = table_rows(PAIRS, {"one": model(wrong_at(0, 1, 2))}, "")
    assert row.train.value == 0
    assert row.train.n == 24  # two folds of three learn from each pair
    assert row.train.patients == 12
    assert row.dev.value == pytest.approx(1 - 6 / 8)
    assert row.dev.low is not None
    assert row.dev.low < 0.25 < (row.dev.high or 0)
    assert row.test is not None
    assert (row.test.value, row.test.right, row.test.n, row.test.low) == (0, 3, 3, None)
    assert text_cells(row)[3] == "0.00 (under 5 patients), 3 of 3 right (44% to 100%)"


def test_a_vote_mends_what_its_members_miss_one_at_a_time() -> None:
    models = {"a": model(wrong_at(0, 13)), "b": model(wrong_at(5, 13)), "c": model(wrong_at(9, 13))}
    rows = {row.name: row for row in table_rows(PAIRS, models, "a")}
    assert list(rows)[:4] == ["a", "b", "c", "soft vote: a + b"]
    for voting in ("soft", "hard", "weighted"):
        row = rows[f"{voting} vote: all 3"]
        assert row.dev.value == 0
        assert row.members == ("a", "b", "c")
        assert row.test is not None
        assert row.test.right == 2


def test_the_weights_of_a_fold_come_from_the_other_folds() -> None:
    """b is right in the first fold alone, a in the others: were fold 1 to weigh in on itself, b would count there."""
    a, b = model(wrong_at(*range(4)), 0.6), model(wrong_at(*range(4, 12)), 0.6)
    voted = vote_outcomes(PAIRS, [a, b], "weighted")
    np.testing.assert_array_equal(voted.folds[0].dev.probabilities, a.folds[0].dev.probabilities)
    # In the second, a and b each know one of the folds 1 and 3: nearly the plain mean.
    mean = (a.folds[1].dev.probabilities + b.folds[1].dev.probabilities) / 2
    np.testing.assert_allclose(voted.folds[1].dev.probabilities, mean, atol=1e-3)


def test_models_of_other_pairs_do_not_vote_together() -> None:
    other = model(wrong_at())
    turned = Outcomes(other.folds[::-1], other.final)
    with pytest.raises(ValueError, match="same pairs"):
        vote_outcomes(PAIRS, [other, turned], "soft")


def test_without_held_out_pairs_there_is_no_test_error() -> None:
    given = model(wrong_at(3))
    none = Judged(np.zeros(0, np.int64), np.zeros((0, 3)))
    given = Outcomes(given.folds, FoldOutcome(given.final.train, none))
    rows = table_rows(PAIRS, {"a": given, "b": given}, "")
    assert all(row.test is None for row in rows)
    assert text_cells(rows[0])[3] == "none held out"


class Counted:
    """Work that counts how often it is done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, fold: Fold) -> CellResult:
        self.done += 1
        learned = said(fold.rows, np.ones(len(fold.rows), bool), 0.9)
        return CellResult({"change/svm": FoldOutcome(learned, said(fold.held, fold.held < 6, 0.7))}, {"seed": 7})


def cells(work: Counted, **facts: Any) -> list[Cell]:
    return [Cell("SIFT", fold, facts, work) for fold in FOLDS]


def test_finished_cells_are_kept_and_others_are_not_taken_for_them(tmp_path: Path) -> None:
    folder, work = locate(tmp_path / "cells"), Counted()
    first, *others = cells(work, seed=0)
    write_cell(folder.join(first.file), first.work(first.fold))
    assert [cell.fold.name for cell in missing_cells(cells(work, seed=0), folder)] == ["fold 2", "fold 3"]
    for cell in others:
        write_cell(folder.join(cell.file), cell.work(cell.fold))
    assert missing_cells(cells(work, seed=0), folder) == []
    assert len(missing_cells(cells(work, seed=1), folder)) == 3
    assert work.done == 3
    assert read_cell(folder.join(first.file)).facts == {"seed": 7}
    found = read_cell(folder.join(first.file)).outcomes["change/svm"]
    expected = first.work(first.fold).outcomes["change/svm"]
    np.testing.assert_array_equal(found.dev.rows, expected.dev.rows)
    np.testing.assert_allclose(found.train.probabilities, expected.train.probabilities, rtol=1e-6)


class Assigned:
    """Work that tells what Ray has reserved for it."""

    def __call__(self, fold: Fold) -> CellResult:
        import ray

        judged = said(fold.held, fold.held < 6, 0.7)
        cpus = ray.get_runtime_context().get_assigned_resources()["CPU"]
        return CellResult({"change/svm": FoldOutcome(judged, judged)}, {"cpus": cpus})


@pytest.mark.slow
def test_a_cell_has_the_cpus_that_are_asked_for(ray_cluster: str, by_value: None, tmp_path: Path) -> None:
    folder, wanted = locate(tmp_path / "cells"), [Cell("SIFT", FOLDS[0], {}, Assigned())]
    seen: list[Progress] = []
    run_cells(wanted, folder, cpus=1.5, report=seen.append)
    assert read_cell(folder.join(wanted[0].file)).facts == {"cpus": 1.5}
    assert (seen[-1].done, seen[-1].total, seen[-1].note) == (1, 1, "SIFT, fold 1")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"], ids=["empty", "cut", "text"])
def test_a_damaged_cell_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cell.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"cell\.npz is damaged .*: delete it and run again"):
        read_cell(locate(tmp_path / "cell.npz"))


def test_a_cell_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_cells, "_MOST_BYTES", 10_000)
    np.savez_compressed(tmp_path / "cell.npz", allow_pickle=False, facts=np.zeros(20_000, np.uint8))
    assert (tmp_path / "cell.npz").stat().st_size < 1000
    with pytest.raises(UserError, match=r"cell\.npz is damaged \(more than 10,000 bytes unpacked\): delete it"):
        read_cell(locate(tmp_path / "cell.npz"))


@pytest.mark.parametrize("arrays", [{}, {"facts": np.zeros(3, np.uint8)}, {"change/svm/train/rows": np.zeros(2)}])
def test_an_archive_of_something_else_is_no_cell(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "cell.npz", allow_pickle=False, **arrays)
    with pytest.raises(UserError, match=r"cell\.npz is damaged .*: delete it and run again"):
        read_cell(locate(tmp_path / "cell.npz"))


def test_a_cell_of_another_version_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cells(Counted())[0].file
    monkeypatch.setattr(pair_cells, "_VERSION", pair_cells._VERSION + 1)
    assert cells(Counted())[0].file != before


def test_a_split_without_a_labelled_pair_adds_nothing(tmp_path: Path) -> None:
    cohort = pair_cohort(tmp_path / "pairs", {"train": [0, 1, 2, 1], "validation": [MISSING] * 3})
    augment, cache = AugmentSection(noise_copies=1), Cache(locate(tmp_path / "cache"), 10**9)
    given = [
        PairWords.open(cohort, split, CHANGE, KeyPointSection(most=20), augment, cache)
        for split in ("train", "validation")
    ]
    for split in given:
        for number in range(split.parts.count):
            split.parts.write(number, split.part(number))
    words = SplitsWords(tuple(given))
    assert words.sizes == [4, 0]
    assert words.lengths().shape == (4, 2, 2)
    config = PairTableConfig.model_validate({"kmeans": {"most": 0}})
    found = fit_kmeans(words.pieces(np.arange(4)), 5, config.kmeans, Here)
    assert found.rows == found.of == words.lengths()[:, 0].sum()
    assert words.count(found.centres).shape == (4, 2, 2, 5)
    assert PairImages("label_change", augment).by_pair(np.empty((0, 0), np.float32)).shape == (0, 2, 2, 0)


def refuses(cohort: Cohort, out: Path, message: str, **sections: Any) -> None:
    config = PairTableConfig.model_validate({"network": {"weights": "none"}, **sections})
    with pytest.raises(UserError, match=message) as caught:
        pair_table(str(cohort.location), str(out), config)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_what_cannot_be_a_table_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("a cluster was started"))
    out, labels = tmp_path / "table", [0, 1, 2, 1, 0, 2] * 4
    unlabelled = pair_cohort(tmp_path / "unlabelled", {"train": labels, "test": [MISSING] * 4})
    refuses(unlabelled, out, "split test: no pair of it has a label, and it would be held out")
    whole = pair_cohort(tmp_path / "whole", {"train": labels, "test": [0, 1, 2]})
    refuses(whole, out, "fold .* has no pair of", folds={"count": 40})
    refuses(whole, out, r"none\.pt", network={"weights": str(tmp_path / "none.pt")})
    refuses(
        whole,
        out,
        "the network has 512 features",
        network={"weights": "none", "backbone": "resnet18"},
        data={"image_size": 64},
        softmax={"features": 600},
    )


def test_one_word_is_no_vocabulary_and_a_sample_stays_one_with_another_seed() -> None:
    with pytest.raises(UserError, match="vocabularies = 1 is not allowed"):
        validate(PairTableConfig, {"vocabularies": [50, 1]}, "test")
    assert PairTableConfig.model_validate({"kmeans": {"seed": 3}}).kmeans.most == 50_000


def test_the_table_says_what_its_vocabularies_rest_on() -> None:
    def learned(model: str, rows: int) -> dict[str, Any]:
        return {"model": model, "fold": "all folds", "rows": rows, "of": 412_000}

    vocabularies = (learned("SIFT, |V| = 50", 50_000), learned("ORB, |V| = 50", 412_000))
    table = PairTable("s3://bucket/pairs", "ab", {}, {}, (), vocabularies, {CHANGE.name: []})
    said = "SIFT, |V| = 50, all folds: k-means learned from 50,000 of 412,000 descriptors; kmeans.most=0 takes all"
    assert table.text().endswith(f"\n\n{said}")
    assert said in table.markdown()
    assert "ORB" not in table.text()


def test_the_page_shows_each_row_and_what_was_left_out_and_loads_nothing() -> None:
    rows = table_rows(PAIRS, {"SVM-BOW, ORB, |V| = 50": model(wrong_at(0, 1, 2))}, "")
    left_out = ("pair <b>1</b>: no ORB key point before",)
    page = PairTable("s3://bucket/pairs", "ab", {}, {"held out (test)": 3}, left_out, (), {CHANGE.name: rows}).html()
    expected = "".join(f"<td>{cell}</td>" for cell in text_cells(rows[0])[1:])
    assert f'<th scope="row">SVM-BOW, ORB, |V| = 50</th>{expected}' in page
    assert '<th scope="row">CRMO: ensemble</th><td>0.05</td><td>0.37</td><td>0.58</td>' in page
    assert "pairs: held out (test) 3" in page
    assert "<li>pair &lt;b&gt;1&lt;/b&gt;: no ORB key point before</li>" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page
