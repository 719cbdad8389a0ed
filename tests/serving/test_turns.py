"""Volumes one after another, and nobody else waits: models are told, and who would wait too long is refused."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mskray.imaging.volumes import Volume
from mskray.serving.problems import Problem
from mskray.serving.routes.server import Readiness
from mskray.serving.schemas.spines import Reached
from mskray.serving.turns import SpineQueue

VOLUME = Volume(np.zeros((1, 2, 2), np.float32), (1.0, 1.0, 1.0), np.eye(4))


class Slow:
    """A reader whose second piece of work ends when it is told to; `began` and `ended` count readings."""

    def __init__(self) -> None:
        self.go, self.began, self.ended = threading.Event(), 0, 0

    def read(self, volume: Volume, copies: int | None) -> Iterator[Reached]:
        self.began += 1
        yield Reached(0, 1, "began")
        assert self.go.wait(30)
        self.ended += 1
        yield Reached(1, 1, "ended")


def test_one_reading_at_a_time_and_the_loop_is_free() -> None:
    reader = Slow()
    queue = SpineQueue(reader, 1, ThreadPoolExecutor(1))  # type: ignore[arg-type]

    async def read() -> list[int]:
        return [each.done async for each in queue.read(VOLUME, None)]

    async def all_of_them() -> None:
        first, second = asyncio.create_task(read()), asyncio.create_task(read())
        await asyncio.sleep(0.05)
        assert (reader.began, reader.ended) == (1, 0), "the loop runs while a volume is read"
        with pytest.raises(Problem, match="1 volumes wait") as raised:
            await read()
        assert raised.value.kind == "too-busy"
        reader.go.set()
        assert await first == await second == [0, 1]
        assert await read() == [0, 1]

    asyncio.run(all_of_them())


def test_who_leaves_lets_the_next_one_in() -> None:
    reader = Slow()
    queue = SpineQueue(reader, 2, ThreadPoolExecutor(1))  # type: ignore[arg-type]

    async def read() -> list[int]:
        return [each.done async for each in queue.read(VOLUME, None)]

    async def leaving() -> None:
        gone, waiting, stays = (asyncio.create_task(read()) for _ in range(3))
        await asyncio.sleep(0.05)
        gone.cancel()
        waiting.cancel()
        await asyncio.sleep(0.05)
        reader.go.set()
        assert await stays == [0, 1]

    asyncio.run(leaving())


class Counted:
    """Models that answer as they are told to."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds, self.asked = kinds, 0

    async def models(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if kind := self.kinds.pop(0):
            raise Problem(kind, "later")


@pytest.mark.parametrize(("kinds", "asked"), [([""], 1), (["too-busy"], 1), (["unavailable", ""], 2)])
def test_readiness_asks_once_for_many(kinds: list[str], asked: int) -> None:
    backend = Counted(list(kinds))
    readiness = Readiness(backend)  # type: ignore[arg-type]

    async def many() -> list[BaseException | None]:
        return await asyncio.gather(*(readiness.check() for _ in range(20)), return_exceptions=True)

    found = [each for each in asyncio.run(many()) if each is not None]
    assert [each.kind for each in found if isinstance(each, Problem)] == kinds[: asked - 1]
    assert backend.asked == asked
