"""`mskray dicomweb ARCHIVE --server URL --ledger URI`: every new study of an archive is answered there, as DICOM.

The archive is any DICOMweb service, such as Orthanc's; the server is one that `mskray serve` started. By what that
answers, a study's radiographs, each sagittal series of a spine and, with --pairs, pictures beside earlier ones get
structured reports, segmentations, maps and overlays. What was done stands in the ledger, so that either side and this
command may be restarted at any time; a new model of the server is noticed, and answers what the one before did.
"""

import os
import signal
import threading
from collections.abc import Mapping

from mskray.client import Client, RequestRefused
from mskray.dicom.archive import Archive
from mskray.dicom.web import Outcome, Reader, Watcher
from mskray.errors import Fault, UserError
from mskray.progress import Progress, Report, silent
from mskray.serving.schemas.models import Models
from mskray.storage import check_access, locate
from mskray.verbs import dicomweb_earlier, dicomweb_series, dicomweb_studies
from mskray.verbs.predict_remote import TOKEN_VARIABLE

PASSWORD_VARIABLE = "MSKRAY_ARCHIVE_PASSWORD"  # nosec B105 # a variable's name


def watch(
    archive: str,
    server: str,
    ledger: str,
    *,
    user: str | None = None,
    filters: Mapping[str, str] | None = None,
    every_s: float = 10.0,
    once: bool = False,
    pairs: bool = False,
    report: Report = silent,
) -> int:
    """Answer what is new in an archive until SIGINT or SIGTERM, or once what is there; return how many studies were.

    The password is read from MSKRAY_ARCHIVE_PASSWORD and the server's token from MSKRAY_TOKEN.

    Args:
        archive: URL of the DICOMweb service.
        ledger: URI of the folder in which what was done is remembered.
        filters: QIDO's, by keyword, such as {"ModalitiesInStudy": "DX"}.
        once: answer what is there and end; studies that still grow are answered as they are.
        pairs: judge pictures beside the patient's latest earlier ones, too.
    Raises:
        UserError: archive, server or ledger does not do.
    """
    place = locate(ledger)
    check_access(place, write=True)
    opened = Archive(archive, user=user, password=os.environ.get(PASSWORD_VARIABLE, ""))
    stored: set[str] = set()

    def told(said: Outcome | Fault) -> None:
        if isinstance(said, Fault):
            report(Progress(f"waiting: {said}"))
            return
        if said.state == "stored":
            stored.add(said.study)
        report(Progress(f"{said.what} of study {said.study} {said.state}", note=said.reason))

    with Client(server, os.environ.get(TOKEN_VARIABLE) or None) as client:
        readers(client, client.models(), pairs)  # what cannot do is said before anything is looked at
        watcher = Watcher(opened, lambda: _present(client, pairs), place, filters=filters, settled=not once)
        if once:
            for outcome in watcher.poll():
                told(outcome)
        else:
            report(Progress(f"watching {archive}, Ctrl-C stops"))
            watcher.watch(_stopped_by_signals(), told, every_s)
    return len(stored)


def readers(client: Client, models: Models, pairs: bool = False) -> list[Reader]:
    """Return what a server answers of an archive's studies; pairs only where they are asked for.

    Raises:
        UserError: pairs are asked for and not served, or nothing else is served.
    """
    made = []
    if models.ensemble is not None:
        read = dicomweb_studies.read_studies(client, models)
        made.append(Reader("studies", models.ensemble.hash, read, frozenset(dicomweb_studies.RADIOGRAPHS)))
    if pairs:
        made.append(_of_pairs(client, models))
    if models.spines is not None:
        read = dicomweb_series.read_spines(client, models)
        made.append(Reader("spines", models.spines.hash, read, frozenset({dicomweb_series.MODALITY})))
    if not made:
        raise UserError(f"{client.url} answers {' and '.join(models.served)} alone: add --pairs, or ask another server")
    return made


def _of_pairs(client: Client, models: Models) -> Reader:
    if models.pairs is None:
        raise UserError(f"{client.url} answers {' and '.join(models.served)}, no pairs: leave --pairs out")
    read = dicomweb_earlier.read_pairs(client, models.pairs.hash, models)
    return Reader("pairs", models.pairs.hash, read, frozenset(dicomweb_earlier.MODALITIES))


def _present(client: Client, pairs: bool) -> list[Reader]:
    """The readers of the models that the server has now."""
    try:
        return readers(client, client.models(), pairs)
    except RequestRefused as error:
        raise Fault(str(error)) from None


def _stopped_by_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set, so that a study that is being answered is answered to its end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
