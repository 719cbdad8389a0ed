"""More studies than can be answered: some wait, the next is told to ask again, nobody waits without end."""

import asyncio
import json
from collections.abc import Iterator, Sequence

import pytest
from serving_samples import Answered, Local, asked, encoded, multipart, radiograph

from mskray.ensemble import Voter
from mskray.serving.api import build_api
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access

BODY, KIND = multipart([("views", ("a.png", encoded(radiograph(1), "PNG")))])


class Slow(Local):
    """An ensemble that answers when it is let."""

    def __init__(self, voter: Voter) -> None:
        super().__init__(voter)
        self.go = asyncio.Event()
        self.running = self.most = 0

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            return await super().vote(views, explain)
        finally:
            self.running -= 1


def check_told_to_ask_again(answered: Answered, status: int, kind: str) -> None:
    problem = json.loads(answered.body)
    assert (answered.status, answered.headers["retry-after"]) == (status, "5"), problem
    assert problem["type"] == f"urn:mskray:{kind}"


def test_a_full_queue_answers_429_at_once(voter: Voter) -> None:
    async def together() -> tuple[Slow, list[Answered], Answered]:
        slow = Slow(voter)
        app = build_api(slow, Limits(max_open=2, max_waiting=3), Access())
        studies = [
            asyncio.create_task(asked(app, "POST", "/v1/studies", [BODY], {"content-type": KIND})) for _ in range(7)
        ]
        done, waiting = await asyncio.wait(studies, timeout=5)
        assert (len(done), len(waiting)) == (2, 5)
        health = await asked(app, "GET", "/healthz")
        slow.go.set()
        return slow, await asyncio.gather(*studies), health

    slow, answers, health = asyncio.run(together())
    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) == 2
    for answer in refused:
        check_told_to_ask_again(answer, 429, "too-busy")
    assert slow.most == 2
    assert health.status == 200


@pytest.mark.parametrize("waiting", [0, 1])
def test_nobody_waits_without_end(voter: Voter, waiting: int) -> None:
    """The study that is open and the one that waits both end, and leave their places."""

    async def together() -> tuple[list[Answered], Answered]:
        slow = Slow(voter)
        app = build_api(slow, Limits(max_open=1, max_waiting=waiting, max_seconds=0.3), Access())
        ask = (app, "POST", "/v1/studies", [BODY], {"content-type": KIND})
        late = await asyncio.gather(*(asked(*ask) for _ in range(1 + waiting)))
        assert slow.running == 0
        slow.go.set()
        return late, await asked(*ask)

    late, after = asyncio.run(together())
    for answer in late:
        check_told_to_ask_again(answer, 503, "unavailable")
        assert "no answer within 0.3 s" in json.loads(answer.body)["detail"]
    assert after.status == 200


def test_who_leaves_as_a_piece_of_the_body_arrives_is_not_answered(voter: Voter) -> None:
    """The gate's end of all waiting is such a leaving: lost, the study would be waited for without end."""
    left = 0

    async def leave() -> None:
        app = build_api(Local(voter), Limits(), Access())
        loop = asyncio.get_running_loop()

        def pieces() -> Iterator[bytes]:
            nonlocal left
            left += 1
            loop.call_soon(task.cancel)
            yield BODY

        task = asyncio.create_task(asked(app, "POST", "/v1/studies", pieces(), {"content-type": KIND}))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)

    asyncio.run(leave())
    assert left == 1
