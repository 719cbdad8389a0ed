"""The watcher: answers each new study in an archive with DICOM objects beside it, once for each model.

    archive = Archive("http://127.0.0.1:8042/dicom-web", user="watcher", password=password)
    readers = [Reader("studies", ensemble_hash, read, frozenset({"CR", "DX"}))]
    Watcher(archive, lambda: readers, locate("s3://bucket/ledger")).watch(stop, print)

What a reader made of a study stands in the ledger, in one small file a model and study, written after the archive took
the results: a reader whose model changed answers again, and the others do not. Whoever is killed in between does the
study again, and since results have the same UIDs when they are made again, the archive still holds each once.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pydicom import Dataset

from mskray.dicom.archive import Archive, Held, Refused, TooLarge
from mskray.dicom.study import Failed, Part, Study
from mskray.errors import Fault, UserError
from mskray.storage import Location

_MOST_ATTEMPTS = 3
_MOST_FAULTS = 2
"""In a row, of a reader in a poll: one may be a study's own, such as one that a server breaks at."""

Read = Callable[[Study], Iterator[Part]]
"""From a study to what is stored beside it, a part at a time. UserError where it has no answer, Failed where it may
have one when it is asked again, Fault where nobody has at the moment."""


@dataclass(frozen=True)
class Reader:
    """What answers studies.

    what: it answers, for reports ("spines"). model: what tells its model from another: a hash.
    read: makes the results. modalities: of the images that it is given; None for all.
    """

    what: str
    model: str
    read: Read
    modalities: frozenset[str] | None = None

    def takes(self, held: Held) -> bool:
        """Whether an image is for it, as far as the archive tells."""
        return self.modalities is None or held.modality in self.modalities or not held.modality


@dataclass(frozen=True)
class Outcome:
    """What a reader made of a study.

    state: "stored"; "nothing" (no image for it, or no result); "refused" (it has no answer, for the reason given);
        "failed" (a defect, or an archive that does not take the results: tried again up to three times).
    images: fingerprint of the images that were answered.
    results: SOP instance UIDs of what was stored.
    reason: also of parts that were not answered.
    attempts: how often it was tried.
    what: the reader answers.
    """

    study: str
    state: str
    images: str
    model: str
    results: tuple[str, ...] = ()
    reason: str = ""
    attempts: int = 1
    what: str = "studies"


@dataclass(frozen=True)
class _Due:
    """A study that a reader has to look at."""

    reader: Reader
    begun: Outcome
    images: Sequence[Held]


class Watcher:
    """Answers what is new in an archive.

    Args:
        archive: to watch.
        readers: asked anew at each poll: models change while the watcher runs. Fault where nobody can tell.
        ledger: folder or prefix in which what was done is remembered; one for each archive.
        filters: QIDO's, by keyword, such as {"ModalitiesInStudy": "DX"}.
        settled: a study is answered when its images were the same in two polls: they arrive one after the other.
            False answers at once.
    """

    def __init__(
        self,
        archive: Archive,
        readers: Callable[[], Sequence[Reader]],
        ledger: Location,
        *,
        filters: Mapping[str, str] | None = None,
        settled: bool = True,
    ) -> None:
        self._archive, self._readers, self._filters = archive, readers, filters
        self._ledger, self._settled = ledger, settled
        self._arriving: dict[str, str] = {}
        self._idle: dict[str, int] = {}
        self._models: list[str] = []

    def watch(
        self, stop: threading.Event, report: Callable[[Outcome | Fault], None] = lambda said: None, every: float = 10.0
    ) -> None:
        """Poll until `stop` is set; an archive, a ledger or a model that is away is reported and asked again.

        Raises:
            UserError: the archive refuses, or is none.
        """
        while not stop.is_set():
            try:
                for outcome in self.poll(stop):
                    report(outcome)
            except Fault as fault:
                report(fault)
            stop.wait(every)

    def poll(self, stop: threading.Event | None = None) -> Iterator[Outcome]:
        """Look once at every study, and answer those that are new. Fault and UserError as the archive's methods.

        A reader that cannot answer now does not keep the others from it, nor one study the other studies: its first
        Fault is raised when all is done. After two in a row it is not asked again in this poll.
        """
        able = list(self._readers())
        models = [reader.model for reader in able]
        if models != self._models:
            self._models, self._idle = models, {}
        fault: Fault | None = None
        in_a_row = dict.fromkeys(models, 0)
        for study, count in self._archive.studies(self._filters):
            if count is not None and self._idle.get(study) == count:
                continue
            due = self._due(study, able)
            if not due and count is not None and not fault and study not in self._arriving:
                self._idle[study] = count
            for each in due:
                if stop is not None and stop.is_set():
                    return
                try:
                    outcome = self._answered(each)
                except Fault as found:
                    fault = fault or found
                    in_a_row[each.reader.model] += 1
                    continue
                in_a_row[each.reader.model] = 0
                yield outcome
            able = [reader for reader in able if in_a_row[reader.model] < _MOST_FAULTS]
            if not able:
                break
        if fault:
            raise fault

    def done(self, model: str, study: str) -> Outcome | None:
        """What the ledger says of a model and a study."""
        place = self._entry(model, study)
        if not place.is_file():
            return None
        try:
            said = place.read_json()
            return Outcome(**{**said, "results": tuple(said["results"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"{place} is no entry of a ledger: delete it, and the study is answered again") from error

    def _entry(self, model: str, study: str) -> Location:
        return self._ledger.join(hashlib.sha256(model.encode()).hexdigest()[:16]).join(f"{study}.json")

    def _due(self, study: str, readers: Sequence[Reader]) -> list[_Due]:
        """Who has to look at a study: nobody where everybody did, or while its images still arrive."""
        known = {reader.model: self.done(reader.model, study) for reader in readers}
        own = {name for before in known.values() if before for name in before.results}
        reason, state = "", ""
        try:
            images = [held for held in self._archive.images(study) if held.instance not in own]
        except (Fault, Refused):
            raise
        except UserError as error:
            images, reason, state = [], str(error), "refused" if isinstance(error, TooLarge) else "failed"
        taken = {reader.model: [held for held in images if reader.takes(held)] for reader in readers}
        due, again = [], False
        for reader in readers:
            mine = taken[reader.model]
            if not mine and any(taken.values()):
                continue  # another's alone
            seen = _fingerprint([reason, *(held.instance for held in mine or images)])
            before = known[reader.model]
            tried = before.attempts if before is not None and before.images == seen else 0
            if before is not None and tried and (before.state != "failed" or tried >= _MOST_ATTEMPTS):
                continue
            again = again or tried > 0
            alone = not (mine or reason)
            begun = Outcome(
                study,
                "nothing" if alone else state,
                seen,
                reader.model,
                reason=_nothing(images) if alone else reason,
                attempts=tried + 1,
                what=reader.what,
            )
            due.append(_Due(reader, begun, mine))
        whole = _fingerprint([reason, *(held.instance for held in images)])
        if due and self._settled and not again and self._arriving.get(study) != whole:
            self._arriving[study] = whole
            return []
        self._arriving.pop(study, None)
        return due

    def _answered(self, due: _Due) -> Outcome:
        outcome = due.begun if due.begun.state else self._answer(due)
        self._entry(outcome.model, outcome.study).write_json({**asdict(outcome), "results": list(outcome.results)})
        return outcome

    def _answer(self, due: _Due) -> Outcome:
        """Read and store. What goes wrong with one study is written down, and does not end the watch."""
        stored: list[str] = []
        reasons: dict[str, int] = {}
        state = ""
        try:
            for part in due.reader.read(Study(self._archive, due.begun.study, due.images)):
                if part.results:
                    self._store(due.begun.study, part.results)
                    stored += [str(each.SOPInstanceUID) for each in part.results]
                if part.reason:
                    reasons[part.reason] = reasons.get(part.reason, 0) + 1
        except (Fault, Refused):
            raise
        except UserError as error:
            reasons[str(error)] = 1
            state = "failed" if isinstance(error, Failed) else ""
        except Exception as error:  # a defect that one odd study brought to light
            reasons[f"{type(error).__name__}: {error}"[:500]] = 1
            state = "failed"
        state = state or ("stored" if stored else "refused" if reasons else "nothing")
        said = "; ".join(f"{reason} ({count} ×)" if count > 1 else reason for reason, count in reasons.items())
        reason = said or ("" if stored else "no result")
        return replace(due.begun, state=state, reason=reason, results=tuple(dict.fromkeys(stored)))

    def _store(self, study: str, results: Sequence[Dataset]) -> None:
        try:
            self._archive.store(study, results)
        except (Fault, Refused):
            raise
        except UserError as error:
            raise Failed(str(error)) from error


def _fingerprint(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _nothing(images: Sequence[Held]) -> str:
    """Why a study that nobody takes has no answer."""
    found = ", ".join(sorted({held.modality for held in images}))
    return f"no picture to read in it: {found}" if found else "no image in it"
