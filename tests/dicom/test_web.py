"""The watcher against a real Orthanc: each study is answered once, whoever is restarted in between."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_sources import ALGORITHM, KNEE_FINDING, radiograph
from orthanc_server import PASSWORD, PLUGIN, USER, Orthanc
from pydicom.uid import generate_uid

from mskray.dicom import Group, secondary_capture, structured_report
from mskray.dicom.archive import Archive
from mskray.dicom.study import Part
from mskray.dicom.web import Outcome, Reader, Watcher
from mskray.errors import Fault, UserError
from mskray.storage import Location, locate

pytestmark = [pytest.mark.system("Orthanc"), pytest.mark.slow]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed (make system)")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def archive(orthanc: Orthanc) -> Archive:
    return Archive(orthanc.url, user=USER, password=PASSWORD, attempts=2)


@pytest.fixture
def ledger(tmp_path: Path) -> Location:
    return locate(tmp_path / "ledger")


def study(name: str, views: int = 1):
    """The images of a study."""
    uid = generate_uid(entropy_srcs=["study", name])
    series = generate_uid(entropy_srcs=["series", name])
    made = [radiograph(name=f"{name} {view}", StudyInstanceUID=uid, SeriesInstanceUID=series) for view in range(views)]
    return str(uid), made


class Model:
    """Answers a study with a report and an overlay; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, images):
        self.asked.append(len(images))
        groups = [Group(f"image {number}", (KNEE_FINDING,), (number,)) for number in range(len(images))]
        images = sorted(images, key=lambda image: image.SOPInstanceUID)
        overlay = secondary_capture(images, np.zeros((8, 8, 3), np.uint8), ALGORITHM, "overlay")
        return [structured_report(images, groups, ALGORITHM), overlay]


def watcher_of(archive, model, ledger, name, **options) -> Watcher:
    """A watcher with one reader, which takes every image of a study at once."""

    def read(study):
        yield Part(model(given)) if (given := study.fetch(study.images)) else Part()

    return Watcher(archive, lambda: [Reader("studies", name, read)], ledger, **options)


def polled(watcher: Watcher, times: int = 2) -> list[Outcome]:
    return [outcome for _ in range(times) for outcome in watcher.poll()]


def test_a_study_is_answered_once(orthanc, archive, ledger):
    names = [study("one", 2), study("two")]
    for uid, images in names:
        archive.store(uid, images)
    model = Model()
    watcher = watcher_of(archive, model, ledger, "m1")
    done = polled(watcher)
    assert {(each.study, each.state, len(each.results)) for each in done} == {(uid, "stored", 2) for uid, _ in names}
    held = orthanc.instances()
    assert len(held) == 3 + 4
    assert polled(watcher, 3) == []
    assert sorted(model.asked) == [1, 2]
    # Restarted, the watcher knows what it did; of another model it does it again.
    assert polled(watcher_of(archive, model, ledger, "m1"), 3) == []
    assert len(polled(watcher_of(archive, Model(), ledger, "m2"), 2)) == 2
    assert orthanc.instances() == held
    # What is read back is what was stored.
    first = done[0]
    found = {names[1]: archive.fetch(first.study, *names[:2]) for names in archive.images(first.study)}
    overlay = next(image for uid, image in found.items() if uid in first.results)
    assert overlay.Manufacturer == "mskray"


def test_without_its_ledger_it_stores_nothing_twice_and_predicts_on_no_overlay(orthanc, archive, ledger):
    uid, images = study("one", 2)
    archive.store(uid, images)
    polled(watcher_of(archive, Model(), ledger, "m"))
    held = orthanc.instances()
    model = Model()
    (again,) = polled(watcher_of(archive, model, ledger.join("other"), "m"))
    assert again.state == "stored"
    assert model.asked == [2]
    assert orthanc.instances() == held


def test_killed_before_the_ledger_was_written_it_leaves_each_object_once(orthanc, archive, ledger, monkeypatch):
    uid, images = study("one")
    archive.store(uid, images)

    def dies(self, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Location, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            polled(watcher_of(archive, Model(), ledger, "m"))
    held = orthanc.instances()
    assert len(held) == 3
    (outcome,) = polled(watcher_of(archive, Model(), ledger, "m"))
    assert outcome.state == "stored"
    assert orthanc.instances() == held


def test_an_archive_that_restarts_is_asked_again(orthanc, archive, ledger):
    uid, images = study("one")
    archive.store(uid, images)
    said: list[Outcome | Fault] = []
    stop = threading.Event()
    watcher = watcher_of(archive, Model(), ledger, "m")
    orthanc.stop()
    thread = threading.Thread(target=watcher.watch, args=(stop, said.append, 0.1))
    thread.start()
    try:
        _until(lambda: said)
        assert isinstance(said[0], Fault)
        assert "is not there" in str(said[0])
        orthanc.start()
        _until(lambda: any(isinstance(each, Outcome) for each in said))
    finally:
        stop.set()
        thread.join(30)
    assert [each.state for each in said if isinstance(each, Outcome)] == ["stored"]
    orthanc.stop()
    orthanc.start()
    assert polled(watcher) == []
    assert len(orthanc.instances()) == 3


def test_a_study_that_grows_is_answered_when_it_is_whole_and_again_when_more_comes(archive, ledger):
    uid, images = study("one", 3)
    model = Model()
    watcher = watcher_of(archive, model, ledger, "m")
    archive.store(uid, images[:1])
    assert polled(watcher, 1) == []
    archive.store(uid, images[1:2])
    assert polled(watcher, 1) == []
    (whole,) = polled(watcher, 1)
    archive.store(uid, images[2:])
    (later,) = polled(watcher, 2)
    assert model.asked == [2, 3]
    assert whole.images != later.images


def test_one_odd_study_does_not_stop_the_others(archive, ledger):
    uids = {}
    for name in ("good", "unreadable", "odd", "reports only"):
        uids[name], images = study(name)
        if name == "reports only":
            images = Model()(images)[:1]
        archive.store(uids[name], images)
    asked: list[str] = []

    def predict(images):
        asked.append(images[0].StudyInstanceUID)
        if asked[-1] == uids["unreadable"]:
            raise UserError("no picture in it")
        if asked[-1] == uids["odd"]:
            raise ZeroDivisionError("by zero")
        return Model()(images)

    watcher = watcher_of(archive, predict, ledger, "m", settled=False)
    first = {each.study: (each.state, each.reason) for each in polled(watcher, 1)}
    assert first == {
        uids["good"]: ("stored", ""),
        uids["unreadable"]: ("refused", "no picture in it"),
        uids["odd"]: ("failed", "ZeroDivisionError: by zero"),
        uids["reports only"]: ("nothing", "no image in it"),
    }
    rest = polled(watcher, 5)
    assert [(each.study, each.state, each.attempts) for each in rest] == [
        (uids["odd"], "failed", 2),
        (uids["odd"], "failed", 3),
    ]
    assert len(asked) == 5
    assert watcher.done("m", uids["good"]).state == "stored"


@pytest.mark.parametrize(("away", "asked"), [(1, 4), (4, 2)])
def test_a_reader_that_is_away_keeps_neither_others_nor_other_studies_waiting(archive, ledger, away, asked):
    for name in ("one", "two", "three", "four"):
        archive.store(*study(name))
    there, faults = Model(), []

    def fails(study):
        faults.append(study.uid)
        if len(faults) <= away:
            raise Fault("the server starts")
        yield Part(Model()(study.fetch(study.images)))

    def answers(study):
        yield Part(there(study.fetch(study.images)))

    made = [Reader("spines", "m1", fails), Reader("studies", "m2", answers)]
    watcher = Watcher(archive, lambda: made, ledger, settled=False)
    said: list[str] = []
    with pytest.raises(Fault, match="the server starts"):
        said.extend(outcome.what for outcome in watcher.poll())
    assert (len(faults), len(there.asked)) == (asked, 4)
    assert Counter(said) == {"studies": 4, **({"spines": 4 - away} if away < 4 else {})}
    away = 0
    assert {(each.what, each.state) for each in watcher.poll()} == {("spines", "stored")}
    assert len(there.asked) == 4
    assert polled(watcher) == []


def test_a_reader_is_given_its_own_images_and_another_model_answers_alone(archive, ledger):
    uid, images = study("both", 2)
    images[1].Modality, images[1].SeriesInstanceUID = "MR", generate_uid(entropy_srcs=["other"])
    archive.store(uid, images)
    seen: list[tuple[str, list[str]]] = []

    def reader(what: str, model: str, modality: str) -> Reader:
        def read(study):
            seen.append((model, [held.modality for held in study.images]))
            yield Part(reason="not today")
            yield Part(reason="not today")

        return Reader(what, model, read, frozenset({modality}))

    made = [reader("studies", "a", "CR"), reader("spines", "b", "MR"), reader("pairs", "c", "DX")]
    watcher = Watcher(archive, lambda: made, ledger, settled=False)
    assert [(each.what, each.state, each.reason) for each in polled(watcher)] == [
        ("studies", "refused", "not today (2 ×)"),
        ("spines", "refused", "not today (2 ×)"),
    ]
    made[1] = reader("spines", "b2", "MR")
    assert [each.what for each in polled(watcher)] == ["spines"]
    assert seen == [("a", ["CR"]), ("b", ["MR"]), ("b2", ["MR"])]


def test_filters_choose_what_is_watched(archive, ledger):
    for name in ("one", "two"):
        uid, images = study(name)
        for image in images:
            image.StudyDescription = name
        archive.store(uid, images)
    watcher = watcher_of(archive, Model(), ledger, "m", filters={"StudyDescription": "two"}, settled=False)
    assert [each.study for each in polled(watcher, 1)] == [study("two")[0]]


def test_a_wrong_password_is_one_line_and_ends_the_watch(orthanc, ledger):
    watcher = watcher_of(Archive(orthanc.url, user=USER, password="no"), Model(), ledger, "m")
    with pytest.raises(UserError, match=r"refuses to list studies \(401\): check the token") as refused:
        watcher.watch(threading.Event())
    assert not isinstance(refused.value, Fault)


def test_another_service_is_one_line(orthanc):
    wrong = Archive(f"http://127.0.0.1:{orthanc.port}/elsewhere", user=USER, password=PASSWORD)
    with pytest.raises(UserError, match="answered 404 when asked to list studies"):
        list(wrong.studies())


def _until(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
