"""Following a job that runs elsewhere: what it prints, printed here, and its exit code at the end.

The job does not need whoever follows it. Ctrl-C leaves it alone; a connection that is lost is looked for again for two
minutes, and what was printed before is not printed twice.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

import aiohttp
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.job_submission import JobStatus

from mskray.errors import UserError
from mskray.progress import Progress, Report
from mskray.verbs.submit_client import Jobs, Lost, Unknown

STOPPED, INTERRUPTED, TRY_AGAIN = 143, 130, 75
"""128 + SIGTERM, 128 + SIGINT; EX_TEMPFAIL of sysexits.h."""
PATIENCE_S = 120.0
_NONE_THERE = "No module named 'mskray'"
_LOOK_S, _AGAIN_S, _LAST_WORDS_S = 5.0, 2.0, 10.0


class _Deaf(Exception):
    """Whoever read what is printed is gone, as `head` when it has its lines."""


@dataclass
class Following:
    """A job that is followed.

    Args:
        rejoin: the command that follows it again, for messages.
        out: where what the job prints goes.
    """

    jobs: Jobs
    identifier: str
    rejoin: str
    report: Report
    out: TextIO = field(default_factory=lambda: sys.stdout)
    patience_s: float = PATIENCE_S
    _printed: int = 0
    _last: str = ""

    def end(self) -> int:
        """Follow the job to its end and return its exit code; see `exit_code`, and 75, 130 for the follower's own."""
        try:
            return self._end()
        except Unknown:
            self._say(
                f"the cluster knows no job {self.identifier} any more: its head was restarted; submit the same again, "
                "it goes on where the work was left"
            )
            return TRY_AGAIN
        except (KeyboardInterrupt, _Deaf):
            self._say(f"the job goes on without you: {self.rejoin}")
            return INTERRUPTED

    def _end(self) -> int:
        lost_since: float | None = None
        while True:
            try:
                info = self._to_the_end(lambda: self.jobs.info(self.identifier))
                return self._told(info)
            except Lost as error:
                now = time.monotonic()
                lost_since = now if lost_since is None or self._answered_since(lost_since) else lost_since
                if now - lost_since > self.patience_s:
                    self._say(f"the cluster does not answer: {error}; the job may go on: {self.rejoin}")
                    return TRY_AGAIN
                self.report(Progress(f"connection lost, trying again ({error})"))
            time.sleep(_AGAIN_S)

    def __post_init__(self) -> None:
        self._answered = time.monotonic()

    def _answered_since(self, then: float) -> bool:
        return self._answered > then

    def _to_the_end(self, look: Callable[[], JobDetails]) -> JobDetails:
        """Print what the job prints until it has ended. Raises Lost, Unknown."""
        while (info := self._look(look)).status == JobStatus.PENDING:
            self.report(Progress("waiting for the job to start", note=_one_line(info.message)))
            time.sleep(1.0)
        try:
            asyncio.run(self._print(look))
        except Lost:
            if not (info := self._look(look)).status.is_terminal():
                raise
            self._rest()  # a proxy in between lets no WebSocket through, or the node of the job's words is gone
            return info
        return self._look(look)

    def _rest(self) -> None:
        """Print what is left of the words of a job that has ended, in one piece."""
        try:
            self._write(self.jobs.words(self.identifier)[self._printed :])
        except (Lost, Unknown, UserError) as error:
            self._say(f"what the job printed last cannot be read: {error}")

    def _write(self, text: str) -> None:
        try:
            self.out.write(text)
            self.out.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.out.fileno())  # for what is still to be flushed
            raise _Deaf from None
        self._printed += len(text)
        self._last = (self._last + text)[-2000:]

    def _look(self, look: Callable[[], JobDetails]) -> JobDetails:
        info = look()
        self._answered = time.monotonic()
        return info

    async def _print(self, look: Callable[[], JobDetails]) -> None:
        """Print the job's words as they come, and look now and then whether it still runs: silence may be either."""
        reading = asyncio.create_task(self._read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_LOOK_S)
                if not reading.done() and (await asyncio.to_thread(self._look, look)).status.is_terminal():
                    await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
                    break
        finally:
            reading.cancel()
            failed = (await asyncio.gather(reading, return_exceptions=True))[0]
        if isinstance(failed, (aiohttp.ClientError, OSError, Lost)):
            raise Lost(str(failed) or type(failed).__name__)
        if isinstance(failed, Exception):
            raise failed

    async def _read(self) -> None:
        """The job's words from the first; those that were printed are passed over."""
        passed = 0
        url = f"{self.jobs.url}/api/jobs/{self.identifier}/logs/tail"
        async with (
            aiohttp.ClientSession(headers=self.jobs.headers, trust_env=True) as session,
            session.ws_connect(url, ssl=True if self.jobs.tls is None else self.jobs.tls, max_msg_size=0) as words,
        ):
            async for message in words:
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                new = message.data[max(0, self._printed - passed) :]
                passed += len(message.data)
                self._write(new)
            if words.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                raise Lost("the connection was cut")

    def _told(self, info: JobDetails) -> int:
        code = exit_code(info)
        if not info.status.is_terminal():  # its words have ended, and it has not: the head lost its node
            raise Lost(f"the job is {info.status}, and its words have ended")
        if info.status == JobStatus.STOPPED:
            self._say(f"{self.identifier} was stopped")
        elif info.status == JobStatus.FAILED and _NONE_THERE in self._last:
            self._say("the cluster's nodes have no mskray: install it there, or send this one with --send-code")
        elif info.status == JobStatus.FAILED and info.driver_exit_code is None:
            self._say(f"{self.identifier} did not run: {_one_line(info.message)}")
        return code

    def _say(self, text: str) -> None:
        self.out.flush()
        print(f"\n{text}", file=sys.stderr, flush=True)


def exit_code(info: JobDetails) -> int:
    """A job's exit code: 0, the command's own, 128 + n where signal n ended it, 143 where it was stopped, else 1."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return STOPPED
    code = info.driver_exit_code
    if code is None:
        return 1
    return 128 - code if code < 0 else code


def _one_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return (lines[-1] if lines else "")[:300]
