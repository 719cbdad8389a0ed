"""Drift of scores against those of held-out studies."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mskray.serving.drift import Drift, held_out_scores, score
from mskray.storage import locate
from mskray.storage.tables import parquet_bytes

RANDOM = np.random.default_rng(0)
HELD_OUT = RANDOM.beta(2, 5, 2000)


@pytest.mark.parametrize(
    ("incoming", "low", "high"),
    [
        (RANDOM.beta(2, 5, 1000), 0.0, 0.05),
        (RANDOM.beta(3, 5, 1000), 0.1, 0.6),
        (np.full(1000, 0.99), 2.0, 10.0),
        (np.concatenate([np.full(500, 0.99), RANDOM.beta(2, 5, 1000)]), 0.0, 0.05),  # what is long ago is forgotten
    ],
    ids=["the same", "shifted", "one value", "shifted before"],
)
def test_index(incoming: np.ndarray, low: float, high: float) -> None:
    drift = Drift(HELD_OUT)
    told = [drift.add(float(value)) for value in incoming]
    assert told[:99] == [None] * 99
    assert told[-1] is not None
    assert low <= told[-1] <= high


def test_it_is_that_of_its_formula() -> None:
    """Two bins of half each, of which 80 and 20 % fall into: 0.3 ln 1.6 − 0.3 ln 0.4."""
    drift = Drift(np.repeat([0.0, 1.0], 50))
    for value in [0.0] * 80 + [1.0] * 20:
        told = drift.add(value)
    assert told == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))


@pytest.mark.parametrize("held_out", [np.zeros(0), np.ones(99)])
def test_without_a_reference_nothing_is_told(held_out: np.ndarray) -> None:
    drift = Drift(held_out)
    assert [drift.add(0.5) for _ in range(200)] == [None] * 200


def test_scores() -> None:
    np.testing.assert_array_equal(score(np.array([[0.2, 0.8], [0.9, 0.1]])), [0.8, 0.1])
    np.testing.assert_array_equal(score(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])), [0.5, 0.6])


def test_the_reference_is_what_evaluation_left(tmp_path: Path) -> None:
    """Of the test split rather than of another; the mean over a study's images; what failed is left out."""
    place = locate(tmp_path)
    assert held_out_scores(place, ["normal", "abnormal"]).tolist() == []
    for name, shift in (("test-0123", 0.0), ("train-0123", 0.4)):
        table = pa.table(
            {
                "study_id": ["a", "a", "b", "c"],
                "prob_normal": pa.array([0.8 - shift, 0.6 - shift, 0.5 - shift, None], pa.float32()),
                "prob_abnormal": pa.array([0.2 + shift, 0.4 + shift, 0.5 + shift, None], pa.float32()),
                "error": [None, None, None, "truncated PNG"],
            }
        )
        place.join("evaluation", name, "predictions.parquet").write_bytes(parquet_bytes(table))
    assert sorted(held_out_scores(place, ["normal", "abnormal"])) == pytest.approx([0.3, 0.5])
