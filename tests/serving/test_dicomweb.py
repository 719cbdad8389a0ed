"""An archive whose studies a server answers: a real Orthanc, the routes over HTTP, the command line between them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from dicomweb_samples import Given, referred_to, study
from orthanc_server import PASSWORD, PLUGIN, USER, Orthanc
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from serving_samples import DIGEST, TOKEN, Local, over_http

from mskray.client import Client, RequestRefused
from mskray.dicom import file_bytes
from mskray.dicom.archive import Archive
from mskray.ensemble import Voter
from mskray.errors import Fault, UserError
from mskray.serving.api import build_api
from mskray.serving.schemas.studies import KeyArea, Overlay, StudyAnswer
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access
from mskray.verbs.dicomweb import PASSWORD_VARIABLE
from mskray.verbs.dicomweb_series import left_alone
from mskray.verbs.dicomweb_studies import groups, read_studies, study_results
from mskray.verbs.predict_remote import TOKEN_VARIABLE

LIMITS = Limits(max_body=2_000_000)


@pytest.fixture(scope="module")
def url(voter: Voter) -> Iterator[str]:
    with over_http(build_api(Local(voter), LIMITS, Access(DIGEST))) as url:
        yield url


@pytest.fixture
def answered(url: str) -> tuple[list[Dataset], StudyAnswer]:
    images = study("knee", 2)
    with Client(url, TOKEN) as client:
        return images, client.predict_study([file_bytes(image) for image in images])


def test_the_report_says_what_the_server_said(answered: tuple[list[Dataset], StudyAnswer]) -> None:
    _, answer = answered
    whole, *views = groups(answer)
    assert [whole.about, *(view.about for view in views)] == ["study", "image 1", "image 2"]
    (finding,) = whole.findings
    assert (finding.task, finding.label, finding.threshold) == ("abnormality", answer.study.label, 0.4)
    assert finding.probabilities == answer.study.probabilities
    for name in ("first", "second"):
        mean = np.mean([view.members[name]["abnormal"] for view in answer.views])
        assert finding.votes[name]["abnormal"] == pytest.approx(mean)
    for place, (group, view) in enumerate(zip(views, answer.views, strict=True)):
        (finding,) = group.findings
        assert group.images == (place,)
        assert finding.probabilities == view.probabilities
        assert finding.votes == view.members
        assert finding.label == ("abnormal" if view.probabilities["abnormal"] >= 0.4 else "normal")


def test_key_areas_become_regions_and_segments(url: str, answered: tuple[list[Dataset], StudyAnswer]) -> None:
    images, answer = answered
    area = KeyArea(member="first", name="key area", x=4.5, y=8, width=20, height=16)
    seen = answer.model_copy(update={"views": [answer.views[0], answer.views[1].model_copy(update={"boxes": [area]})]})
    with Client(url, TOKEN) as client:
        made = study_results(images, seen, client.models())
    assert [each.Modality for each in made] == ["SR", "SEG"]
    assert groups(seen)[2].boxes[0].image == 1
    (reference,) = made[1].ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == images[1].SOPInstanceUID


@pytest.mark.parametrize(("place", "outside"), [((0.0, 0.0, 80.0, 96.0), None), ((20.0, 24.0, 40.0, 48.0), (8, 8))])
def test_reasons_become_pictures_over_their_part_of_the_image(
    answered: tuple[list[Dataset], StudyAnswer],
    url: str,
    place: tuple[float, float, float, float],
    outside: tuple[int, int] | None,
) -> None:
    images, answer = answered
    x, y, width, height = place
    facts = {"member": "second", "method": "grad_cam", "label": "abnormal", "href": None, "array": [[255] * 4] * 3}
    overlay = Overlay(x=x, y=y, width=width, height=height, **facts)
    views = [answer.views[0], answer.views[1].model_copy(update={"overlays": [overlay]})]
    with Client(url, TOKEN) as client:
        report, picture = study_results(images, answer.model_copy(update={"views": views}), client.models())
    assert (report.Modality, picture.SOPClassUID) == ("SR", SecondaryCaptureImageStorage)
    assert referred_to(picture) == {images[1].SOPInstanceUID}
    assert picture.DerivationDescription.startswith("second: grad_cam for abnormal. Not a medical device")
    # Grey stays grey where nothing lies over it; rows beyond the image are the legend.
    scale = picture.Columns / images[1].Columns
    colour = np.ptp(picture.pixel_array.astype(int), axis=2)
    assert colour[int(48 * scale), int(40 * scale)] > 40
    if outside is not None:
        assert colour[int(outside[1] * scale), int(outside[0] * scale)] == 0


@pytest.mark.parametrize(
    ("modality", "part", "read"),
    [
        ("MR", "LSPINE", True),
        ("MR", "SPINE", True),
        ("MR", "TSPINE", True),
        ("MR", "L-Spine", True),
        ("MR", "Lumbar spine", True),
        ("MR", "LUMBOSACRAL SPINE", True),
        ("MR", "", True),
        ("MR", None, True),
        ("MR", "CSPINE", False),
        ("MR", "KNEE", False),
        ("MR", "HEAD", False),
        ("CT", "LSPINE", False),
    ],
)
def test_series_that_cannot_show_lower_levels_are_left_alone(modality: str, part: str | None, read: bool) -> None:
    (image,) = study("series", Modality=modality, BodyPartExamined=part)
    assert (left_alone([image]) is None) == read


@pytest.mark.parametrize(
    ("elements", "said"),
    [({"Modality": "MR"}, "no radiograph in it: MR"), ({"PixelData": b""}, "cannot be read")],
)
def test_what_has_no_answer_is_refused(url: str, elements: dict[str, str], said: str) -> None:
    with Client(url, TOKEN) as client, pytest.raises(UserError, match=said) as raised:
        list(read_studies(client, client.models())(Given(study("odd", **elements))))
    assert not isinstance(raised.value, Fault)


def test_a_server_that_is_away_or_changed_is_a_fault(url: str) -> None:
    with Client(url, TOKEN) as client:
        models = client.models()
        with pytest.raises(RequestRefused):
            Client("http://127.0.0.1:9", attempts=1).models()
        with pytest.raises(Fault, match="does not answer"):
            list(read_studies(Client("http://127.0.0.1:9", attempts=1), models)(Given(study("knee"))))
        other = models.model_copy(update={"ensemble": models.ensemble.model_copy(update={"hash": "0" * 64})})
        with pytest.raises(Fault, match="changes its model: this is asked again"):
            list(read_studies(client, other)(Given(study("knee"))))


@pytest.mark.slow
@pytest.mark.system("Orthanc")
def test_an_archive_is_answered_and_watched(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed (make system)")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    (tmp_path / "orthanc").mkdir()
    orthanc = Orthanc(tmp_path / "orthanc")
    orthanc.start()
    try:
        archive = Archive(orthanc.url, user=USER, password=PASSWORD)
        words = ["dicomweb", orthanc.url, "--server", url, "--ledger", str(tmp_path / "ledger"), "--user", USER]
        command = [sys.executable, "-m", "mskray.cli", *words]
        first, second = study("first", 2), study("second")
        archive.store(str(first[0].StudyInstanceUID), first)
        magnet = study("magnet", Modality="MR")
        archive.store(str(magnet[0].StudyInstanceUID), magnet)
        told = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=240)
        assert (told.returncode, told.stdout) == (0, "1 studies answered\n"), told.stderr
        assert "nothing  no picture to read in it: MR" in told.stderr
        assert series(orthanc, first) == ["CR", "OT", "SR"]
        again = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=240)
        assert again.stdout == "0 studies answered\n", again.stderr
        watching = subprocess.Popen([*command, "--every", "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            archive.store(str(second[0].StudyInstanceUID), second)
            deadline = time.monotonic() + 120
            while series(orthanc, second) != ["CR", "OT", "SR"]:
                assert watching.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
            watching.terminate()
            output, _ = watching.communicate(timeout=120)
            assert (watching.returncode, output) == (0, b"1 studies answered\n")
        finally:
            watching.kill()
    finally:
        orthanc.stop()


def series(orthanc: Orthanc, images: list[Dataset]) -> list[str]:
    """Modalities of a study's series."""
    asked = f"{orthanc.url}/studies/{images[0].StudyInstanceUID}/series"
    said = requests.get(asked, auth=(USER, PASSWORD), headers={"Accept": "application/dicom+json"}, timeout=30).json()
    return sorted(each["00080060"]["Value"][0] for each in said)
