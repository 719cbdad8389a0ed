"""k-means by hand and against scikit-learn; that neither tasks, cut nor order of the rows change what is found."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from mskray.errors import UserError
from mskray.estimators import nearest as nearest_module
from mskray.estimators.bounds import Bounds
from mskray.estimators.kmeans import assign, fit_kmeans, refine
from mskray.estimators.nearest import nearest, plus_plus, sums_of, two_nearest
from mskray.estimators.pieces import Arrays, Here, Sampled, Spread, row_hashes
from mskray.estimators.starts import KMeansSection, Start, choose_start, sample_words
from mskray.estimators.threads import Threads, blas_threads

ARRAYS = {"centres": None, "chosen": None}


def cloud(rows: int = 3000, width: int = 8, groups: int = 12, seed: int = 0) -> np.ndarray:
    """Overlapping groups."""
    random = np.random.default_rng(seed)
    middles = random.normal(0, 2, (groups, width))
    return (middles[random.integers(groups, size=rows)] + random.normal(size=(rows, width))).astype(np.float32)


def cut(rows: np.ndarray, parts: int) -> Arrays:
    return Arrays(tuple(np.array_split(rows, parts)))


def test_one_update_by_hand() -> None:
    """0 and 2 are nearest to 1, 9 and 13 to 10; the centres move to 1 and 11: shift 0² + 1², inertia 1 + 1 + 1 + 9."""
    rows, centres = np.array([[0], [2], [9], [13]], np.float32), np.array([[1], [10]], np.float32)
    found = assign(iter([rows]), centres)
    np.testing.assert_array_equal(found.sums, [[2], [22]])
    np.testing.assert_array_equal(found.counts, [2, 2])
    assert found.inertia == 12
    once = refine(Here(Arrays((rows,))), centres, KMeansSection(iterations=1), 0)
    np.testing.assert_array_equal(once.centres, [[1], [11]])
    assert (once.shift, once.converged, once.passes) == (1, False, 1)
    done = refine(Here(Arrays((rows,))), centres, KMeansSection(tolerance=0), 0)
    assert (done.converged, done.passes, done.inertia) == (True, 2, 1 + 1 + 4 + 4)


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["", "far from 0"])
def test_it_agrees_with_scikit_learn(offset: float) -> None:
    rows = cloud() + np.float32(offset)
    start = rows[:20]
    peer = KMeans(20, init=start.astype(np.float64), n_init=1, tol=0, max_iter=500, algorithm="lloyd")
    peer.fit(rows.astype(np.float64))
    ours = refine(Here(cut(rows, 4)), start, KMeansSection(tolerance=0, iterations=500), 0)
    assert ours.converged
    np.testing.assert_allclose(ours.centres, peer.cluster_centers_, atol=2e-3)
    assert ours.inertia == pytest.approx(peer.inertia_, rel=1e-5)
    assert (nearest(rows, ours.centres)[0] == peer.labels_).mean() > 0.998


class Forgets(Here):
    remembers = False


@pytest.mark.parametrize("kind", ["normal", "bits", "equal", "apart"])
@pytest.mark.parametrize("words", [1, 2, 7, 60])
def test_spared_distances_change_centres_by_rounding_alone(kind: str, words: int) -> None:
    rows = {
        "normal": cloud(),
        "bits": (cloud(width=64) > 0.5).astype(np.float32),  # many rows are equally near to several centres
        "equal": np.repeat(cloud(20), 50, axis=0),
        "apart": cloud() + np.float32(1000),
    }[kind]
    start = plus_plus(rows, words, seed=0, tries=3).rows
    section = KMeansSection(tolerance=0, iterations=100)
    spared, whole = (refine(runner(cut(rows, 4)), rows[start], section, 0) for runner in (Here, Forgets))
    np.testing.assert_allclose(spared.centres, whole.centres, rtol=1e-6, atol=1e-5)
    assert spared.inertia == pytest.approx(whole.inertia, rel=1e-5, abs=1e-3)
    assert spared.converged


def test_bounds_by_hand() -> None:
    """Centres 0 and 10 go to 1 and 8: 4 is looked at again (5 or 2 may be right), 0 is not (1 is nearer than 8 - 2)."""
    rows, bounds = np.array([[0], [4]], np.float32), Bounds()
    bounds.sums(iter([rows]), np.array([[0], [10]], np.float32))
    (known,) = bounds._known
    np.testing.assert_allclose(known.upper, [0, 4], atol=0.05)
    np.testing.assert_allclose(known.lower, [10, 6], atol=0.05)
    bounds._move(np.array([[1], [8]], np.float32))
    np.testing.assert_allclose(known.upper, [1, 5], atol=0.05)
    np.testing.assert_allclose(known.lower, [8, 4], atol=0.05)


def test_the_tolerance_is_that_of_scikit_learn() -> None:
    rows = cloud()
    peer = KMeans(20, init=rows[:20], n_init=1, tol=1e-2, algorithm="lloyd").fit(rows)
    section = KMeansSection(tolerance=1e-2)
    ours = refine(Here(cut(rows, 3)), rows[:20], section, section.tolerance * float(rows.var(axis=0).mean()))
    assert ours.converged
    assert ours.passes == peer.n_iter_ < 40


@pytest.mark.parametrize("most", [0, 1500])
def test_cut_and_order_of_the_rows_change_nothing(most: int) -> None:
    rows = cloud()
    section = KMeansSection(most=most, tolerance=0)
    one = fit_kmeans(cut(rows, 1), 10, section, Here)
    other = fit_kmeans(cut(rows[np.random.default_rng(1).permutation(len(rows))], 7), 10, section, Here)
    np.testing.assert_allclose(one.centres, other.centres, atol=1e-5)
    assert one.passes == other.passes
    assert one.facts()["rows"] == (most or 3000)
    assert one.facts()["of"] == 3000


@pytest.mark.parametrize("block", [1, 5, 5000])
def test_distances_are_the_same_in_any_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centres = cloud(100), cloud(9, seed=1)
    monkeypatch.setattr("mskray.estimators.nearest._BLOCK", block)
    labels, distances = nearest(rows, centres)
    exact = np.square(rows[:, None].astype(np.float64) - centres).sum(axis=2)
    np.testing.assert_array_equal(labels, exact.argmin(axis=1))
    np.testing.assert_allclose(distances, exact.min(axis=1), rtol=1e-4)


def test_the_start_is_spread_out() -> None:
    """Of ten groups that lie far apart, k-means++ takes one row each."""
    middles = np.arange(10, dtype=np.float32)[:, None] * 1000
    rows = (np.repeat(middles, 50, axis=0) + np.random.default_rng(0).normal(size=(500, 1))).astype(np.float32)
    chosen = np.rint(rows[plus_plus(rows, 10, seed=3, tries=4).rows, 0] / 1000)
    assert sorted(chosen) == list(range(10))


@pytest.mark.parametrize("lengths", [(40,), (7, 40), (1, 2, 40)])
def test_a_longer_start_goes_on_from_a_shorter_one_bit_for_bit(lengths: tuple[int, ...]) -> None:
    rows, section = cloud(), KMeansSection(seed=5)
    whole = choose_start(cut(rows, 3), 40, section, Here)
    grown = None
    for words in lengths:
        grown = choose_start(cut(rows, 2), words, section, Here, grown)
        np.testing.assert_array_equal(grown.centres, whole.centres[:words])
    again = Start.of(grown.arrays())
    np.testing.assert_array_equal(again.chosen.closest, whole.chosen.closest)
    assert {**vars(again), **ARRAYS} == {**vars(whole), **ARRAYS} | {"variance": pytest.approx(whole.variance)}


def test_vocabularies_of_several_sizes_begin_with_the_same_words() -> None:
    rows, section = cloud(), KMeansSection(most=2500)
    start = choose_start(cut(rows, 3), 30, section, Here)
    for words in (10, 30):
        alone = fit_kmeans(cut(rows, 3), words, section, Here)
        shared = fit_kmeans(cut(rows, 3), words, section, Here, start=start)
        np.testing.assert_array_equal(alone.centres, shared.centres)
        assert alone.facts() == shared.facts()


@pytest.mark.parametrize(("words", "sample"), [(2, 1000), (1000, 1000), (1001, 2000), (5000, 8000)])
def test_the_sample_of_a_start_is_the_same_for_many_sizes(words: int, sample: int) -> None:
    assert sample_words(words) == sample


def test_an_empty_word_is_put_on_the_farthest_row() -> None:
    """The centre at 100 has no row; 30 lies farthest from its own, which is that of 0, 1, 2 and 30."""
    rows, start = np.array([[0], [1], [2], [30], [50]], np.float32), np.array([[1], [50], [100]], np.float32)
    runs = [refine(Here(cut(rows, parts)), start, KMeansSection(tolerance=0), 0) for parts in (1, 3)]
    for found in runs:
        np.testing.assert_allclose(np.sort(found.centres[:, 0]), [1, 30, 50])
        assert found.facts()["empty"] == 0


def test_more_words_than_distinct_rows_stay_empty_and_end() -> None:
    rows = np.repeat(np.array([[0.0, 1], [5, 5], [9, 0]], np.float32), 20, axis=0)
    found = fit_kmeans(cut(rows, 2), 5, KMeansSection(tolerance=0), Here)
    assert found.converged
    assert found.facts()["empty"] == 2
    assert found.inertia == 0


@pytest.mark.parametrize(
    ("words", "section", "message"),
    [
        (31, {}, "a vocabulary of 31 words needs as many descriptors, there are 30: ask for fewer words$"),
        (11, {"most": 10}, "there are 10 that kmeans.most draws from 30"),
    ],
)
def test_a_vocabulary_larger_than_the_descriptors_is_refused(words: int, section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_kmeans(cut(cloud(30), 3), words, KMeansSection(**section), Here)


def test_mini_batches_come_near_to_all_at_once() -> None:
    rows = cloud()
    whole = fit_kmeans(cut(rows, 3), 12, KMeansSection(tolerance=0), Here)
    section = KMeansSection(batch=200, epochs=8, tolerance=0)
    small, again = (fit_kmeans(cut(rows, 3), 12, section, Here) for _ in range(2))
    np.testing.assert_array_equal(small.centres, again.centres)
    assert small.passes == 8
    assert assign(iter([rows]), small.centres).inertia < 1.1 * whole.inertia


def test_a_mini_batch_by_hand() -> None:
    """One batch of 0 and 4 moves the centre from 9 to their mean; the next, of 8 rows at 12, by 8 / 10 of the way."""
    found = refine(
        Here(Arrays((np.array([[0], [4]], np.float32), np.full((8, 1), 12, np.float32)))),
        np.array([[9]], np.float32),
        KMeansSection(batch=8, epochs=1),
        0,
    )
    np.testing.assert_allclose(found.centres, [[2 + (12 - 2) * 8 / 10]])


def test_a_sample_depends_on_values_alone() -> None:
    rows = cloud(1000)
    hashes = row_hashes(rows, 5)
    limit = int(np.sort(hashes)[249])
    drawn = Sampled(cut(rows, 3), 5, limit)
    turned = Sampled(cut(rows[::-1], 4), 5, limit)
    first, second = (np.concatenate([each.read(n) for n in each.numbers]) for each in (drawn, turned))
    assert len(first) == 250
    np.testing.assert_array_equal(np.sort(first[:, 0]), np.sort(second[:, 0]))
    assert not np.array_equal(row_hashes(rows, 6), hashes)


@pytest.mark.slow
@pytest.mark.usefixtures("by_value")
def test_tasks_find_what_one_process_finds(ray_cluster: str) -> None:
    rows = cloud()
    section = KMeansSection(tolerance=0, most=2000)
    alone, spread = (fit_kmeans(cut(rows, 5), 15, section, runner) for runner in (Here, Spread))
    np.testing.assert_allclose(alone.centres, spread.centres, atol=1e-5)
    assert alone.passes == spread.passes
    with pytest.raises(UserError, match="as many descriptors"):
        Spread(cut(rows, 2))(partial(_too_few))


def _too_few(pieces: Any) -> None:
    fit_kmeans(Arrays(tuple(pieces)), 10_000, KMeansSection(), Here)


@pytest.mark.parametrize("rows", [0, 1, 511, 513, 9000, 40_000])
def test_threads_change_no_bit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are the same for any number of threads, and sums are added in their order."""
    points, centres = cloud(rows, width=16), cloud(30, width=16, seed=1)
    found = []
    for number in (1, 2, 5):

        @contextmanager
        def some(number: int = number) -> Iterator[Threads]:
            with ThreadPoolExecutor(number) as pool:
                yield Threads(number, pool if number > 1 else None)

        monkeypatch.setattr(nearest_module, "blas_threads", some)
        nearests = two_nearest(points, centres)
        found.append((*nearests, sums_of(points, nearests[0], len(centres))))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_blas_gives_its_threads_and_has_them_back() -> None:
    def blas() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        with blas_threads() as many:
            assert many.number == 2
            assert set(blas()) == {1}
            assert list(many.map(lambda value: value + 1, range(5))) == [1, 2, 3, 4, 5]
        assert set(blas()) == {2}
    with threadpool_limits(1, user_api="blas"), blas_threads() as many:
        assert (many.number, many.pool) == (1, None)
