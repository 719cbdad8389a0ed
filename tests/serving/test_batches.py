"""A batch beside what happens to a server, and one view of a zip."""

import asyncio
import io
import threading
import zipfile
from typing import Any

import pytest
from serving_samples import Local, encoded, radiograph

from mskray.ensemble import Voter
from mskray.serving import batches, patience, uploads
from mskray.serving.batches import batch_work
from mskray.serving.forms import Upload
from mskray.serving.gate import Gate
from mskray.serving.jobs import Order
from mskray.serving.problems import Problem, too_busy
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.settings import Limits
from mskray.serving.uploads import decode_view

PNG = encoded(radiograph(1), "PNG")


def zipped(names: list[str], content: bytes = PNG) -> Upload:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return Upload(0, None, target.getvalue())


class Busy(Local):
    """Has no time for every second request."""

    asked = 0

    async def vote(self, views: list[DecodedView], explain: Any = ()) -> StudyVote:
        self.asked += 1
        if self.asked % 2 == 0:
            raise too_busy("ask again")
        return await super().vote(views, explain)


def answered(backend: Local, archive: Upload) -> list[Any]:
    limits = Limits()

    async def work() -> Any:
        order = Order("0" * 32, "batch", "ward", "r", {}, 1, (archive,))
        return await batch_work(backend, limits, Gate(limits))(order, lambda *_: None)

    return list(asyncio.run(work())["batch"])


def test_what_is_answered_is_not_asked_again(voter: Voter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSES_S", (0.01, 0.01))
    backend = Busy(voter)
    entries = answered(backend, zipped(["a/1.png", "b/1.png", "c/1.png"]))
    assert [(each.index, each.name, each.problem) for each in entries] == [
        (0, "a", None),
        (1, "b", None),
        (2, "c", None),
    ]
    assert backend.asked == 5, "three that are answered and two that are not"


def test_a_zip_is_unpacked_beside_the_event_loop(voter: Voter, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack, threads = batches.unpack, []

    def seen(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return unpack(*args)

    monkeypatch.setattr(batches, "unpack", seen)
    answered(Local(voter), zipped(["a/1.png"]))
    assert threads
    assert threading.main_thread() not in threads


def test_one_view_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, decoded = uploads.decode, []

    def counted(*args: Any) -> Any:
        decoded.append(args)
        return decode(*args)

    monkeypatch.setattr(uploads, "decode", counted)
    files = (zipped(["1.png", "2.png", "3.png"]), Upload(1, None, encoded(radiograph(2, 64, 48), "PNG")))
    assert decode_view(files, 3, Limits()).pixels.shape == (64, 48)
    assert len(decoded) == 1
    with pytest.raises(Problem, match="one of the 4 views"):
        decode_view(files, 4, Limits())
