"""A hospital's archive by DICOMweb: what it holds (QIDO), an image (WADO), results into it (STOW).

archive = Archive("http://127.0.0.1:8042/dicom-web", headers={"Authorization": f"Bearer {token}"})
for study, instances in archive.studies({"ModalitiesInStudy": "DX"}):
    images = [archive.fetch(study, held.series, held.instance) for held in archive.images(study)]
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from mskray.dicom.sources import file_bytes
from mskray.errors import Fault, UserError
from mskray.imaging.quiet import quiet

_PAGE = 200
_MOST_INSTANCES = 5000
_ONE_REQUEST = 2**30
"""Bytes below which results are sent in one piece: a request that is repeated must be able to start anew."""
_UID = re.compile(r"\d+(\.\d+)+")
_PASSING = (429, 500, 502, 503, 504)
#: Objects that say something of images, and are none: reports, segmentations, maps, presentations, waveforms, plans.
_NOT_IMAGES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88|66|30|11|9|104|481)(\.|$)")

T = TypeVar("T")


class Refused(UserError):
    """The archive does not let this user in: nothing else that is asked of it will do better."""


class TooLarge(UserError):
    """A study of more instances than are looked at."""


class Held(NamedTuple):
    """An image that the archive holds; `modality` is "" where it does not tell."""

    series: str
    instance: str
    modality: str = ""


class Visit(NamedTuple):
    """A study of a patient; `date` and `time` as DICOM writes them, "" where there is none."""

    study: str
    date: str
    time: str


class _Passing(Exception):
    """What may pass when it is asked again."""


class Archive:
    """A DICOMweb server. Each request has a time limit, and is repeated where that may help.

    Args:
        url: of the DICOMweb service, such as http://host:8042/dicom-web.
        headers: sent with each request, such as Authorization; or
        user, password: for basic authentication.
        timeout: (seconds to connect, seconds without an answer).
        attempts: of a request, in all.
    Raises:
        UserError: the URL is none. The methods raise Fault for a server that is not there or is overwhelmed, and
            UserError for one that refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        password: str = "",
        timeout: tuple[float, float] = (5.0, 60.0),
        attempts: int = 4,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no DICOMweb server: give http://host:port/path or https://…")
        if parts.username:
            raise UserError(f"a password within the URL of {parts.hostname} would end up in logs: give it apart")
        self.url, self._attempts = url.rstrip("/"), attempts
        session = requests.Session()
        session.headers.update(headers or {})
        if user is not None:
            session.auth = (user, password)
        self._client = DICOMwebClient(self.url, session=session, timeout=timeout, chunk_size=_ONE_REQUEST)
        self._client.set_http_retry_params(retry=False)

    def studies(self, filters: Mapping[str, str] | None = None) -> Iterator[tuple[str, int | None]]:
        """(StudyInstanceUID, number of its instances or None) of all studies, a page at a time (QIDO)."""
        for study, item in self._studies(filters or {}, ["NumberOfStudyRelatedInstances"]):
            number = _value(item, "NumberOfStudyRelatedInstances")
            yield study, int(number) if number.isdigit() else None

    def visits(self, patient: str) -> list[Visit]:
        """A patient's studies, the latest first, those without a date last (QIDO).

        Args:
            patient: PatientID; another issuer's patient of the same ID is not told apart here.
        """
        fields = ["PatientID", "StudyDate", "StudyTime"]
        found = [
            Visit(study, _value(item, "StudyDate"), _value(item, "StudyTime"))
            for study, item in self._studies({"PatientID": patient}, fields)
            if _value(item, "PatientID") == patient  # * and ? in a filter stand for anything
        ]
        return sorted(found, key=lambda visit: (visit.date, visit.time, visit.study), reverse=True)

    def images(self, study: str) -> list[Held]:
        """A study's images, sorted; reports and the like are left out (QIDO)."""
        found: dict[str, Held | None] = {}
        offset = 0
        while True:
            ask = partial(self._client.search_for_instances, study, limit=_PAGE, offset=offset)
            page = self._ask("list instances", partial(ask, fields=["SOPClassUID", "Modality"]))
            before = len(found)
            for item in page:
                held = Held(*(_value(item, word) for word in ("SeriesInstanceUID", "SOPInstanceUID", "Modality")))
                if _UID.fullmatch(held.series) and _UID.fullmatch(held.instance):
                    found[held.instance] = None if _NOT_IMAGES.match(_value(item, "SOPClassUID")) else held
            offset += len(page)
            if len(found) == before:
                return sorted(held for held in found.values() if held)
            if len(found) > _MOST_INSTANCES:
                raise TooLarge(f"more than {_MOST_INSTANCES} instances: the study is left alone")

    def fetch(self, study: str, series: str, instance: str) -> Dataset:
        """One instance, as it is stored (WADO)."""
        return self._ask("fetch an image", lambda: self._client.retrieve_instance(study, series, instance))

    def store(self, study: str, results: Sequence[Dataset]) -> None:
        """Store objects of one study (STOW). What the archive has already, it keeps. UserError where it takes none."""
        with quiet("pydicom"):
            # The client writes a data set as it is: as a file, it has its preamble and its file meta information.
            files = [dcmread(BytesIO(file_bytes(result))) for result in results]
            said = self._ask("store results", lambda: self._client.store_instances(files, study))
        failed = said.get("FailedSOPSequence") or ()
        if failed:
            reason = failed[0].get("FailureReason", "?")
            raise UserError(f"{self.url} did not take {len(failed)} of {len(results)} results (reason {reason})")

    def _studies(self, filters: Mapping[str, str], fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(StudyInstanceUID, what else is told of it) of all studies, a page at a time."""
        seen: set[str] = set()
        while True:
            ask = partial(self._client.search_for_studies, limit=_PAGE, offset=len(seen), fields=list(fields))
            page = self._ask("list studies", partial(ask, search_filters=dict(filters)))
            new = {study: item for item in page if (study := _value(item, "StudyInstanceUID")) not in seen}
            yield from ((study, item) for study, item in new.items() if _UID.fullmatch(study))
            seen |= set(new)
            if not new:  # a page that is not full says nothing: servers have limits of their own
                return

    def _ask(self, what: str, request: Callable[[], T]) -> T:
        """Make a request, again where it may pass, and say in one line what is wrong where it does not."""
        tried = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        )
        try:
            return tried(lambda: self._once(what, request))
        except _Passing as error:
            raise Fault(str(error)) from error.__cause__

    def _once(self, what: str, request: Callable[[], T]) -> T:
        try:
            return request()
        except requests.exceptions.SSLError as error:
            raise UserError(f"{self.url} has no certificate that this machine trusts: {what} failed") from error
        except requests.exceptions.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise Refused(
                    f"{self.url} refuses to {what} ({status}): check the token, or the user and password"
                ) from error
            kind = _Passing if status in _PASSING else UserError
            raise kind(f"{self.url} answered {status} when asked to {what}") from error
        except requests.exceptions.Timeout as error:
            raise _Passing(f"{self.url} did not answer in time when asked to {what}") from error
        except requests.exceptions.ConnectionError as error:
            raise _Passing(f"{self.url} is not there or broke off: could not {what}") from error
        except (requests.exceptions.RequestException, InvalidDicomError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{self.url} is no DICOMweb service, or a broken one: could not {what}") from error


def _value(item: Mapping[str, Any], keyword: str) -> str:
    """The first value of an attribute in DICOM's JSON, "" where there is none."""
    values = item.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
    return str(values[0])
