"""Jobs that something happens to: the store is away, replicas die, models are busy, there is no end."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mskray.errors import Fault, UserError
from mskray.serving import jobs, patience
from mskray.serving.forms import Upload
from mskray.serving.jobs import Jobs, Order, Told
from mskray.serving.problems import Problem, too_busy
from mskray.serving.schemas.jobs import Job
from mskray.storage import Location, locate

ORDER = Order("0" * 32, "spine", "ward", "r", {}, 1, (Upload(0, "Mustermann.dcm", b"1"),))
SECRET = "a header with a name"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_BEAT_S", 0.02)
    monkeypatch.setattr(jobs, "_SILENT_S", 0.1)
    monkeypatch.setattr(patience, "_PAUSES_S", (0.01, 0.01))


async def done(order: Order, told: Told) -> dict[str, Any]:
    assert [(file.name, file.data) for file in order.files] == [(None, b"1")] * order.count
    told(1, 1, "done")
    return {}


async def never(order: Order, told: Told) -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def replica(folder: Path, work: Callable[[Order, Told], Awaitable[dict[str, Any]]] = done) -> Jobs:
    return Jobs(locate(folder), {"spine": work})


async def ended(by: Jobs, identifier: str = ORDER.id) -> Job:
    async with asyncio.timeout(10):
        while (job := await by.find(identifier, "ward")).status not in ("done", "failed"):
            await asyncio.sleep(0.01)
    return job


async def outcome(folder: Path, work: Callable[[Order, Told], Awaitable[dict[str, Any]]]) -> Job:
    made = replica(folder, work)
    await made.submit(ORDER)
    return await ended(made)


def die(replica: Jobs) -> None:
    """Stop it without a word."""
    replica._write = never_again  # type: ignore[method-assign]


async def never_again(_: Any) -> None:
    await asyncio.sleep(0)


def failing(times: int, error: Exception) -> Callable[[Order, Told], Awaitable[dict[str, Any]]]:
    left = [error] * times

    async def work(order: Order, told: Told) -> dict[str, Any]:
        if left:
            raise left.pop()
        return await done(order, told)

    return work


@pytest.mark.parametrize(
    ("work", "status", "kind"),
    [
        (done, "done", None),
        (failing(20, too_busy("ask again")), "done", None),
        (failing(20, Fault("the store is away")), "done", None),
        (failing(1, UserError("no such file")), "failed", "urn:mskray:given-up"),
        (failing(1, Problem("no-store", "nothing is kept")), "failed", "urn:mskray:no-store"),
        (failing(1, ValueError(SECRET)), "failed", "about:blank"),
        (failing(1, TimeoutError(SECRET)), "failed", "about:blank"),
    ],
)
def test_what_becomes_of_a_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, work: Any, status: str, kind: str | None
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    job = asyncio.run(outcome(tmp_path, work))
    logging.getLogger("ray.serve").removeHandler(caplog.handler)
    assert (job.status, job.problem.type if job.problem else None) == (status, kind)
    assert SECRET not in caplog.text
    assert ("in work" in caplog.text) == (kind == "about:blank"), "a defect tells where, not what"


def test_busy_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LONGEST_S", 0.1)
    job = asyncio.run(outcome(tmp_path, failing(100_000, too_busy("ask again"))))
    assert job.problem is not None
    assert job.problem.type == "urn:mskray:too-busy"


def test_a_job_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_LONGEST_S", 0.1)
    job = asyncio.run(outcome(tmp_path, never))
    assert job.problem is not None
    assert "not ended within" in str(job.problem.detail)


def test_the_wait_that_a_problem_states_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSES_S", (0.01, 30.0))
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(patience.asyncio, "sleep", sleep)
    left = [Problem("too-busy", "ask again", {"Retry-After": "7"}), Problem("too-busy", "ask again")]

    async def act() -> int:
        if left:
            raise left.pop()
        return 1

    assert asyncio.run(patience.patiently(act)) == 1
    assert waited == [0.01, 7.0]


def slow_beats(monkeypatch: pytest.MonkeyPatch, begun: threading.Event, go: threading.Event) -> None:
    """The first write of a running job waits in its thread."""
    write = Location.write_json

    def slow(place: Location, content: Any) -> None:
        if content["job"]["status"] == "running" and not begun.is_set():
            begun.set()
            go.wait(5)
        write(place, content)

    monkeypatch.setattr(Location, "write_json", slow)


def test_a_beat_under_way_does_not_undo_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    slow_beats(monkeypatch, begun, go)

    async def work(order: Order, told: Told) -> dict[str, Any]:
        await asyncio.to_thread(begun.wait, 5)
        asyncio.get_running_loop().call_later(0.2, go.set)
        return {}

    async def run() -> Job:
        made = replica(tmp_path, work)
        await made.submit(ORDER)
        await asyncio.to_thread(begun.wait, 5)
        while made._mine:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        return await made.find(ORDER.id, "ward")

    assert asyncio.run(run()).status == "done"


@pytest.mark.parametrize(("error", "status"), [(Fault("away"), "done"), (ValueError("NaN is no JSON"), "failed")])
def test_an_end_that_cannot_be_written_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    write, left = Location.write_json, [error] * 3 if isinstance(error, Fault) else [error]

    def flaky(place: Location, content: Any) -> None:
        if content["job"]["what"] == "ended" and left:
            raise left.pop()
        write(place, content)

    monkeypatch.setattr(Location, "write_json", flaky)
    assert asyncio.run(outcome(tmp_path, done)).status == status
    assert not left


def test_nothing_names_a_file(tmp_path: Path) -> None:
    async def run() -> str:
        made = replica(tmp_path, never)
        await made.submit(ORDER)
        assert all(not running.order.files for running in made._mine.values()), "files wait in the store"
        text = "".join(each.read_text() + each.name for each in tmp_path.rglob("*") if each.is_file())
        await made.close()
        return text

    assert "Mustermann" not in asyncio.run(run())


def test_the_room_for_jobs_holds_for_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_MOST_WAITING", 1)

    async def run() -> tuple[int, int]:
        made = replica(tmp_path, never)
        orders = [Order(f"{number:032x}", "spine", "ward", "r", {}, 0) for number in range(8)]
        answers = await asyncio.gather(*map(made.submit, orders), return_exceptions=True)
        taken = len(made._taken)
        await made.close()
        return sum(isinstance(each, Problem) for each in answers), taken

    assert asyncio.run(run()) == (5, 3)


def test_one_of_those_who_see_a_silent_job_takes_it_over(tmp_path: Path) -> None:
    begun: list[int] = []

    def counted(number: int) -> Any:
        async def work(order: Order, told: Told) -> dict[str, Any]:
            begun.append(number)
            return await never(order, told)

        return work

    async def run() -> list[int]:
        first = replica(tmp_path, never)
        await first.submit(ORDER)
        die(first)
        others = [replica(tmp_path, counted(number)) for number in range(4)]
        for _ in range(2):
            await asyncio.gather(*(each.find(ORDER.id, "ward") for each in others))
            await asyncio.sleep(0.15)
        await asyncio.gather(*(each.find(ORDER.id, "ward") for each in others))
        await asyncio.sleep(0.1)
        for each in (first, *others):
            await each.close()
        return begun

    assert len(asyncio.run(run())) == 1


def test_who_was_missed_leaves_the_job_to_whoever_took_it_over(tmp_path: Path) -> None:
    async def run() -> Job:
        stalled, other = replica(tmp_path, never), replica(tmp_path)
        await stalled.submit(ORDER)
        write = stalled._write
        die(stalled)
        await ended(other)
        stalled._write = write  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            while stalled._mine:
                await asyncio.sleep(0.01)
        return await other.find(ORDER.id, "ward")

    assert asyncio.run(run()).status == "done"


@pytest.mark.parametrize("kindly", [False, True])
def test_a_job_that_kills_its_replicas_is_given_up(tmp_path: Path, kindly: bool) -> None:
    """Replicas that are told to end let go of a job, which then is not at fault."""

    async def run() -> Job:
        made = replica(tmp_path, never)
        await made.submit(ORDER)
        for _ in range(3):
            left = made
            if kindly:
                await left.close()
            else:
                die(left)
            made = replica(tmp_path, done if _ == 2 else never)
            async with asyncio.timeout(5):
                while not made._mine and (await made.find(ORDER.id, "ward")).status in ("waiting", "running"):
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.05)
        job = await ended(made)
        assert not made._seen
        return job

    job = asyncio.run(run())
    assert (job.status, job.problem.type if job.problem else None) == (
        ("done", None) if kindly else ("failed", "urn:mskray:given-up")
    )
