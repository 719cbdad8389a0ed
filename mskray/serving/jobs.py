"""Long work: accepted at once, done beside other requests, looked at under `/v1/jobs/<id>`, and finished by another
replica where the one that began it dies.

    <store>/jobs/<id>/job.json        how far it is, whose it is, and a beat that shows that somebody is at work
    <store>/jobs/<id>/files/<n>       what was sent, without its name, deleted when the job ends
    <store>/jobs/<id>/takeover-<n>    who took it over first, of all that tried

Whoever is asked for a job whose beat has stopped takes it over; clocks of different machines are not compared. A job
that three replicas have died of is given up, and so is one that is at work for two hours.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mskray.errors import UserError
from mskray.serving.beats import beating, claim
from mskray.serving.forms import Upload
from mskray.serving.patience import patiently
from mskray.serving.problems import Problem, defect, details_of, log_defect, too_busy
from mskray.serving.schemas.jobs import Job
from mskray.serving.store import is_id, try_read_json
from mskray.storage import Location

Kind = Literal["spine", "batch"]
Told = Callable[[int, int, str], None]
"""Takes steps done, steps in all, and what is done now."""

_AT_ONCE, _MOST_WAITING = 2, 32
_BEAT_S, _SILENT_S = 2.0, 15.0
_MOST_DEATHS = 3
"""Replicas that may die at work on a job."""
_LONGEST_S = 2 * 3600.0
"""How long one replica works on a job; what it waits for its turn does not count."""
_OPEN = ("waiting", "running")
_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Args:
        who: name of the token.
        request: id of the request.
        options: as the kind of work knows them.
        count: of files. They are stored apart, by number: their names may name a patient.
        files: there while a job is submitted, and while it is at work.
    """

    id: str
    kind: Kind
    who: str
    request: str
    options: dict[str, str]
    count: int
    files: tuple[Upload, ...] = field(default=(), compare=False)


Work = Callable[[Order, Told], Awaitable[dict[str, Any]]]
"""Does what an order asks for; returns fields of `Job`. Raises Problem."""


class Jobs:
    """The jobs of one replica, and those that it takes over."""

    def __init__(self, folder: Location, works: Mapping[Kind, Work]) -> None:
        self._folder, self._works = folder, works
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._taken: set[str] = set()
        self._mine: dict[asyncio.Task[None], _Running] = {}
        self._seen: dict[str, _Seen] = {}

    async def submit(self, order: Order) -> Job:
        """Store an order and begin with it as soon as there is room. Raises Problem: too many wait."""
        if order.id not in self._taken and await self._read(order.id) is None:
            if not self._take(order.id):
                raise too_busy(f"{len(self._taken)} jobs wait already: ask again")
            running = _Running(_waiting(order), replace(order, files=()))
            try:
                for place, file in enumerate(order.files):
                    await asyncio.to_thread(self._files(order.id).join(str(place)).write_bytes, file.data)
                await self._write(running)
            except BaseException:
                self._taken.discard(order.id)
                raise
            self._start(running)
            return running.job
        return await self.find(order.id, order.who)

    async def find(self, identifier: str, who: str) -> Job:
        """Return how far a job is. Raises Problem: there is none of this asker. Raises Fault: the store is away."""
        found = await self._read(identifier)
        if found is None or found.order.who != who:
            raise Problem("not-found", "there is no such job of yours; they are kept for a day")
        if found.job.status not in _OPEN:
            self._seen.pop(identifier, None)
        elif identifier not in self._taken and self._silent(found):
            await self._take_over(found)
        return found.job

    async def close(self) -> None:
        """Let go of what is at work: another replica takes it over."""
        left = dict(self._mine)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for running in left.values():
            if running.job.status in _OPEN:
                running.let_go += 1
                try:
                    await self._write(running)
                except UserError as error:  # it then counts as a death
                    _log.error("job %s cannot be let go: %s", running.job.id, error)

    def _take(self, identifier: str) -> bool:
        """Reserve room for a job, if there is any, before anything is awaited."""
        if identifier in self._taken or len(self._taken) >= _AT_ONCE + _MOST_WAITING:
            return False
        self._taken.add(identifier)
        return True

    def _silent(self, found: "_Running") -> bool:
        """Whether a beat has not changed for so long that nobody is at work."""
        known = self._seen.get(found.order.id)
        if known is None or known.beat != found.beat:
            self._seen[found.order.id] = _Seen(found.beat, time.monotonic())
            return False
        return time.monotonic() - known.since > _SILENT_S

    async def _take_over(self, found: "_Running") -> None:
        """Begin again with a job, unless there is no room or another replica does."""
        identifier = found.order.id
        if not self._take(identifier):
            return
        try:
            late = self._seen.pop(identifier).late
            number = found.takeovers + late + 1
            if not await asyncio.to_thread(claim, self._folder.join(identifier, f"takeover-{number}")):
                # Whoever has it shows a beat soon, or has died of it, too.
                self._seen[identifier] = _Seen(found.beat, time.monotonic(), late + 1)
            elif await self._read(identifier) == found:
                _log.warning("job %s is taken over", identifier)
                found.takeovers = number
                await self._write(found)
                self._start(found)
        finally:
            if all(each is not found for each in self._mine.values()):
                self._taken.discard(identifier)

    def _start(self, running: "_Running") -> None:
        task = asyncio.create_task(self._run(running))
        self._mine[task] = running

        def ended(_: asyncio.Task[None]) -> None:
            del self._mine[task]
            self._taken.discard(running.order.id)

        task.add_done_callback(ended)

    async def _run(self, running: "_Running") -> None:
        async with beating(_BEAT_S, lambda: self._beat(running)):
            fields = await self._outcome(running)
        before = running.job
        try:
            await self._end(running, fields)
        except UserError as error:
            _log.error("job %s cannot be ended: %s", before.id, error)
        except Exception as error:  # of what the answer holds
            log_defect(f"job {before.id}", error)
            running.job = before
            await self._end(running, _failed(defect(running.order.request)))

    async def _end(self, running: "_Running", fields: dict[str, Any]) -> None:
        """Write what came of it; no beat is under way any more. Raises UserError: it cannot be written."""
        running.job = running.job.model_copy(update={"what": "ended", **fields})
        await patiently(lambda: self._write(running))
        try:
            await asyncio.to_thread(self._files(running.order.id).delete_dir)
        except UserError as error:  # they are forgotten after a day
            _log.error("files of job %s cannot be deleted: %s", running.order.id, error)

    async def _outcome(self, running: "_Running") -> dict[str, Any]:
        """What came of it."""
        order = running.order
        if running.deaths >= _MOST_DEATHS:
            return _given_up(order, f"{_MOST_DEATHS} replicas ended while they were at work on it: send less at once")
        async with self._free:
            running.tell(running.job.done, running.job.total, "reading")
            limit = asyncio.timeout(_LONGEST_S)
            try:
                async with limit:
                    found = await patiently(lambda: self._attempt(running))
                return {**found, "status": "done", "done": running.job.total}
            except Problem as problem:
                return _failed(details_of(problem, order.request))
            except UserError as error:
                _log.error("job %s failed: %s", order.id, error)
                return _given_up(order, "what was sent cannot be read in the store any more: send it again")
            except Exception as error:
                if limit.expired():
                    return _given_up(order, f"not ended within {_LONGEST_S / 3600:g} hours: send less at once")
                log_defect(f"job {order.id}", error)
                return _failed(defect(order.request))

    async def _attempt(self, running: "_Running") -> dict[str, Any]:
        order = running.order

        def read(place: int) -> Upload:
            return Upload(place, None, self._files(order.id).join(str(place)).read_bytes())

        files = tuple([await asyncio.to_thread(read, place) for place in range(order.count)])
        return await self._works[order.kind](replace(order, files=files), running.tell)

    async def _beat(self, running: "_Running") -> None:
        """Show a sign of life; where another replica has missed them and taken the job over, leave it to that one."""
        stands = await self._read(running.order.id)
        if stands is None or stands.takeovers <= running.takeovers:
            await self._write(running)
            return
        for task in [task for task, each in self._mine.items() if each is running]:
            task.cancel()

    async def _read(self, identifier: str) -> "_Running | None":
        """A job as it stands in the store, None where there is none. Raises Fault."""
        if not is_id(identifier):
            return None
        found = await asyncio.to_thread(try_read_json, self._folder.join(identifier, "job.json"))
        return None if found is None else _Running.of(found)

    async def _write(self, running: "_Running") -> None:
        running.beat += 1
        content = running.content()
        await asyncio.to_thread(self._folder.join(running.order.id, "job.json").write_json, content)

    def _files(self, identifier: str) -> Location:
        return self._folder.join(identifier, "files")


@dataclass
class _Running:
    """A job at work, as it is stored.

    Args:
        takeovers: how often another replica began with it again.
        let_go: how often a replica that was told to end let go of it.
    """

    job: Job
    order: Order
    beat: int = 0
    takeovers: int = 0
    let_go: int = 0

    @property
    def deaths(self) -> int:
        return self.takeovers - self.let_go

    def tell(self, done: int, total: int, what: str) -> None:
        self.job = self.job.model_copy(update={"status": "running", "done": done, "total": total, "what": what})

    def content(self) -> dict[str, Any]:
        order = {name: value for name, value in vars(self.order).items() if name != "files"}
        return {**vars(self), "job": self.job.model_dump(mode="json"), "order": order}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "_Running":
        return cls(**{**content, "job": Job.model_validate(content["job"]), "order": Order(**content["order"])})


@dataclass(frozen=True)
class _Seen:
    """A beat, since when it is the same by this machine's clock, and how many claims came too late meanwhile."""

    beat: int
    since: float
    late: int = 0


def _waiting(order: Order) -> Job:
    href = f"/v1/jobs/{order.id}"
    nothing: dict[str, Any] = dict.fromkeys(("spine", "batch", "problem"))
    return Job(id=order.id, kind=order.kind, status="waiting", done=0, total=0, what="waiting", href=href, **nothing)


def _failed(problem: Any) -> dict[str, Any]:
    return {"status": "failed", "problem": problem}


def _given_up(order: Order, why: str) -> dict[str, Any]:
    return _failed(details_of(Problem("given-up", why), order.request))
