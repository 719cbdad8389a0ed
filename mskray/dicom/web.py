"""The watcher: answers each new study in an archive with DICOM objects beside it, once.

    archive = Archive("http://127.0.0.1:8042/dicom-web", user="watcher", password=password)
    Watcher(archive, predict, locate("s3://bucket/ledger"), model=ensemble_hash).watch(stop, print)

A study is answered once for each model and each set of images: what was done stands in the ledger, one small file a
study, written after the archive took the results. Whoever is killed in between does the study again, and since results
have the same UIDs when they are made again, the archive still holds each once.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pydicom import Dataset

from mskray.dicom.archive import Archive, Refused, TooLarge
from mskray.errors import Fault, UserError
from mskray.storage import Location

_MOST_ATTEMPTS = 3

Predict = Callable[[Sequence[Dataset]], Sequence[Dataset]]
"""From a study's images to the objects that are stored beside them; UserError where it has no answer to them."""


@dataclass(frozen=True)
class Outcome:
    """What came of a study.

    state: "stored"; "nothing" (no image, or no result); "refused" (the model has no answer, for the reason given);
        "failed" (a defect, or an archive that does not take the results: tried again up to three times).
    images: fingerprint of the images that were answered.
    results: SOP instance UIDs of what was stored.
    attempts: how often it was tried.
    """

    study: str
    state: str
    images: str
    model: str
    results: tuple[str, ...] = ()
    reason: str = ""
    attempts: int = 1


class Watcher:
    """Answers what is new in an archive.

    Args:
        archive: to watch.
        predict: makes the results of a study.
        ledger: folder or prefix in which what was done is remembered; one for each archive.
        model: what tells the model from another: its hash. Another model answers all studies again.
        filters: QIDO's, by keyword, such as {"ModalitiesInStudy": "DX"}.
        settled: a study is answered when its images were the same in two polls: they arrive one after the other.
            False answers at once.
    """

    def __init__(
        self,
        archive: Archive,
        predict: Predict,
        ledger: Location,
        model: str,
        *,
        filters: Mapping[str, str] | None = None,
        settled: bool = True,
    ) -> None:
        self._archive, self._predict, self._model, self._filters = archive, predict, model, filters
        self._ledger = ledger.join(hashlib.sha256(model.encode()).hexdigest()[:16])
        self._settled = settled
        self._arriving: dict[str, str] = {}
        self._idle: dict[str, int] = {}

    def watch(
        self, stop: threading.Event, report: Callable[[Outcome | Fault], None] = lambda said: None, every: float = 10.0
    ) -> None:
        """Poll until `stop` is set; an archive or a ledger that is away is reported and asked again.

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
        """Look once at every study, and answer those that are new. Fault and UserError as the archive's methods."""
        for study, count in self._archive.studies(self._filters):
            if stop is not None and stop.is_set():
                return
            if count is not None and self._idle.get(study) == count:
                continue
            outcome = self._look(study)
            if outcome is not None:
                yield outcome
            elif count is not None and study not in self._arriving:
                self._idle[study] = count

    def done(self, study: str) -> Outcome | None:
        """What the ledger says of a study."""
        place = self._ledger.join(f"{study}.json")
        if not place.is_file():
            return None
        try:
            said = place.read_json()
            return Outcome(**{**said, "results": tuple(said["results"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"{place} is no entry of a ledger: delete it, and the study is answered again") from error

    def _look(self, study: str) -> Outcome | None:
        """Answer a study, unless it was, or its images still arrive."""
        before = self.done(study)
        own, state = set(before.results) if before else set(), ""
        try:
            images, reason = [names for names in self._archive.images(study) if names[1] not in own], ""
        except (Fault, Refused):
            raise
        except UserError as error:
            images, reason, state = [], str(error), "refused" if isinstance(error, TooLarge) else "failed"
        seen = hashlib.sha256("\n".join([reason, *(instance for _, instance in images)]).encode()).hexdigest()
        again = before if before is not None and before.images == seen else None
        if again and (again.state != "failed" or again.attempts >= _MOST_ATTEMPTS):
            self._arriving.pop(study, None)
            return None
        if self._settled and not again and self._arriving.get(study) != seen:
            self._arriving[study] = seen
            return None
        self._arriving.pop(study, None)
        begun = Outcome(study, state, seen, self._model, reason=reason, attempts=again.attempts + 1 if again else 1)
        outcome = begun if reason else self._answer(begun, images)
        self._ledger.join(f"{study}.json").write_json({**asdict(outcome), "results": list(outcome.results)})
        return outcome

    def _answer(self, begun: Outcome, images: Sequence[tuple[str, str]]) -> Outcome:
        """Fetch, predict, store. What goes wrong with one study is written down, and does not end the watch."""
        try:
            fetched = [self._archive.fetch(begun.study, *names) for names in images]
        except (Fault, Refused):
            raise
        except UserError as error:
            return replace(begun, state="failed", reason=str(error))
        given = [each for each in fetched if not _is_result(each)]
        if not given:
            return replace(begun, state="nothing", reason="no image in it")
        try:
            results = list(self._predict(given))
        except Fault:
            raise
        except UserError as error:
            return replace(begun, state="refused", reason=str(error))
        except Exception as error:  # a defect that one odd study brought to light
            return replace(begun, state="failed", reason=f"{type(error).__name__}: {error}"[:500])
        if not results:
            return replace(begun, state="nothing", reason="no result")
        try:
            self._archive.store(begun.study, results)
        except (Fault, Refused):
            raise
        except UserError as error:
            return replace(begun, state="failed", reason=str(error))
        return replace(begun, state="stored", results=tuple(str(each.SOPInstanceUID) for each in results))


def _is_result(image: Dataset) -> bool:
    """Whether it is a picture that this package made: an overlay is not predicted upon."""
    return str(image.get("Manufacturer", "")) == "mskray" and str(image.get("ConversionType", "")) == "WSD"
