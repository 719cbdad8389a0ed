"""Files of features give the rows that were written, whatever the cuts between files."""

from pathlib import Path

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.estimators import features as features_module
from mskray.estimators.arrays import packed, packed_array
from mskray.estimators.features import FeatureFiles
from mskray.storage import locate


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (20, 4)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path, values: np.ndarray) -> FeatureFiles:
    """Twenty rows in files of 5, 0, 12 and 3; the empty shard has no file."""
    made = FeatureFiles(locate(tmp_path), (5, 0, 12, 3))
    for number in made.numbers:
        made.write(number, values[made.starts[number] : made.starts[number + 1]])
    return made


@pytest.mark.parametrize("rows", [[], [0], [4, 5], [0, 6, 16, 17, 19], list(range(20))])
def test_rows_are_gathered_across_files(files: FeatureFiles, values: np.ndarray, rows: list[int]) -> None:
    found = files.gather(np.array(rows, np.int64))
    assert len(found) == len(rows)
    if rows:
        np.testing.assert_array_equal(found, values[rows])


def test_moments_of_groups(files: FeatureFiles, values: np.ndarray) -> None:
    groups = np.arange(20) % 3
    rows, sums, squares = files.moments(groups, 4)
    np.testing.assert_array_equal(rows, [7, 7, 6, 0])
    for group in range(3):
        np.testing.assert_allclose(sums[group], values[groups == group].sum(axis=0), rtol=1e-6)
        np.testing.assert_allclose(squares[group], (values[groups == group] ** 2).sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00 cut",
        packed_array(np.zeros((5, 4), np.float32))[:-1],
        packed_array(np.zeros((4, 4), np.float32)),
        packed_array(np.zeros((5, 4))),
        packed_array(np.zeros(5, np.float32)),
        packed({"a": np.zeros((5, 4), np.float32)}),
    ],
    ids=["empty", "cut in its head", "cut", "too few rows", "of another type", "no rows", "an archive"],
)
def test_a_damaged_file_is_one_line(files: FeatureFiles, content: bytes) -> None:
    files.folder.join("features-00000.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"features-00000\.npy is damaged .*: delete it and run again$") as caught:
        files.gather(np.array([2, 9]))
    assert "\n" not in str(caught.value)


def test_what_could_not_be_read_is_not_written(
    files: FeatureFiles, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "_MOST_BYTES", 300)
    np.testing.assert_array_equal(files.read(0), values[:5])
    with pytest.raises(UserError, match=r"features-00002\.npy.* 300"):
        files.read(2)
    files.folder.join("features-00002.npy").delete()
    with pytest.raises(UserError, match=r"features-00002\.npy would have 320 bytes, .* fewer shard_rows"):
        files.write(2, values[:12])
    assert files.missing() == [2]


def test_what_is_missing_is_found_again(files: FeatureFiles) -> None:
    assert files.missing() == []
    files.folder.join("features-00002.npy").delete()
    assert files.missing() == [2]
