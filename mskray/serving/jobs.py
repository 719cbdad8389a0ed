"""Long work: accepted at once, done beside other requests, looked at under `/v1/jobs/<id>`, and finished by another
replica where the one that began it dies.

    <store>/jobs/<id>/job.json     how far it is, whose it is, and a beat that shows that somebody is at work
    <store>/jobs/<id>/files/<n>    what was sent, deleted when the job ends

Whoever is asked for a job whose beat has stopped takes it over; clocks of different machines are not compared.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mskray.errors import UserError
from mskray.serving.forms import Upload
from mskray.serving.problems import Problem, defect, details_of, too_busy
from mskray.serving.schemas.jobs import Job
from mskray.serving.store import is_id, try_read_json
from mskray.storage import Location

Kind = Literal["spine", "batch"]
Told = Callable[[int, int, str], None]
"""Takes steps done, steps in all, and what is done now."""

_AT_ONCE, _MOST_WAITING = 2, 32
_BEAT_S, _SILENT_S = 2.0, 15.0
_ATTEMPTS = 5
_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Args:
        who: name of the token.
        request: id of the request.
        options: as the kind of work knows them.
        names: made safe, of each of `files`; these are stored apart.
    """

    id: str
    kind: Kind
    who: str
    request: str
    options: dict[str, str]
    names: list[str | None]
    files: tuple[Upload, ...] = field(default=(), compare=False)


Work = Callable[[Order, Told], Awaitable[dict[str, Any]]]
"""Does what an order asks for; returns fields of `Job`. Raises Problem."""


class Jobs:
    """The jobs of one replica, and those that it takes over."""

    def __init__(self, folder: Location, works: Mapping[Kind, Work]) -> None:
        self._folder, self._works = folder, works
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._mine: dict[str, asyncio.Task[None]] = {}
        self._beats: dict[str, tuple[int, float]] = {}

    async def submit(self, order: Order) -> Job:
        """Store an order and begin with it as soon as there is room. Raises Problem: too many wait."""
        if order.id not in self._mine:
            if len(self._mine) >= _AT_ONCE + _MOST_WAITING:
                raise too_busy(f"{len(self._mine)} jobs wait already: ask again")
            job = Job(
                id=order.id,
                kind=order.kind,
                status="waiting",
                done=0,
                total=0,
                what="waiting",
                href=f"/v1/jobs/{order.id}",
                spine=None,
                batch=None,
                problem=None,
            )
            for place, file in enumerate(order.files):
                await asyncio.to_thread(self._files(order.id).join(str(place)).write_bytes, file.data)
            await self._write(job, order, 0)
            self._start(job, order, 0)
        return await self.find(order.id, order.who)

    async def find(self, identifier: str, who: str) -> Job:
        """Return how far a job is. Raises Problem: there is none of this asker."""
        place = self._folder.join(identifier, "job.json") if is_id(identifier) else None
        found = await asyncio.to_thread(try_read_json, place) if place is not None else None
        if found is None or _order_of(found).who != who:
            raise Problem("not-found", "there is no such job of yours; they are kept for a day")
        job, beat = Job.model_validate(found["job"]), int(str(found["beat"]))
        if job.status in ("waiting", "running") and identifier not in self._mine and self._silent(identifier, beat):
            _log.warning("job %s is taken over", identifier)
            self._start(job, _order_of(found), beat)
        return job

    async def close(self) -> None:
        """Let go of what is at work: another replica takes it over."""
        for task in self._mine.values():
            task.cancel()
        await asyncio.gather(*self._mine.values(), return_exceptions=True)

    def _silent(self, identifier: str, beat: int) -> bool:
        """Whether a beat has not changed for so long that nobody is at work."""
        known, since = self._beats.get(identifier, (None, 0.0))
        if known != beat:
            self._beats[identifier] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > _SILENT_S

    def _start(self, job: Job, order: Order, beat: int) -> None:
        task = asyncio.create_task(self._run(_Running(job, order, beat)))
        self._mine[order.id] = task
        task.add_done_callback(lambda _: self._mine.pop(order.id, None))

    async def _run(self, running: "_Running") -> None:
        beating = asyncio.create_task(self._beat(running))
        try:
            async with self._free:
                running.tell(running.job.done, running.job.total, "reading")
                fields = await self._outcome(running)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
        final = running.job.model_copy(update={"what": "ended", **fields})
        await self._write(final, running.order, running.beat + 1)
        self._beats.pop(final.id, None)
        await asyncio.to_thread(self._files(final.id).delete_dir)

    async def _outcome(self, running: "_Running") -> dict[str, Any]:
        """What came of it: a model that is starting again is waited for."""
        order = await self._with_files(running.order)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                found = await self._works[order.kind](order, running.tell)
                return {**found, "status": "done", "done": running.job.total}
            except Problem as problem:
                if problem.status_code not in (429, 503) or attempt == _ATTEMPTS:
                    return {"status": "failed", "problem": details_of(problem, order.request)}
                await asyncio.sleep(2.0**attempt)
            except Exception as error:
                _log.error("job %s failed with %s", order.id, type(error).__qualname__, exc_info=True)
                break
        return {"status": "failed", "problem": defect(order.request)}

    async def _with_files(self, order: Order) -> Order:
        if order.files or not order.names:
            return order

        def read(place: int, name: str | None) -> Upload:
            return Upload(place, name, self._files(order.id).join(str(place)).read_bytes())

        files = [await asyncio.to_thread(read, place, name) for place, name in enumerate(order.names)]
        return replace(order, files=tuple(files))

    async def _beat(self, running: "_Running") -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            running.beat += 1
            try:
                await self._write(running.job, running.order, running.beat)
            except UserError as error:  # the store is away: the next beat may reach it
                _log.error("job %s cannot be written: %s", running.job.id, error)

    async def _write(self, job: Job, order: Order, beat: int) -> None:
        told = {name: value for name, value in vars(order).items() if name != "files"}
        content = {"job": job.model_dump(mode="json"), "order": told, "beat": beat}
        await asyncio.to_thread(self._folder.join(job.id, "job.json").write_json, content)

    def _files(self, identifier: str) -> Location:
        return self._folder.join(identifier, "files")


@dataclass
class _Running:
    """A job at work."""

    job: Job
    order: Order
    beat: int

    def tell(self, done: int, total: int, what: str) -> None:
        self.job = self.job.model_copy(update={"status": "running", "done": done, "total": total, "what": what})


def _order_of(found: Mapping[str, Any]) -> Order:
    return Order(**found["order"])
