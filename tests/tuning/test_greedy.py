"""Greedy selection on votes that can be counted by hand."""

import numpy as np
import pyarrow as pa
import pytest

from mskray.errors import UserError
from mskray.progress import Progress
from mskray.tuning.greedy import Candidate, Member, select

CLASSES = ("normal", "abnormal")
ACCURACY, STUDY = "validation.image.accuracy", "validation.study.accuracy"


def candidate(
    name: str,
    abnormal: list[float],
    labels: list[int],
    studies: list[str] | None = None,
    folds: list[int] | None = None,
) -> Candidate:
    """A trial that says `abnormal` of images i0, i1, …, each a study of a patient of its own if not told otherwise."""
    ids = [f"i{number}" for number in range(len(labels))]
    studies = studies or ids
    columns = {
        "instance_id": ids,
        "study_id": studies,
        "patient_id": studies,
        "label": labels,
        "prob_normal": [1 - value for value in abnormal],
        "prob_abnormal": abnormal,
        "fold": folds or [0] * len(labels),
    }
    return Candidate(name, pa.table(columns))


LABELS = [1, 1, 1, 0, 0, 0]
# Each misses two images that the other is sure of: alone 4/6, together 6/6.
FIRST = candidate("first", [0.9, 0.9, 0.4, 0.1, 0.1, 0.6], LABELS)
SECOND = candidate("second", [0.4, 0.9, 0.9, 0.6, 0.1, 0.1], LABELS)
BEST = candidate("best", [0.9, 0.9, 0.9, 0.1, 0.9, 0.1], LABELS)


def test_two_that_complement_each_other_beat_the_best_alone() -> None:
    alone = [select([each], CLASSES, ACCURACY, 1).figure for each in (FIRST, SECOND)]
    assert alone == pytest.approx([4 / 6, 4 / 6])
    together = select([FIRST, SECOND], CLASSES, ACCURACY, 2)
    assert together.members == (Member(0, 1), Member(1, 1))
    assert together.figure == pytest.approx(1.0)


def test_what_is_added_to_the_best_makes_up_for_its_mistake() -> None:
    """BEST misses i4 by 0.9, FIRST alone more: (0.9 + 0.1) / 2 is still called abnormal, (0.9 + 2 · 0.1) / 3 is not."""
    found = select([BEST, FIRST, SECOND], CLASSES, ACCURACY, 3)
    assert select([BEST], CLASSES, ACCURACY, 1).figure == pytest.approx(5 / 6)
    assert found.members == (Member(0, 1), Member(1, 1), Member(2, 1))
    assert found.figure == pytest.approx(1.0)


def test_one_member_is_the_first_that_was_given_whatever_its_own_figure() -> None:
    """Rows are ranked by the mean over seeds: the order given knows more than one seed's predictions."""
    found = select([FIRST, BEST], CLASSES, ACCURACY, 1)
    assert found.members == (Member(0, 1),)
    assert found.figure == pytest.approx(4 / 6)


def test_equally_good_votes_give_the_first_and_smallest() -> None:
    same = [candidate(name, [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], LABELS) for name in "abc"]
    for _ in range(2):
        assert select(same, CLASSES, ACCURACY, 3).members == (Member(0, 1),)


def test_a_member_is_taken_again_where_it_deserves_more_weight() -> None:
    one = candidate("one", [0.9, 0.3, 0.2, 0.45], [1, 1, 0, 0])
    two = candidate("two", [0.3, 0.7, 0.2, 0.1], [1, 1, 0, 0])
    found = select([one, two], CLASSES, "validation.image.brier", 2)
    weights = np.array([member.count for member in sorted(found.members, key=lambda each: each.candidate)], float)
    share = weights / weights.sum()
    # The Brier score is a parabola in the share w of `one`: its least lies at w = Σ dᵢ(yᵢ − bᵢ) / Σ dᵢ², d = a − b.
    a, b, y = np.array([0.9, 0.3, 0.2, 0.45]), np.array([0.3, 0.7, 0.2, 0.1]), np.array([1, 1, 0, 0])
    least = float(((a - b) @ (y - b)) / ((a - b) @ (a - b)))
    assert share[0] == pytest.approx(least, abs=0.02)
    assert share[0] != 0.5
    assert found.figure == pytest.approx(float(np.mean((share[0] * a + share[1] * b - y) ** 2)))


def test_studies_are_judged_by_the_mean_of_their_views() -> None:
    """Views 0.9 and 0.4 of an abnormal study are 0.65: right by study, half right by image."""
    views = candidate("views", [0.9, 0.4, 0.1, 0.2], [1, 1, 0, 0], ["s", "s", "t", "t"])
    assert select([views], CLASSES, STUDY, 1).figure == pytest.approx(1.0)
    assert select([views], CLASSES, ACCURACY, 1).figure == pytest.approx(3 / 4)


def test_folds_count_alike_whatever_their_size() -> None:
    """Fold 0: 1 of 1 right. Fold 1: 1 of 3. Mean 2/3, where all at once would be 2/4."""
    given = [0.9, 0.1, 0.9, 0.9], [1, 0, 0, 0]
    dealt = candidate("dealt", *given, folds=[0, 1, 1, 1])
    assert select([dealt], CLASSES, ACCURACY, 1).figure == pytest.approx((1 + 1 / 3) / 2)
    other = candidate("other", *given, folds=[1, 0, 0, 1])
    pooled = select([dealt, other], CLASSES, ACCURACY, 1)
    assert pooled.figure == pytest.approx(2 / 4), "dealt differently, so all at once"


def test_never_more_members_than_asked_for() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(80) % 2).tolist()
    many = [
        candidate(str(number), np.clip(np.array(labels) * 0.2 + random.normal(0.4, 0.3, 80), 0, 1).tolist(), labels)
        for number in range(8)
    ]
    said: list[Progress] = []
    scores = [select(many, CLASSES, "validation.image.auroc", most, said.append) for most in (1, 2, 4, 8)]
    assert [len(each.members) <= most for each, most in zip(scores, (1, 2, 4, 8), strict=True)] == [True] * 4
    figures = [each.figure for each in scores]
    assert figures[0] < figures[1] <= figures[2] + 0.01
    assert figures[3] > figures[0] + 0.05
    assert said[-1].done == said[-1].total == 50


@pytest.mark.parametrize(
    ("candidates", "metric", "most", "message"),
    [
        ([FIRST], ACCURACY, 0, "an ensemble of 0: give the number of members"),
        ([FIRST, SECOND], ACCURACY, 3, "an ensemble of 3: there are 2 finished trials"),
        ([FIRST], "validation.tasks.kappa", 1, "cannot be chosen by validation.tasks.kappa"),
        ([FIRST], "latency_ms", 1, "cannot be chosen by latency_ms"),
        (
            [FIRST, candidate("short", [0.1, 0.9], [0, 1])],
            ACCURACY,
            2,
            r"first and short were judged on different images: the latter lacks 4 of its images \(first i2\)",
        ),
        (
            [candidate("short", [0.1, 0.9], [1, 1]), FIRST],
            ACCURACY,
            2,
            r"has 4 others \(first i2\)",
        ),
        ([FIRST, candidate("b", [0.5] * 6, [1, 0, 1, 0, 0, 0])], ACCURACY, 2, "different labels of image i1"),
        ([candidate("one", [0.5] * 3, [1, 1, 1])], "validation.image.auroc", 1, "auroc is defined of no vote"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(candidates, metric: str, most: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(candidates, CLASSES, metric, most)
