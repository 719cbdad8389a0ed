"""A verb as a job of a Ray cluster: submitted, followed, left, rejoined, stopped.

    mskray submit --address http://HEAD:8265 train CONFIG.yaml out=s3://…
    mskray jobs list

The job's name is a hash of what it does: the verb, its words, the configs that are sent along and, with `--send-code`,
the code. So the same command finds the job that it began. Where that has ended, another one begins, which goes on where
the work was left, as every verb does.
"""

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.job_submission import JobStatus

import mskray
from mskray.errors import Fault, UserError, did_you_mean
from mskray.imaging.deidentify import KEY_VARIABLE
from mskray.progress import Progress, Report, duration, silent
from mskray.verbs.submit_client import Jobs, Lost, Taken, Unknown
from mskray.verbs.submit_follow import PATIENCE_S, Following, exit_code
from mskray.verbs.submit_words import Given
from mskray.verbs.tables import table

_AGAIN_S, _STOP_S = 2.0, 30.0
_MOST_RACES = 5
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
T = TypeVar("T")


@dataclass(frozen=True)
class Submission:
    """What a job does.

    Args:
        send_code: whether it runs with this package instead of the nodes' own.
    """

    verb: str
    given: Given
    send_code: bool = False

    @property
    def identifier(self) -> str:
        """The job's name: `mskray-<verb>-` and 12 hex digits of a hash over what it does."""
        files = {name: sha256(content).hexdigest() for name, content in sorted(self.given.files.items())}
        facts = [self.verb, list(self.given.words), files, _code_hash() if self.send_code else ""]
        return f"mskray-{self.verb}-{sha256(json.dumps(facts).encode()).hexdigest()[:12]}"

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", "-m", "mskray.cli", self.verb, *self.given.words])

    @property
    def metadata(self) -> dict[str, str]:
        return {"mskray": mskray.__version__, "verb": self.verb, "code": "sent" if self.send_code else "the nodes'"}

    @contextmanager
    def folder(self) -> Iterator[str]:
        """The folder in which the job begins."""
        with tempfile.TemporaryDirectory(prefix="mskray-submit-") as made:
            root = Path(made) / "job"
            root.mkdir()
            root.joinpath("submitted.json").write_text(json.dumps([self.verb, *self.given.words]))
            for name, content in self.given.files.items():
                file = root / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            if self.send_code:
                shutil.copytree(Path(mskray.__file__).parent, root / "mskray", ignore=_LEFT_OUT)
            yield str(root)


def submit(jobs: Jobs, submission: Submission, report: Report = silent) -> str:
    """Begin the job, or find it where it runs; returns its name. Raises UserError where the cluster refuses it."""
    for _ in range(_MOST_RACES):
        former = _attempts(patiently(jobs.all, report), submission.identifier)
        running = [job for job in former if not job.status.is_terminal()]
        if running:
            name = str(running[-1].submission_id)
            report(Progress(f"{name} runs already: following it"))
            return name
        name = submission.identifier + (f"-{len(former) + 1}" if former else "")
        if former:
            report(Progress(f"{_ending(former[-1])}: beginning anew as {name}"))
        try:
            with submission.folder() as folder:
                begin = partial(jobs.submit, submission.entrypoint, name, folder, submission.metadata)
                patiently(begin, report)
        except Taken:  # somebody else's same command came first, or the answer to ours was lost
            continue
        report(Progress(f"submitted {name}"))
        if submission.verb == "ingest" and KEY_VARIABLE in os.environ:
            report(Progress(f"{KEY_VARIABLE} is not sent with a job: identifiers are hashed with the nodes' own key"))
        return name
    raise UserError(f"{submission.identifier} is submitted again and again by others: see `mskray jobs list`")


def follow(jobs: Jobs, name: str, rejoin: str, report: Report = silent) -> int:
    """Print what a job prints until it ends; returns its exit code. Raises UserError for a job that is none."""
    find(jobs, name, report)
    return Following(jobs, name, rejoin, report).end()


def stop(jobs: Jobs, name: str, report: Report = silent) -> str:
    """Stop a job and return how it ended."""
    if find(jobs, name, report).status.is_terminal() or not patiently(lambda: jobs.stop(name), report):
        return _ending(find(jobs, name, report))
    until = time.monotonic() + _STOP_S
    while not (job := find(jobs, name, report)).status.is_terminal() and time.monotonic() < until:
        time.sleep(1.0)
    return _ending(job) if job.status.is_terminal() else f"{name} was told to stop and has not yet"


def find(jobs: Jobs, name: str, report: Report = silent) -> JobDetails:
    """Return a job. Raises UserError for a name that is none."""
    try:
        return patiently(lambda: jobs.info(name), report)
    except Unknown:
        known = [str(job.submission_id) for job in patiently(jobs.all, report)]
        raise UserError(f"{jobs.url} knows no job {name}: {did_you_mean(name, known)}see `mskray jobs list`") from None


def jobs_table(jobs: Jobs, report: Report = silent) -> str:
    """The cluster's jobs, the oldest first."""
    rows = []
    for job in patiently(jobs.all, report):
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime((job.start_time or 0) / 1000)) if job.start_time else ""
        until = (job.end_time or time.time() * 1000) - (job.start_time or 0)
        took = duration(max(0.0, until / 1000)) if job.start_time else ""
        verb = (job.metadata or {}).get("verb", "")
        code = str(exit_code(job)) if job.status.is_terminal() else ""
        rows.append([str(job.submission_id), verb, job.status.value.lower(), began, took, code])
    return table(["job", "verb", "state", "began", "took", "exit"], rows) if rows else "no jobs"


def patiently(ask: Callable[[], T], report: Report, most_s: float = PATIENCE_S) -> T:
    """Ask until the dashboard answers. Raises Fault where it does not for two minutes.

    A head answers some seconds before its job agent does.
    """
    until = time.monotonic() + most_s
    while True:
        try:
            return ask()
        except Lost as error:
            if time.monotonic() > until:
                raise Fault(f"the cluster does not answer: {error}") from None
            report(Progress(f"the cluster does not answer, trying again ({error})"))
            time.sleep(_AGAIN_S)


def _attempts(known: list[JobDetails], identifier: str) -> list[JobDetails]:
    """Jobs of this name, in the order in which they began."""

    def number(job: JobDetails) -> int:
        rest = str(job.submission_id).removeprefix(identifier)
        if not rest:
            return 1
        return int(rest[1:]) if rest[0] == "-" and rest[1:].isdecimal() else 0

    found = [job for job in known if str(job.submission_id).startswith(identifier) and number(job)]
    return sorted(found, key=number)


def _ending(job: JobDetails) -> str:
    name = job.submission_id
    if job.status == JobStatus.SUCCEEDED:
        return f"{name} has ended well"
    if job.status == JobStatus.STOPPED:
        return f"{name} was stopped"
    return f"{name} ended badly (exit code {exit_code(job)})"


def _code_hash() -> str:
    root, digest = Path(mskray.__file__).parent, sha256()
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        if file.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def rejoining(address: str | None, name: str) -> str:
    """The command that follows a job again."""
    return shlex.join(["mskray", "jobs", "follow", *(["--address", address] if address else []), name])
