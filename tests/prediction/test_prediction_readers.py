"""Rows for a predictor: labels where there are any, an error where a file is bad, an end where the store is."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from mskray.cohorts import Cohort, Task
from mskray.errors import UserError
from mskray.prediction.readers import cohort_reader, file_reader, pixel_arrays
from mskray.storage import connection, faults, locate

TASK = Task(name="abnormality", classes=("normal", "abnormal"))
FIRST = {"split": np.array(["test"]), "shard": np.array([0])}


def test_a_cohort_without_labels_has_rows(tiny_cohort: Callable[..., Cohort]) -> None:
    rows = cohort_reader(tiny_cohort((), [{}, {}]), None)(FIRST)
    assert rows["label"].to_pylist() == [None, None]
    assert rows["split"].to_pylist() == ["test", "test"]
    assert rows["label"].type == pa.int32()
    assert [image.shape for image in pixel_arrays(rows)] == [(32, 32), (32, 32)]


def test_labels_of_a_cohort(tiny_cohort: Callable[..., Cohort]) -> None:
    cohort = tiny_cohort((TASK,), [{"abnormality": 1}, {}])
    assert cohort_reader(cohort, TASK.column)(FIRST)["label"].to_pylist() == [1, None]


def test_files_and_their_errors(tmp_path: Path) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(513 * 2**20)  # sparse: takes no room
    (tmp_path / "folder").mkdir()
    paths = np.array(["cut.png", "a.png", "huge.png", "gone.png", "folder"])
    rows = file_reader(locate(tmp_path))({"path": paths})
    errors = dict(zip(paths, rows["error"].to_pylist(), strict=True))
    assert errors["a.png"] is None
    assert "truncated" in errors["cut.png"]
    assert errors["huge.png"] == errors["folder"] == "cannot be read: too large, or not a regular file"
    assert errors["gone.png"] == "cannot be read: the file is not there, or no longer"
    (image,) = pixel_arrays(rows)
    assert image.dtype == np.uint16
    assert image.shape == (20, 30)
    assert not image.flags.owndata


@pytest.fixture
def dead_store(aws_nothing: pytest.MonkeyPatch) -> Iterator[None]:
    """An endpoint that nobody answers, given up after a second."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_nothing.setenv(name, "x")
    aws_nothing.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    aws_nothing.setattr(faults, "RETRY_SECONDS", 1.0)
    aws_nothing.setattr(connection, "BOTO_ATTEMPTS", 1)
    connection._connect.cache_clear()
    yield
    connection._connect.cache_clear()


@pytest.mark.usefixtures("dead_store")
def test_a_store_that_is_down_ends_the_run() -> None:
    with pytest.raises(UserError, match="no answer from"):
        file_reader(locate("s3://bucket/images"))({"path": np.array(["a.png"])})


def test_credentials_that_are_gone_end_the_run(aws_nothing: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no credentials"):
        file_reader(locate("s3://bucket/images"))({"path": np.array(["a.png"])})
