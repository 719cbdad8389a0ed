"""Whether starts, vocabularies and counts were there or are computed, alone or in a search, they are the same."""

from pathlib import Path

import numpy as np
import pytest
from small_pairs import pair_cohort

from mskray.cohorts.change import CHANGE
from mskray.errors import UserError
from mskray.estimators.cache import Cache, Parts
from mskray.estimators.kmeans import KMeansResult
from mskray.estimators.pair_words import KeyPointSection, PairWords, extract_once
from mskray.estimators.pairs import AugmentSection
from mskray.estimators.starts import KMeansSection
from mskray.estimators.vocabularies import Vocabulary
from mskray.progress import silent
from mskray.storage import locate
from mskray.training.once import Shared

SECTION = KMeansSection(most=150)
ROWS = np.arange(4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_kept_changes_nothing(ray_cluster: str, tmp_path: Path) -> None:
    cohort = pair_cohort(tmp_path / "cohort", {"train": [0, 1, 2, 0]})
    shared = Shared.start()

    def learned(folder: str, sizes: list[int], by: Shared | None) -> dict[int, tuple[KMeansResult, np.ndarray]]:
        cache = Cache(locate(tmp_path / folder), 10**9)
        words = PairWords.open(cohort, "train", CHANGE, KeyPointSection(most=20), AugmentSection(), cache)
        extract_once(words, by)
        found = {}
        for size in sizes:
            vocabulary = Vocabulary.open(words, ROWS, size, SECTION, cache)
            found[size] = vocabulary.learn(by, silent), vocabulary.count(words, by, silent)
        starts = Vocabulary.open(words, ROWS, sizes[0], SECTION, cache).starts
        assert max(Parts(starts, 0).written()) == max(sizes), "the start of the largest is there for all"
        return found

    alone = {size: learned(f"alone-{size}", [size], None)[size] for size in (5, 9)}
    grown, shrunk = learned("grown", [5, 9], None), learned("shrunk", [9, 5], shared)
    for others in (grown, shrunk):
        for size, (result, counts) in others.items():
            np.testing.assert_array_equal(result.centres, alone[size][0].centres)
            assert result.facts() == alone[size][0].facts()
            np.testing.assert_array_equal(counts, alone[size][1])
    assert alone[9][1].shape == (4, 2, 2, 9)
    with pytest.raises(UserError, match=r"a vocabulary of 151 words needs as many descriptors, there are 150 that"):
        learned("grown", [151], shared)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "shrunk").glob("*/**/part-*.npz")}
    learned("shrunk", [9, 5], shared)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shrunk").glob("*/**/part-*.npz")} == files
