"""Zips of views: what is in them, bombs, lies, and names that lead elsewhere."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from serving_samples import SECRET_NAME, Local, ask, dicom, encoded, multipart, radiograph

from mskray.ensemble import Voter
from mskray.serving.api import build_api
from mskray.serving.archives import ArchiveError, unpack
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access

LIMITS = Limits(max_body=1_000_000, max_unpacked=2_000_000, max_views=4, max_pixels=1_000_000)
PNG = encoded(radiograph(1), "PNG")


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_flag(data: bytes) -> bytes:
    """The same zip, called encrypted."""
    changed = bytearray(data)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[data.index(magic) + offset] |= 1
    return bytes(changed)


def changed(data: bytes) -> bytes:
    """The same zip, with a bit of its content turned."""
    place = data.index(b"PK\x01\x02") - 20
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture(scope="module")
def send(voter: Voter) -> Callable[..., tuple[int, dict]]:
    app = build_api(Local(voter), LIMITS, Access())

    def sent(*files: bytes, query: str = "") -> tuple[int, dict]:
        body, kind = multipart([("views", (f"{number}.zip", each)) for number, each in enumerate(files)])
        answered = ask(app, "POST", f"/v1/studies{query}", [body], {"content-type": kind})
        return answered.status, json.loads(answered.body)

    return sent


def test_a_zip_is_as_good_as_its_files(send: Callable[..., tuple[int, dict]]) -> None:
    views = {"study/a.png": PNG, "study/b.dcm": dicom(radiograph(2)), "c.jpg": encoded(radiograph(3), "JPEG")}
    status, packed = send(zipped({"study/": b"", "__MACOSX/._a": b"x", "DICOMDIR": b"x", **views}))
    _, single = send(*views.values())
    assert status == 200
    assert [view["name"] for view in packed["views"]] == ["a.png", "b.dcm", "c.jpg"]
    for one, other in zip(packed["views"], single["views"], strict=True):
        assert one | {"name": ""} == other | {"name": ""}
    assert packed["study"] == single["study"]


def test_zips_and_files_are_counted_in_their_order(send: Callable[..., tuple[int, dict]]) -> None:
    status, answer = send(PNG, zipped({"a.png": PNG, "b.txt": b"no image"}), PNG, query="?partial=true")
    assert status == 200
    assert [view["index"] for view in answer["views"]] == [0, 1, 3]
    assert [(view["index"], view["name"]) for view in answer["unreadable"]] == [(2, "b.txt")]


def test_names_lead_nowhere(send: Callable[..., tuple[int, dict]], tmp_path: Path) -> None:
    names = ["../../../tmp/escaped.png", "/etc/passwd", "C:\\escaped.png", "a/../../b.png"]
    status, answer = send(zipped(dict.fromkeys(names, PNG)))
    assert status == 200
    assert [view["name"] for view in answer["views"]] == ["escaped.png", "passwd", "escaped.png", "b.png"]
    assert not Path("/tmp/escaped.png").exists()


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (zipped({}), 422, "zip without files"),
        (zipped({"__MACOSX/a.png": PNG}), 422, "zip without files"),
        (zipped({"a.png": PNG})[:-30], 422, "damaged zip"),
        (changed(zipped({"a.png": PNG})), 422, "damaged zip"),
        (b"PK\x03\x04", 422, "damaged zip"),
        (with_flag(zipped({"a.png": PNG})), 422, "encrypted zip"),
        # A name that begins with a null: Python's zipfile cuts it there, and cannot tell whether "" is a folder.
        (zipped({"a.png": PNG}).replace(b"a.png", b"\0.png"), 422, "zip without files"),
        (zipped({"a.png": PNG}, zipfile.ZIP_LZMA), 422, "zip packed in a way that is not known"),
        (zipped({"bomb.png": bytes(50_000_000)}, zipfile.ZIP_BZIP2), 422, "zip packed in a way that is not known"),
        (zipped({"inner.zip": zipped({"a.png": PNG})}), 422, ""),  # a zip in a zip is no image
        (zipped({f"{number}.png": PNG for number in range(5)}), 422, "may have 4 files"),
        (zipped({f"{number}.png": b"" for number in range(5000)}), 422, "may have 4 files"),
        (zipped({"bomb.png": bytes(50_000_000)}), 413, "2,000,000 bytes when unpacked"),
        (zipped({f"{number}.png": bytes(900_000) for number in range(3)}), 413, "bytes when unpacked"),
    ],
    ids=[
        "empty",
        "nothing",
        "cut",
        "changed",
        "head",
        "encrypted",
        "nameless",
        "lzma",
        "bzip2",
        "nested",
        "many",
        "crowd",
        "bomb",
        "together",
    ],
)
def test_what_is_refused(send: Callable[..., tuple[int, dict]], data: bytes, status: int, reason: str) -> None:
    got, problem = send(data)
    assert got == status, problem
    assert reason in problem["detail"] + "".join(view["reason"] for view in problem.get("views", []))


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    """Half a gigabyte of zeros; no more than the limit is ever in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as bomb:
        for _ in range(512):
            bomb.write(bytes(1 << 20))
    with pytest.raises(ArchiveError) as refused:
        list(unpack(buffer.getvalue(), 4, 1 << 20))
    assert refused.value.too_large


def test_what_a_patient_is_called_is_not_told(send: Callable[..., tuple[int, dict]]) -> None:
    _, problem = send(zipped({f"{SECRET_NAME}/a.png": b"%PDF"}))
    assert SECRET_NAME not in json.dumps(problem)
