"""Why a study was called so, and why to doubt it: maps of its class, strange views, flags painted out."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from serving_samples import radiograph
from test_vote_queue import study

from mskray import ensemble, outliers
from mskray.ensemble import Voter
from mskray.explain.methods import METHODS
from mskray.families import Images, Prediction
from mskray.families.flag_removal import FLAG, FlagPredictor, Found, RemovalSection
from mskray.imaging.regions import Fit
from mskray.serving.answers import Answering
from mskray.serving.members import VoteQueue
from mskray.serving.problems import Problem
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.storage import locate


def ask(queue: VoteQueue, asked: list[tuple[list[DecodedView], Sequence[str]]]) -> list[StudyVote]:
    async def gathered() -> list[StudyVote]:
        return await asyncio.gather(*(queue.vote(views, explain) for views, explain in asked))

    return asyncio.run(gathered())


def test_evidence_is_of_the_studys_class_and_covers_each_view(voter: Voter) -> None:
    views, methods = study(0, 10), ["saliency", "grad_cam", "saliency"]
    (answer,) = ask(VoteQueue(voter), [(views, methods)])
    assert answer.warnings == []
    target = voter.classes.index(answer.study.label)
    empty = 0
    for view, found in zip(views, answer.evidence, strict=True):
        given = {(each.member, each.method): each for each in found}
        assert len(given) == len(found), "a method that was asked for twice is answered once"
        rows, columns = view.pixels.shape
        top, left, height, width = Fit(64, "pad").content(rows, columns)
        for member, method in product(voter.names, dict.fromkeys(methods)):
            predictor = voter.predictors[voter.names.index(member)]
            alone = predictor.explain(Images([view.pixels]), [method], np.array([target]))
            expected = alone.maps[method][0, top : top + height, left : left + width]
            if not expected.any():
                empty += (member, method) not in given
                continue
            each = given.pop((member, method))
            assert (each.label, each.box) == (answer.study.label, (0, 0, columns, rows))
            assert (each.pixels.dtype, each.pixels.shape, each.pixels.max()) == (np.uint8, (height, width), 255)
            np.testing.assert_allclose(each.pixels / 255, expected / expected.max(), atol=0.02)
        assert not given, "a map of nothing was answered"
    assert empty < len(views), "most members have reasons"


def test_the_class_is_that_of_the_study_and_not_of_each_view(voter: Voter) -> None:
    views = study(0, 12)
    (answer,) = ask(VoteQueue(voter), [(views, ["saliency"])])
    own = {max(view, key=view.__getitem__) for view in answer.views}
    assert own == set(voter.classes), "the views of this study differ"
    assert {each.label for found in answer.evidence for each in found} == {answer.study.label}


def test_company_that_wants_reasons_changes_no_bit(voter: Voter) -> None:
    queue, plain = VoteQueue(voter), [(study(1000 * number, 2), ()) for number in range(4)]
    company = [(study(7000 + number, 3), list(METHODS)) for number in range(2)]
    alone, together = ask(queue, plain), ask(queue, [company[0], *plain, company[1]])
    assert together[1:-1] == alone
    assert all(each.evidence == [] for each in alone)
    for (views, _), answer in zip(company, (together[0], together[-1]), strict=True):
        (expected,) = ask(queue, [(views, ())])
        assert replace(answer, evidence=[]) == expected


def test_nobody_waits_for_all_of_anothers_reasons(voter: Voter) -> None:
    """A study that comes while another is explained is answered before it."""
    queue, order = VoteQueue(voter), list[str]()

    async def vote(name: str, views: list[DecodedView], explain: Sequence[str] = ()) -> None:
        await queue.vote(views, explain)
        order.append(name)

    async def both() -> None:
        long = asyncio.create_task(vote("explained", study(0, 16), list(METHODS)))
        await asyncio.sleep(0)
        await asyncio.gather(long, vote("plain", study(1, 1)))

    asyncio.run(both())
    assert order == ["plain", "explained"]


def test_whoever_leaves_is_not_explained_to_the_end(voter: Voter) -> None:
    queue = VoteQueue(voter)

    async def leave() -> StudyVote:
        gone = asyncio.create_task(queue.vote(study(0, 2), list(METHODS)))
        await asyncio.sleep(0)
        gone.cancel()
        return await queue.vote(study(1, 1), ["saliency"])

    assert len(asyncio.run(leave()).evidence) == 1


def test_an_unknown_method_is_refused_with_those_there_are(voter: Voter) -> None:
    with pytest.raises(Problem) as caught:
        ask(VoteQueue(voter), [(study(0, 1), ["salience"])])
    assert caught.value.kind == "invalid-value"
    for known in METHODS:
        assert known in str(caught.value.detail)


def test_a_member_that_cannot_be_explained_is_told(ensemble_uri: str) -> None:
    voter = ensemble.load(ensemble_uri)
    dumb = voter.predictors[1]
    voter.predictors = (voter.predictors[0], lambda images: dumb(images))
    (answer,) = ask(VoteQueue(voter), [(study(0, 1), ["saliency"])])
    assert [each.member for each in answer.evidence[0]] == ["first"]
    (doubt,) = answer.warnings
    assert (doubt.code, doubt.views) == ("not-explained", [])
    assert doubt.message.startswith("second: ")


def test_a_map_of_nothing_is_left_out(ensemble_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose answer hangs on nothing has a gradient of 0 everywhere."""
    voter = ensemble.load(ensemble_uri)
    for parameter in voter.predictors[0].network.network.classifier[-1].parameters():
        parameter.data.zero_()
    (answer,) = ask(VoteQueue(voter), [(study(0, 1), ["saliency"])])
    assert [each.member for each in answer.evidence[0]] == ["second"]


def test_views_unlike_what_the_ensemble_was_made_for(ensemble_uri: str, tmp_path: Path) -> None:
    described = ensemble.describe(ensemble_uri)
    voter = ensemble.load(ensemble_uri)

    def looked(first: int, count: int) -> dict[str, np.ndarray]:
        images = voter.seen(Images([radiograph(first + number) for number in range(count)]))
        return outliers.look(images.pixels, voter.bundles[0].image, voter.predictors[0](images))

    fitted, threshold = outliers.fit(looked(0, 300), looked(500, 60))
    test = outliers.write_outliers(fitted, threshold, "held-out", 0, locate(tmp_path))
    ensemble.save_ensemble(described.model_copy(update={"outliers": test}), locate(tmp_path))
    with_test = ensemble.load(str(tmp_path))
    usual, page = radiograph(900), np.full((90, 70), 240, np.uint8)
    page[10:80:6, 8:60] = 0
    views = [DecodedView(number, None, "png", each, "KNEE") for number, each in enumerate([usual, page, usual])]
    (answer,) = ask(VoteQueue(with_test), [(views, ())])
    assert [(each.code, each.views) for each in answer.warnings] == [("out-of-distribution", [1])]
    hashes = {Answering(each).described.ensemble.hash for each in (voter, with_test)}
    assert len(hashes) == 2, "what is told changes with it"


class Knowing(FlagPredictor):
    """A remover that needs no network: where there is pure white, there is a flag."""

    def __init__(self) -> None:
        self.removal = RemovalSection()

    def detect(self, pixels: Sequence[np.ndarray]) -> list[Found]:
        return [self._white(each) for each in pixels]

    def _white(self, pixels: np.ndarray) -> Found:
        rows, columns = np.nonzero(pixels == 255)
        ends = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else []
        boxes = np.array(ends, np.float32).reshape(-1, 4)
        return Found(boxes, np.array([FLAG] * len(boxes)), np.ones(len(boxes), np.float32))


def test_flags_that_were_painted_out_are_told(ensemble_uri: str) -> None:
    plain = ensemble.load(ensemble_uri)
    voter = Voter(plain.ensemble, list(zip(plain.bundles, plain.predictors, strict=True)), Knowing())
    bare = np.full((96, 80), 90, np.uint8) + radiograph(0) // 8
    flagged = bare.copy()
    flagged[10:20, 60:66] = 255
    views = [DecodedView(number, None, "png", each, "KNEE") for number, each in enumerate([bare, flagged, bare])]
    (answer,) = ask(VoteQueue(voter), [(views, ())])
    (doubt,) = answer.warnings
    assert (doubt.code, doubt.views) == ("flag-present", [1])
    assert "painted out" in doubt.message
    (without,) = ask(VoteQueue(plain), [(views, ())])
    assert without.warnings == []


def test_features_are_those_of_whole_images(voter: Voter) -> None:
    images = Images([view.pixels for view in study(0, 3)])
    together = voter.predictors[0](images)
    assert together.features is not None
    assert together.features.shape == (3, 576)
    one = voter.predictors[0](Images(images.pixels[1:2]))
    np.testing.assert_allclose(together.part(slice(1, 2)).features, one.features, atol=1e-4)
    failed = Prediction(np.zeros((3, 2)), errors={0: "a", 2: "b"})
    assert failed.part(slice(1, 3)).errors == {1: "b"}
