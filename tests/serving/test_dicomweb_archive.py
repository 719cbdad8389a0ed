"""An archive of radiographs, spines and pairs: a real Orthanc and a server between which the command stands."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_validity import errors_of
from dicomweb_samples import AXIAL, Answering, KnowingReader, folder, held, knee, made_by_us, referred_to, spine_series
from dicomweb_samples import study as radiographs
from orthanc_server import PASSWORD, PLUGIN, USER, Orthanc
from pydicom import Dataset
from serving_samples import DIGEST, TOKEN, over_http
from serving_samples import fitted as classifier
from small_pairs import fitted as pair_model
from small_spinenet import fitted, recipe
from spine_run import vertebra_bundle

from mskray.bundles import save_bundle
from mskray.client import Client
from mskray.dicom.archive import Archive
from mskray.ensemble import Voter, join, load_members
from mskray.errors import Fault, UserError
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.progress import Progress
from mskray.serving.api import build_api
from mskray.serving.pairs import PairReader
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access
from mskray.storage import locate
from mskray.verbs.dicomweb import PASSWORD_VARIABLE, readers, watch
from mskray.verbs.predict_remote import TOKEN_VARIABLE

pytestmark = [pytest.mark.system("Orthanc"), pytest.mark.slow]
SMALL = {"network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}, "data": {"image_size": 64}}
LIMITS = Limits(max_body=20_000_000)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundles")
    save_bundle(fitted(recipe()), locate(place / "grader"), "f00")
    save_bundle(fitted(recipe(predict={"augment": True})), locate(place / "other grader"), "f01")
    save_bundle(pair_model(), locate(place / "words"), "f02")
    save_bundle(classifier(5, ("KNEE",)), locate(place / "other"), "f03")
    vertebra_bundle(place / "detector", VertebraDetectorConfig.model_validate(SMALL))
    return place


@pytest.fixture
def backend(bundles: Path, voter: Voter) -> Answering:
    pairs = PairReader(load_members(join([str(bundles / "words")], "change"), "change"))
    return Answering(voter, pairs, KnowingReader(str(bundles / "grader"), str(bundles / "detector")))


@pytest.fixture
def url(backend: Answering, tmp_path: Path) -> Iterator[str]:
    with over_http(build_api(backend, LIMITS, Access(DIGEST), store=str(tmp_path / "store"))) as url:
        yield url


@pytest.fixture
def orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed (make system)")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    server = Orthanc(folder(tmp_path / "orthanc"))
    server.start()
    yield server
    server.stop()


class Looking:
    """The command, once or again; what it said of each study."""

    def __init__(self, orthanc: Orthanc, url: str, ledger: Path) -> None:
        self._words, self._ledger = (orthanc.url, url), ledger
        self._archive = Archive(orthanc.url, user=USER, password=PASSWORD)

    def store(self, *images: list[Dataset]) -> None:
        for each in images:
            self._archive.store(str(each[0].StudyInstanceUID), each)

    def __call__(self, ledger: str = "ledger", pairs: bool = True) -> dict[tuple[str, str], str]:
        """(what, study) → state and reason."""
        said: dict[tuple[str, str], str] = {}

        def told(progress: Progress) -> None:
            what, _, _, study, state = progress.stage.split()
            said[what, study] = f"{state} {progress.note}".strip()

        watch(*self._words, str(self._ledger / ledger), user=USER, once=True, pairs=pairs, report=told)
        return said


@pytest.fixture
def look(orthanc: Orthanc, url: str, tmp_path: Path) -> Looking:
    return Looking(orthanc, url, tmp_path)


def test_a_mixed_archive_is_answered_by_what_each_study_holds(
    look: Looking, orthanc: Orthanc, backend: Answering, bundles: Path, tmp_path: Path
) -> None:
    film, plain = radiographs("film", 2, PatientID="MRN-1"), radiographs("echo", Modality="US", PatientID="MRN-1")
    first, second = knee("first", "20190102", 1), knee("second", "20210304", 2)
    series = {
        "t2": spine_series("t2"),
        "t1": spine_series("t1", BodyPartExamined=None, FrameOfReferenceUID="1.2.840.7"),
        "axial": spine_series("axial", turn=AXIAL),
        "head": spine_series("head", BodyPartExamined="HEAD"),
    }
    look.store(film, plain, second, first, *series.values())
    sent = {each.SOPInstanceUID for each in held(orthanc)}
    said = look()
    names = {"film": film, "echo": plain, "first": first, "second": second, "spine": series["t2"]}
    told = {(what, name): said.get((what, str(images[0].StudyInstanceUID)), "")
            for name, images in names.items() for what in ("studies", "pairs", "spines")}  # fmt: skip
    assert {key for key, state in told.items() if state.startswith("stored")} == {
        ("studies", "film"),
        ("studies", "first"),
        ("studies", "second"),
        ("pairs", "second"),
        ("spines", "spine"),
    }
    assert told["pairs", "first"] == "refused no earlier picture of the same place"
    assert told["pairs", "film"].startswith("refused a pair is of single pictures")
    assert told["studies", "echo"] == "nothing no picture to read in it: US"
    assert told["spines", "echo"] == told["studies", "echo"]
    assert "axial slices: bodies are found on sagittal ones" in told["spines", "spine"]
    assert "another part of the body than the lower spine" in told["spines", "spine"]
    assert told["spines", "film"] == told["studies", "spine"] == ""

    everything = held(orthanc)
    made = made_by_us(everything)
    kinds = Counter((each.StudyInstanceUID, each.Modality) for each in made)
    assert kinds == {
        **{(images[0].StudyInstanceUID, "SR"): 1 for images in (film, first)},
        (second[0].StudyInstanceUID, "SR"): 2,
        **{(images[0].StudyInstanceUID, "OT"): 2 * len(images) for images in (film, first, second)},
        (series["t2"][0].StudyInstanceUID, "SR"): 2,
        (series["t2"][0].StudyInstanceUID, "SEG"): 2,
        (series["t2"][0].StudyInstanceUID, "OT"): 4,
    }
    for each in made:
        others = {one.SOPInstanceUID for one in everything if one.StudyInstanceUID == each.StudyInstanceUID}
        known = referred_to(each) & sent
        assert known
        if first[0].SOPInstanceUID in known and each.StudyInstanceUID == second[0].StudyInstanceUID:
            assert second[0].SOPInstanceUID in known  # a pair's report is the only one about two studies
        else:
            assert known <= others
    for name in ("t1", "t2"):
        uids = {each.SOPInstanceUID for each in series[name]}
        assert sum(bool(referred_to(each) & uids) for each in made) == 4  # a report, a segmentation, two maps
    assert not any(referred_to(each) & {one.SOPInstanceUID for one in series["axial"]} for each in made)

    # What lies in one series shares its coordinates.
    frames: dict[str, set[str]] = {}
    for each in made:
        frames.setdefault(each.SeriesInstanceUID, set()).add(str(each.get("FrameOfReferenceUID", "")))
    assert {len(found) for found in frames.values()} == {1}

    # Nothing is done twice, and done again it is the same.
    assert look() == {}
    before = orthanc.instances()
    orthanc.stop()
    orthanc.start()
    assert len(look("another ledger")) == len(said)
    assert orthanc.instances() == before

    # A new model of spines has the radiographs alone.
    backend.read_by(KnowingReader(str(bundles / "other grader"), str(bundles / "detector")))
    again = look()
    assert {what for what, _ in again} == {"spines"}
    assert len(orthanc.instances()) == len(before) + 8
    ledger = "".join(path.read_text() for path in (tmp_path / "ledger").rglob("*.json"))
    assert not any(word in ledger for word in ("MRN", "Doe", "Jane"))


@pytest.mark.system("dciodvfy")
def test_every_object_that_is_stored_is_valid(look: Looking, orthanc: Orthanc, tmp_path: Path) -> None:
    look.store(knee("first", "20190102", 1), knee("second", "20210304", 2), spine_series("t2"))
    look()
    made = made_by_us(held(orthanc))
    assert Counter(each.Modality for each in made) == {"SR": 4, "OT": 6, "SEG": 1}
    assert {each.SOPInstanceUID: errors_of(each, tmp_path) for each in made} == {
        each.SOPInstanceUID: [] for each in made
    }


PAIRS: list[tuple[dict[str, str], str]] = [
    ({}, "stored"),
    ({"StudyDate": "20210304", "StudyTime": "080000"}, "stored"),
    ({"StudyDate": "20210304"}, "refused no earlier picture of the same place"),
    ({"StudyDate": "20220101"}, "refused no earlier picture of the same place"),
    ({"StudyDate": ""}, "refused no earlier picture of the same place"),
    ({"Laterality": "R"}, "refused no earlier picture of the same place"),
    ({"ViewPosition": "LL"}, "refused no earlier picture of the same place"),
    ({"BodyPartExamined": "WRIST"}, "refused no earlier picture of the same place"),
    ({"SeriesDescription": "knee lateral"}, "refused no earlier picture of the same place"),
    ({"SeriesDescription": " Knee  AP "}, "stored"),
    ({"PatientID": "another"}, "refused no earlier picture of the same place"),
    ({"PatientBirthDate": "19700101"}, "refused no earlier picture of the same place"),
]


def test_a_pair_is_one_place_of_one_patient(look: Looking) -> None:
    expected = {}
    for number, (changed, outcome) in enumerate(PAIRS):
        patient = {"PatientID": f"MRN-{number}"}
        look.store(knee(f"earlier {number}", "20190102", 1, **{**patient, **changed}))
        later = knee(f"later {number}", "20210304", 2, **patient)
        look.store(later)
        expected[str(later[0].StudyInstanceUID)] = outcome
    twins = [knee(f"twin {number}", "20210304", 2, PatientID="MRN-7") for number in range(2)]
    for image in (twin[0] for twin in twins):
        image.StudyInstanceUID = twins[0][0].StudyInstanceUID
    look.store([twin[0] for twin in twins])
    expected[str(twins[0][0].StudyInstanceUID)] = (
        "refused pictures that headers do not tell apart have no earlier one each (2 ×)"
    )
    said = look()
    assert {study: said["pairs", study] for study in expected} == expected


def test_of_several_earlier_pictures_the_latest_is_taken(look: Looking, orthanc: Orthanc) -> None:
    studies = [knee(name, date, seed) for seed, (name, date) in enumerate({"a": "20180101", "b": "20200101"}.items())]
    later = knee("later", "20210304", 2)
    look.store(later, *studies)
    look()
    reports = [each for each in made_by_us(held(orthanc)) if each.Modality == "SR"]
    (pair,) = [each for each in reports if {studies[1][0].SOPInstanceUID, later[0].SOPInstanceUID} <= referred_to(each)]
    assert studies[0][0].SOPInstanceUID not in referred_to(pair)
    assert pair.StudyInstanceUID == later[0].StudyInstanceUID


def test_pairs_are_made_only_where_they_are_asked_for(look: Looking, url: str, voter: Voter) -> None:
    look.store(knee("first", "20190102", 1), knee("second", "20210304", 2))
    assert {what for what, _ in look(pairs=False)} == {"studies"}
    with over_http(build_api(Answering(voter), LIMITS, Access(DIGEST))) as other, Client(other, TOKEN) as client:
        assert [each.what for each in readers(client, client.models())] == ["studies"]
        with pytest.raises(UserError, match="answers studies, no pairs: leave --pairs out"):
            readers(client, client.models(), pairs=True)


def test_a_model_that_changes_or_breaks_in_mid_study_loses_and_doubles_nothing(
    look: Looking, orthanc: Orthanc, backend: Answering, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look.store(radiographs("film"), spine_series("t1"), spine_series("t2"))
    voted = backend.vote

    async def rolled_out(views, explain=()):
        monkeypatch.undo()
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
        await backend.roll_out(str(bundles / "other"))
        return await voted(views, explain)

    monkeypatch.setattr(backend, "vote", rolled_out)
    backend.breaks_at = 2
    with pytest.raises(Fault, match=r"the server changes its model: this is asked again|a defect of the server"):
        look()
    stored = made_by_us(held(orthanc))
    assert Counter(each.Modality for each in stored) == {"SR": 1, "SEG": 1, "OT": 2}  # of the first series
    said = look()
    assert {(what, state.split()[0]) for (what, _), state in said.items() if what != "pairs"} == {
        ("studies", "stored"),
        ("spines", "stored"),
    }
    made = made_by_us(held(orthanc))
    assert Counter(each.Modality for each in made) == {"SR": 3, "SEG": 2, "OT": 5}
    assert {each.SOPInstanceUID for each in stored} < {each.SOPInstanceUID for each in made}
    assert look() == {}
