"""Work that the trials of a search share is done once: the first to ask has it started, the others await it.

    shared = Shared.start()                                    # the search's driver; travels to trials with their `Run`
    once(run.shared, "<address>", "key points of train", work, run.report)

The work runs as a Ray task that belongs to an actor of the search, the keeper, and not to the trial that asked: a trial
that is stopped or killed takes no work with it and leaves nothing locked. What is done is kept in files that are
written whole or not at all (`mskray.estimators.cache`), and the work makes only those that are missing: asked for once
more, it does nothing. So the keeper remembers what is under way and nothing else; work that failed is begun anew by the
next to ask, and so is what a keeper had under way whose node was lost.

`hold` keeps objects of Ray's shared memory for all trials: decoded shards. No torch.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from mskray.errors import UserError, user_error_in
from mskray.progress import Report, silent
from mskray.training.waiting import gather

Work = Callable[[Report], None]
"""Makes what is missing of some files. It travels to a task: a `partial` of a module's function."""


@dataclass(frozen=True)
class Shared:
    """The keeper of a search's shared work; small, so that it travels to every trial."""

    keeper: Any

    @classmethod
    def start(cls) -> "Shared":
        """Start a keeper. It ends when nobody has its handle any more, or with the driver that started it."""
        actor: Any = _Keeper
        return cls(actor.remote())

    def do(self, address: str, what: str, work: Work, report: Report, cpus: float) -> None:
        """As `once`."""
        # Asked first without the work, which may carry a network's weights.
        (answer,) = gather([self.keeper.join.remote(address)], what, report)
        if answer is None:
            (answer,) = gather([self.keeper.do.remote(address, _packed(work), cpus)], what, report)
        if answer:
            raise UserError(answer)

    def hold(self, address: str, start: Callable[[], Sequence[Any]], size: int, room: int) -> list[Any]:
        """Return references to objects that the keeper holds under an address, for all who ask.

        Args:
            start: starts the tasks that make them.
            size: bytes that they take up; room: bytes that all held objects may take up. What was not asked for for
                longest is let go first; who uses it still has it until they are done.
        """
        (found,) = gather([self.keeper.hold.remote(address, _packed(start), size, room)], "held objects", silent)
        return list(found)

    def let_go(self) -> None:
        """Hold nothing any more: one of the objects may be what failed, and whoever asks next has them made anew."""
        gather([self.keeper.let_go.remote()], "held objects", silent)


def once(shared: Shared | None, address: str, what: str, work: Work, report: Report, cpus: float = 0.0) -> None:
    """Do some work, or wait until somebody else has done it.

    Args:
        shared: None where nobody else is there: the work is done in this process.
        address: names the work by all that decides its result.
        what: for progress.
        cpus: that a task of the work reserves; 0 for work that spreads over Ray tasks itself.
    Raises:
        UserError: as the work does, to all who wait for it.
    """
    if shared is None:
        work(report)
    else:
        shared.do(address, what, work, report, cpus)


def _packed(work: Callable[..., Any]) -> bytes:
    """As bytes: what is in the work is loaded where it is done, and not in the keeper."""
    return bytes(ray.cloudpickle.dumps(work))


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Keeper:
    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[str]] = {}
        self._held: dict[str, tuple[int, list[Any]]] = {}
        # Work that spreads over Ray tasks holds some CPUs and waits for others: two at once could wait for each other.
        self._spreading = asyncio.Lock()

    async def join(self, address: str) -> str | None:
        """Wait for work that is under way: "" when it is done, or why not; None where none is."""
        return await asyncio.shield(self._under_way[address]) if address in self._under_way else None

    async def do(self, address: str, work: bytes, cpus: float) -> str:
        """Start the work unless it is under way, and wait for it: "" when it is done, or why not."""
        if address not in self._under_way:
            # In a context of its own: what a call starts is cancelled with the call, when its trial is cancelled.
            started = asyncio.create_task(self._run(address, work, cpus), context=Context())
            self._under_way[address] = started
        return await asyncio.shield(self._under_way[address])

    async def hold(self, address: str, start: bytes, size: int, room: int) -> list[Any]:
        if address not in self._held:
            while self._held and sum(each for each, _ in self._held.values()) + size > room:
                del self._held[next(iter(self._held))]
            self._held[address] = size, list(ray.cloudpickle.loads(start)())
        self._held[address] = self._held.pop(address)  # the last in order is the last used
        return self._held[address][1]

    async def let_go(self) -> None:
        self._held.clear()

    async def _run(self, address: str, work: bytes, cpus: float) -> str:
        try:
            async with nullcontext() if cpus else self._spreading:
                await _do.options(num_cpus=cpus).remote(work)
        except RayError as error:
            if found := user_error_in(error):
                return str(found)
            raise
        finally:
            del self._under_way[address]
        return ""


# Told where to run: a task without would be held to the few CPUs that Ray Tune reserves for a trial.
@ray.remote(max_retries=3, scheduling_strategy="SPREAD")
def _do(work: bytes) -> None:
    ray.cloudpickle.loads(work)(silent)
