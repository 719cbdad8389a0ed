"""A correction over HTTP and into the store: what is kept, what is refused, and that it names nobody."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from serving_samples import SECRET_NAME, SECRET_PATIENT, Answered, ask, dicom, encoded, multipart, radiograph

from mskray.cohorts.corrections import KEY, StoredCorrection, pixel_digest
from mskray.cohorts.sources import Item, Rejected, get_source
from mskray.cohorts.sources.feedback import DISAGREE, FeedbackOptions
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, decode
from mskray.serving import problems
from mskray.serving.accounts import Accounts
from mskray.serving.desk import Desk
from mskray.serving.feedback import Correction, keep
from mskray.serving.gate import Gate
from mskray.serving.idempotency import Once
from mskray.serving.meters import IngressMeters
from mskray.serving.routes.feedback import router
from mskray.serving.schemas.models import CalibrationInfo, EnsembleInfo, Models
from mskray.serving.settings import Limits
from mskray.storage import Location, locate

LIMITS = Limits(max_body=200_000, max_pixels=100_000)
MODEL = "a" * 64
RIGHT = {"task": "abnormality", "label": "normal", "said": "abnormal", "reason": "a vessel", "model": MODEL}
BOX = {"name": "effusion", "x": 10, "y": 20.5, "width": 30, "height": 40}
PNG = encoded(radiograph(1), "PNG")
KNOWN = Models(
    served=["studies"],
    ensemble=EnsembleInfo(
        name="knees",
        hash=MODEL,
        task="abnormality",
        classes=["normal", "abnormal"],
        threshold=0.5,
        usual=None,
        calibration=CalibrationInfo(temperature=1.0, fitted_on=None),
    ),
    pairs=None,
    spines=None,
    members=[],
    rollout=None,
)


class Serving:
    """What is served, without a model."""

    async def models(self) -> Models:
        return KNOWN


class Ward:
    """A door that knows everybody as `ward-3`, and says what they were let in for."""

    async def admit(self, token: str | None, scope: str) -> str:
        return f"ward-3 {scope}"


def application(folder: Location | None) -> FastAPI:
    """The route as a server has it."""
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Accounts, meters=IngressMeters(), audit=None)
    app.include_router(router(Desk(Serving(), LIMITS, Gate(LIMITS), Ward(), None, Once(None), folder)))
    return app


def send(app: FastAPI, image: bytes = PNG, text: str | None = None, **changed: Any) -> Answered:
    correction = json.dumps({**RIGHT, **changed}) if text is None else text
    body, kind = multipart([("image", (SECRET_NAME, image))], {"correction": correction})
    return ask(app, "POST", "/v1/feedback", [body], {"content-type": kind})


def stored(folder: Path) -> list[StoredCorrection]:
    files = sorted((folder / "corrections").glob("*/*.json"))
    found = [StoredCorrection.model_validate_json(file.read_text()) for file in files]
    return sorted(found, key=lambda each: each.time)


def items(folder: Path, **options: Any) -> tuple[list[Item], list[Rejected]]:
    source = get_source("feedback")
    found = list(source.items(locate(folder), FeedbackOptions(**options)))
    return [each for each in found if isinstance(each, Item)], [each for each in found if isinstance(each, Rejected)]


@pytest.mark.parametrize(
    ("image", "dtype"),
    [
        (PNG, np.uint8),
        (encoded(radiograph(1), "TIFF"), np.uint8),
        (encoded(radiograph(1), "JPEG"), np.uint8),
        (encoded(radiograph(2, dtype=np.uint16), "PNG"), np.uint16),
        (dicom(radiograph(3)), np.uint8),
        (dicom((radiograph(4, dtype=np.uint16) >> 5).astype(np.uint16)), np.uint16),
    ],
    ids=["png", "tiff", "jpeg", "png16", "dicom", "dicom16"],
)
def test_pixels_come_back_as_they_were_decoded(tmp_path: Path, image: bytes, dtype: type) -> None:
    answered = send(application(locate(tmp_path)), image, boxes=[BOX])
    assert answered.status == 201, answered.body
    kept = json.loads(answered.body)
    pixels = decode(image).pixels
    assert kept["image"] == pixel_digest(pixels)
    (found,), rejected = items(tmp_path)
    assert not rejected
    assert found.address is not None
    source = get_source("feedback")
    data = source.fetch(locate(tmp_path), found.address)
    loaded = source.load(found.address, data, FeedbackOptions()).image
    assert loaded.pixels.dtype == dtype
    np.testing.assert_array_equal(loaded.pixels, pixels)


def test_what_is_kept(tmp_path: Path) -> None:
    answered = send(application(locate(tmp_path)), dicom(radiograph(1)), boxes=[BOX])
    kept = json.loads(answered.body)
    (correction,) = stored(tmp_path)
    assert kept["id"] == correction.id
    assert (kept["who"], kept["reason"], kept["model"]) == ("ward-3 feedback", "a vessel", MODEL)
    assert (kept["task"], kept["label"], kept["said"], kept["body_part"]) == (
        "abnormality",
        "normal",
        "abnormal",
        "KNEE",
    )
    assert kept["boxes"] == [BOX | {"x": 10.0, "width": 30.0, "height": 40.0}]
    assert correction.classes == ("normal", "abnormal")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != KEY:  # of random digits, 4711 may be among them
            content = path.read_bytes()
            assert all(word.encode() not in content for word in (SECRET_PATIENT, "Mustermann", "4711")), path
            assert SECRET_NAME not in str(path)
    picture = (tmp_path / "images" / f"{kept['image']}.png").read_bytes()
    chunks, place = [], 8
    while place < len(picture):
        chunks.append(picture[place + 4 : place + 8])
        place += 12 + int.from_bytes(picture[place : place + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}, "no text, no time, no profile"


def test_patients(tmp_path: Path) -> None:
    app = application(locate(tmp_path / "one"))
    same = [json.loads(send(app, dicom(radiograph(seed))).body)["patient"] for seed in (1, 2)]
    others = [json.loads(send(app, encoded(radiograph(seed), "PNG")).body)["patient"] for seed in (1, 2, 1)]
    assert same[0] == same[1], "the header names the same patient"
    assert others[0] == others[2], "the same picture"
    assert len({same[0], *others}) == 3
    elsewhere = json.loads(send(application(locate(tmp_path / "two")), dicom(radiograph(1))).body)["patient"]
    assert elsewhere != same[0], "each store has a key of its own"
    assert (tmp_path / "one" / "key").stat().st_mode & 0o077 == 0


def test_servers_that_begin_together_share_a_key(tmp_path: Path) -> None:
    def one(seed: int) -> str:
        return keep(locate(tmp_path), dicom(radiograph(seed)), Correction(**RIGHT), "", KNOWN, LIMITS).patient

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(4)))) == 1


def test_nothing_is_overwritten_and_the_latest_counts(tmp_path: Path) -> None:
    app = application(locate(tmp_path))
    for label, boxes in (("normal", [BOX]), ("abnormal", []), (None, [BOX | {"name": "Line"}])):
        assert send(app, label=label, boxes=boxes).status == 201
    assert [each.label for each in stored(tmp_path)] == ["normal", "abnormal", None]
    assert len(list((tmp_path / "images").iterdir())) == 1
    (item,), _ = items(tmp_path)
    assert item.labels == {"abnormality": 1}, "boxes alone leave the label before them"
    assert [each.kind for each in item.findings] == ["line"]
    assert item.split == "train"


def test_readers_who_disagree_are_counted(tmp_path: Path) -> None:
    source = get_source("feedback")
    for who, label in (("a", "normal"), ("b", "normal"), ("a", "abnormal")):
        keep(locate(tmp_path), PNG, Correction(**{**RIGHT, "label": label}), who, KNOWN, LIMITS)
    keep(locate(tmp_path), dicom(radiograph(5)), Correction(**RIGHT), "a", KNOWN, LIMITS)
    notes = {}
    for item in items(tmp_path)[0]:
        assert item.address is not None
        data = source.fetch(locate(tmp_path), item.address)
        notes[item.labels["abnormality"]] = source.load(item.address, data, FeedbackOptions()).notes
    assert notes == {1: (DISAGREE,), 0: ()}


NO_BOX: Any = {"label": None, "boxes": []}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # what is sent otherwise, kind of problem, what it says
    ({"image": b"%PDF-1.7"}, "unreadable-views", "a PDF"),
    ({"image": PNG[:-40]}, "unreadable-views", "truncated PNG"),
    ({"image": encoded(radiograph(1, 400, 400), "PNG")}, "unreadable-views", "more than the limit of 100000 pixels"),
    ({"image": bytes(300_000)}, "too-large", "200,000 bytes"),
    ({"task": "fracture"}, "invalid-value", "the server answers abnormality, not fracture"),
    ({"label": "broken"}, "invalid-value", "broken is none of normal, abnormal"),
    ({"said": "broken"}, "invalid-value", "form.correction.said"),
    (NO_BOX, "invalid-value", "give a label, a box or both"),
    ({"boxes": [BOX | {"x": 60}]}, "invalid-value", "form.correction.boxes.0: leaves the image, which has 80 × 96 px"),
    ({"boxes": [BOX | {"width": 0}]}, "invalid-value", "boxes.0.width"),
    ({"boxes": [BOX | {"x": -1}]}, "invalid-value", "boxes.0.x"),
    ({"boxes": [BOX | {"x": float("nan")}]}, "invalid-value", "boxes.0.x"),
    ({"boxes": [BOX] * 101}, "invalid-value", "boxes"),
    ({"boxes": [BOX | {"who": "me"}]}, "invalid-value", "boxes.0.who"),
    ({"reason": "  "}, "invalid-value", "correction.reason"),
    ({"reason": "x" * 2001}, "invalid-value", "correction.reason"),
    ({"model": "../../etc/passwd"}, "invalid-value", "correction.model"),
    ({"who": "me"}, "invalid-value", "correction.who"),
    ({"text": "not JSON"}, "invalid-value", "Invalid JSON"),
    ({"text": "x" * 70_000}, "malformed-form", "maximum size"),
]


@pytest.mark.parametrize(("sent", "kind", "what"), REFUSED)
def test_what_is_refused_leaves_nothing(tmp_path: Path, sent: dict[str, Any], kind: str, what: str) -> None:
    answered = send(application(locate(tmp_path / "store")), **sent)
    problem = json.loads(answered.body)
    assert problem["type"] == f"urn:mskray:{kind}", problem
    assert what in problem["detail"]
    assert answered.status == problems.KINDS[kind][0]
    assert not (tmp_path / "store").exists()


def test_forms(tmp_path: Path) -> None:
    app = application(locate(tmp_path / "store"))
    text = {"correction": json.dumps(RIGHT)}
    for files, fields, what in (
        ([("more", ("a", PNG))], text, "there are image and correction"),
        ([("image", ("a", PNG))], {}, "form.correction"),
        ([("image", ("a", PNG)), ("image", ("b", PNG))], text, "1 files here"),
        ([("image", ("a", PNG)), ("more", ("b", PNG))], text, "1 files here"),
        ([("image", ("a", PNG)), ("correction", ("b", b"{}"))], {}, "1 files here"),
    ):
        body, kind = multipart(files, fields)
        answered = ask(app, "POST", "/v1/feedback", [body], {"content-type": kind})
        assert answered.status == 422, answered.body
        assert what in json.loads(answered.body)["detail"]
    assert ask(app, "POST", "/v1/feedback", [b"{}"], {"content-type": "application/json"}).status == 415
    assert not (tmp_path / "store").exists()


def test_burned_in_text_is_not_kept(tmp_path: Path) -> None:
    from io import BytesIO

    import pydicom

    header = pydicom.dcmread(BytesIO(dicom(radiograph(1))))
    header.BurnedInAnnotation = "YES"
    buffer = BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    answered = send(application(locate(tmp_path / "store")), buffer.getvalue())
    assert answered.status == 422
    assert "BurnedInAnnotation" in json.loads(answered.body)["detail"]


def test_without_a_store(tmp_path: Path) -> None:
    answered = send(application(None))
    assert answered.status == 503
    assert json.loads(answered.body)["type"] == "urn:mskray:no-store"
    (tmp_path / "file").write_text("no folder")
    answered = send(application(locate(tmp_path / "file")))
    assert answered.status == 503
    assert str(tmp_path) not in answered.body.decode()


def test_the_document_describes_the_form(tmp_path: Path) -> None:
    document = json.loads(ask(application(None), "GET", "/openapi.json").body)
    route = document["paths"]["/v1/feedback"]["post"]
    form = route["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image", "correction"]
    box = form["properties"]["correction"]["properties"]["boxes"]["items"]["$ref"]
    assert box.rpartition("/")[2] in document["components"]["schemas"]


def test_bad_files_go_to_quarantine(tmp_path: Path) -> None:
    for seed in range(4):
        correction = Correction(**{**RIGHT, "label": ("normal", "abnormal")[seed % 2]})
        keep(locate(tmp_path), encoded(radiograph(seed), "PNG"), correction, "a", KNOWN, LIMITS)
    good = stored(tmp_path)
    folder = next((tmp_path / "corrections").iterdir())
    (folder / "broken.json").write_text("{")
    (folder / "short.json").write_text("{}")
    (folder / "newer.json").write_text(json.dumps({**good[0].model_dump(mode="json"), "schema_version": 2}))
    (folder / f"{good[1].id}.json").write_text(json.dumps({**good[1].model_dump(mode="json"), "label": "odd"}))
    (tmp_path / "images" / f"{good[2].image}.png").unlink()
    other = cv2.imencode(".png", radiograph(9))[1].tobytes()
    (tmp_path / "images" / f"{good[3].image}.png").write_bytes(other)
    found, rejected = items(tmp_path, body_part="knee")
    assert {each.path.rpartition("/")[2]: each.reason for each in rejected} == {
        "broken.json": rejected[0].reason,
        "short.json": "not a correction: id: Field required",
        "newer.json": "not a correction: schema_version: Input should be less than or equal to 1",
        f"{good[1].id}.json": "label 'odd' is none of normal, abnormal",
        f"{good[2].id}.json": f"there is no images/{good[2].image}.png",
    }
    assert {each.instance_id for each in found} == {good[0].image, good[3].image}
    assert {each.body_part for each in found} == {"KNEE"}
    changed = next(each for each in found if each.instance_id == good[3].image)
    with pytest.raises(DecodeError, match="not those that were stored"):
        get_source("feedback").load(changed.address or "", other, FeedbackOptions())


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    source = get_source("feedback")
    with pytest.raises(UserError, match="has no folder corrections"):
        source.tasks(locate(tmp_path), FeedbackOptions())
    (tmp_path / "corrections").mkdir()
    with pytest.raises(UserError, match="holds no correction yet"):
        source.tasks(locate(tmp_path), FeedbackOptions())
