"""A vote becomes columns, and what a whole model and its parts say is in them."""

import numpy as np
import pyarrow as pa
import pytest

from mskray.ensemble import Vote
from mskray.prediction.batch import Gathered, probability_columns

WHOLE = np.array([[0.3, 0.7], [0.8, 0.2]], np.float32)
GLOBAL, LOCAL = np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([[0.4, 0.6], [0.7, 0.3]])
BOX = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
CLASSES = ("normal", "abnormal")
WHOLE_COLUMNS = {"prob_normal": [0.3, 0.8], "prob_abnormal": [0.7, 0.2]}
GLOBAL_COLUMNS = {"global:prob_normal": [0.2, 0.9], "global:prob_abnormal": [0.8, 0.1]}
LOCAL_COLUMNS = {"local:prob_normal": [0.4, 0.7], "local:prob_abnormal": [0.6, 0.3]}


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        (Vote(WHOLE, {"one": WHOLE}, {}, {}), WHOLE_COLUMNS),
        (
            Vote(WHOLE, {"one": WHOLE}, {"global": GLOBAL, "local": LOCAL}, {"key_area": BOX}),
            {**WHOLE_COLUMNS, **GLOBAL_COLUMNS, **LOCAL_COLUMNS, "box_key_area": BOX.tolist()},
        ),
        # Of several members each is a part.
        (Vote(WHOLE, {"global": GLOBAL, "local": LOCAL}, {}, {}), {**WHOLE_COLUMNS, **GLOBAL_COLUMNS, **LOCAL_COLUMNS}),
    ],
    ids=["one piece", "one of parts", "several"],
)
def test_a_vote_becomes_columns(vote: Vote, expected: dict[str, list]) -> None:
    columns = probability_columns(vote, CLASSES)
    assert list(columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-6)


def test_rows_of_many_tables_are_those_of_one() -> None:
    parts = [
        pa.table({"path": ["a", "b"], "prob_x": pa.array([0.1, None], pa.float32()), "error": pa.nulls(2)}),
        pa.table({"path": ["c"], "prob_x": pa.nulls(1, pa.float32()), "error": pa.array(["torn"])}),
        pa.table(
            {
                "path": ["d"],
                "prob_x": pa.array([np.nan], pa.float32()),
                "error": pa.nulls(1, pa.string()),
                "box_key": pa.array([[0.1, 2, 3, 4]], pa.list_(pa.float32())),
            }
        ),
        pa.table({"path": ["e"], "prob_x": pa.array([0.3], pa.float32()), "error": pa.nulls(1, pa.string())}),
    ]
    rows = Gathered()
    for part in parts:
        rows.add(part)
    assert rows.count == 5
    whole = pa.concat_tables(parts, promote_options="default").combine_chunks()
    assert rows.table().schema == whole.schema
    assert repr(rows.table().to_pydict()) == repr(whole.to_pydict())  # NaN is no null
