"""The queue before the members: same answers whatever is joined, one broken study breaks no other."""

import asyncio

import numpy as np
import pytest
from serving_samples import radiograph

from mskray.ensemble import Voter
from mskray.families import Images
from mskray.serving.members import VoteQueue
from mskray.serving.schemas.studies import DecodedView, StudyVote

SHAPES = [(96, 80), (64, 64), (200, 120), (80, 160)]


def study(first: int, size: int, body_part: str = "") -> list[DecodedView]:
    """Views of mixed sizes and depths."""
    return [
        DecodedView(
            index,
            None,
            "png",
            radiograph(first + index, *SHAPES[index % len(SHAPES)], dtype=np.uint16 if index % 2 else np.uint8),
            body_part,
        )
        for index in range(size)
    ]


def ask_together(queue: VoteQueue, studies: list[list[DecodedView]]) -> list[StudyVote | BaseException]:
    async def gathered() -> list[StudyVote | BaseException]:
        return await asyncio.gather(*(queue.vote(each) for each in studies), return_exceptions=True)

    return asyncio.run(gathered())


class Counting:
    """A voter that remembers how many images it was given at a time."""

    def __init__(self, voter: Voter) -> None:
        self._voter = voter
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._voter, name)

    def seen(self, images: Images) -> Images:
        self.sizes.append(len(images))
        return self._voter.seen(images)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([1], [1]),
        ([3, 1, 2], [6]),
        ([1] * 40, [32, 8]),
        ([30, 2, 1], [32, 1]),
        ([40, 1], [40, 1]),
        ([1, 40], [1, 40]),
    ],
)
def test_waiting_studies_are_joined(voter: Voter, sizes: list[int], batches: list[int]) -> None:
    counting = Counting(voter)
    queue = VoteQueue(counting)  # type: ignore[arg-type]
    counting.sizes.clear()  # the warm-up
    studies = [study(1000 * number, size) for number, size in enumerate(sizes)]
    answers = ask_together(queue, studies)
    assert counting.sizes == batches
    for views, answer in zip(studies, answers, strict=True):
        assert isinstance(answer, StudyVote)
        alone = voter(Images([view.pixels for view in views]))
        given = np.array([[view[name] for name in voter.classes] for view in answer.views])
        np.testing.assert_allclose(given, alone.probabilities, atol=1e-5)
        mean = [answer.study.probabilities[name] for name in voter.classes]
        np.testing.assert_allclose(mean, alone.probabilities.mean(axis=0), atol=1e-5)
        assert answer.study.label == ("abnormal" if mean[1] >= 0.4 else "normal")
        for name, votes in alone.members.items():
            given = np.array([[member[name][label] for label in voter.classes] for member in answer.members])
            np.testing.assert_allclose(given, votes, atol=1e-5)


def test_the_studies_of_this_file_have_both_labels(voter: Voter) -> None:
    labels = {
        answer.study.label for answer in ask_together(VoteQueue(voter), [study(1000 * each, 1) for each in range(40)])
    }
    assert labels == {"normal", "abnormal"}


def test_one_broken_study_breaks_no_other(voter: Voter) -> None:
    broken = [DecodedView(0, None, "png", np.zeros((4, 4, 4), np.uint8), "")]
    queue = VoteQueue(voter)
    answers = ask_together(queue, [study(0, 1), broken, study(1, 1)])
    assert [isinstance(answer, StudyVote) for answer in answers] == [True, False, True]
    assert isinstance(ask_together(queue, [study(0, 1)])[0], StudyVote), "the queue goes on"


def test_whoever_has_gone_is_left_out(voter: Voter) -> None:
    counting = Counting(voter)
    queue = VoteQueue(counting)  # type: ignore[arg-type]
    counting.sizes.clear()

    async def leave() -> StudyVote:
        tasks = [asyncio.create_task(queue.vote(study(number, 2))) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await tasks[2]

    assert isinstance(asyncio.run(leave()), StudyVote)
    assert counting.sizes == [4]


@pytest.mark.parametrize(
    ("part", "strangers"), [("", None), ("KNEE", None), ("WRIST", "second was"), ("SKULL", "first, second were")]
)
def test_doubt_about_the_body_part(voter: Voter, part: str, strangers: str | None) -> None:
    (answer,) = ask_together(VoteQueue(voter), [study(0, 2, part)])
    assert isinstance(answer, StudyVote)
    if strangers is None:
        assert answer.warnings == []
    else:
        (doubt,) = answer.warnings
        assert (doubt.code, doubt.views) == ("body-part-not-trained", [0, 1])
        assert doubt.message.startswith(f"{strangers} not trained on {part}")


def test_figures_that_fail_leave_nobody_waiting(voter: Voter) -> None:
    class Broken:
        def add(self, value: float) -> None:
            raise ValueError("a defect")

    queue = VoteQueue(voter)
    queue._drift = Broken()  # type: ignore[assignment]

    async def asked() -> list[StudyVote]:
        return await asyncio.wait_for(asyncio.gather(*(queue.vote(study(each, 1)) for each in range(40))), 60)

    assert len(asyncio.run(asked())) == 40
