"""Lanes: batches side by side, each by a voter of its own on the same weights, with the cores that are free."""

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from serving_samples import radiograph
from torch import Tensor, nn

from mskray.ensemble import Voter
from mskray.explain.methods import METHODS
from mskray.families import Images
from mskray.serving.lanes import Lanes
from mskray.serving.members import VoteQueue
from mskray.serving.schemas.studies import DecodedView, StudyVote

_LIMIT_S = 60.0


def networks(voter: Voter) -> list[nn.Module]:
    return [predictor.network for predictor in voter.predictors]


def tensors(voter: Voter) -> list[Tensor]:
    return [tensor for network in networks(voter) for tensor in (*network.parameters(), *network.buffers())]


def views(seed: int, count: int) -> list[DecodedView]:
    return [DecodedView(place, None, "png", radiograph(seed + place), "") for place in range(count)]


def test_a_twin_shares_weights_and_nothing_else(voter: Voter) -> None:
    made, images = voter.twin(), Images([radiograph(seed) for seed in range(3)])
    assert all(one is other for one, other in zip(tensors(made), tensors(voter), strict=True))
    own, others = ({id(each) for net in networks(of) for each in net.modules()} for of in (made, voter))
    assert own.isdisjoint(others)
    assert np.array_equal(made(images).probabilities, voter(images).probabilities)


def test_work_runs_side_by_side_and_finds_who_else_is_at_work(voter: Voter) -> None:
    lanes, together = Lanes(voter, 2), threading.Barrier(2)

    def work(given: Voter) -> tuple[int, int]:
        together.wait(_LIMIT_S)
        return id(given), torch.get_num_threads()

    async def both() -> list[tuple[int, int]]:
        return await asyncio.gather(lanes.run(work), lanes.run(work))

    async def lone() -> int:
        return await lanes.run(lambda given: torch.get_num_threads())

    (one, _), (other, threads) = asyncio.run(both())
    assert one != other
    assert threads == 1, "the first was at work when the second began"
    assert asyncio.run(lone()) == 2


def test_features_of_neighbours_are_not_mixed(voter: Voter) -> None:
    """What a predictor sees of its images is told by hooks, which know no thread."""
    lanes, batches = Lanes(voter, 2), [Images([radiograph(seed + each) for each in range(3)]) for seed in range(24)]

    def features(given: Voter, images: Images) -> np.ndarray:
        seen = given.predictors[0](images).features
        assert seen is not None
        return seen

    async def found() -> Sequence[np.ndarray]:
        return await asyncio.gather(*(lanes.run(partial(features, images=images)) for images in batches))

    for given, images in zip(asyncio.run(found()), batches, strict=True):
        np.testing.assert_allclose(given, features(voter, images), rtol=1e-4, atol=1e-5)


def test_studies_are_answered_as_alone_while_others_are_explained(voter: Voter) -> None:
    queue = VoteQueue(voter, cores=2)
    studies = [views(100 * number, number % 3 + 1) for number in range(24)]

    async def asked() -> list[StudyVote]:
        votes = [queue.vote(each, list(METHODS) if place % 8 == 0 else ()) for place, each in enumerate(studies)]
        return await asyncio.wait_for(asyncio.gather(*votes), _LIMIT_S)

    for place, (study, answer) in enumerate(zip(studies, asyncio.run(asked()), strict=True)):
        alone = voter(Images([view.pixels for view in study]))
        given = np.array([[view[name] for name in voter.classes] for view in answer.views])
        np.testing.assert_allclose(given, alone.probabilities, atol=1e-5)
        assert bool(answer.evidence) == (place % 8 == 0)


def test_one_broken_study_breaks_no_other_lane(voter: Voter) -> None:
    queue, broken = VoteQueue(voter, cores=2), [DecodedView(0, None, "png", np.zeros((4, 4, 4), np.uint8), "")]

    async def asked() -> list[StudyVote | BaseException]:
        votes = [queue.vote(broken if place % 5 == 0 else views(place, 1)) for place in range(20)]
        return await asyncio.wait_for(asyncio.gather(*votes, return_exceptions=True), _LIMIT_S)

    assert [isinstance(answer, StudyVote) for answer in asyncio.run(asked())] == [place % 5 != 0 for place in range(20)]
