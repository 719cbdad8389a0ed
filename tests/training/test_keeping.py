"""Which checkpoints stay: the two latest and the two best."""

import pytest

from mskray.training.keeping import Entry, best_first, latest_first, superfluous


def entry(epoch: int, step: int = 0, score: float | None = None, name: str = "") -> Entry:
    return Entry(name or f"{epoch}-{step}", epoch, step, score, {})


@pytest.mark.parametrize(
    ("entries", "gone"),
    [
        ([], []),
        ([entry(1, score=0.5)], []),
        # The best is old, the second best too, and two are latest.
        ([entry(1, score=0.9), entry(2, score=0.8), entry(3, score=0.1), entry(4, score=0.2), entry(4, 7)], ["3-0"]),
        # The latest are the best.
        ([entry(number, score=number / 10) for number in (1, 2, 3, 4)], ["1-0", "2-0"]),
        # Inside an epoch there is no score: it is latest or nothing.
        ([entry(0, 3), entry(0, 6), entry(0, 9)], ["0-3"]),
        # Of equal scores the later ones are the best.
        ([entry(number, score=0.5) for number in (1, 2, 3)] + [entry(3, 1), entry(3, 2)], ["1-0"]),
    ],
)
def test_the_two_latest_and_the_two_best_are_kept(entries: list[Entry], gone: list[str]) -> None:
    assert sorted(each.name for each in superfluous(entries)) == gone


def test_orders() -> None:
    entries = [entry(1, score=0.9), entry(2, score=0.9), entry(3, score=0.1), entry(2, 5), entry(2, 5, name="2-5-b")]
    assert [each.name for each in latest_first(entries)] == ["3-0", "2-5-b", "2-5", "2-0", "1-0"]
    assert [each.name for each in best_first(entries)] == ["2-0", "1-0", "3-0"]


@pytest.mark.parametrize(("step", "words"), [(0, "the end of epoch 3"), (12, "epoch 4, step 12")])
def test_a_place_in_words(step: int, words: str) -> None:
    assert entry(3, step).place == words
