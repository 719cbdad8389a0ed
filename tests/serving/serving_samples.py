"""For the tests of the server: radiographs in every format, a tiny model, forms, an ASGI client."""

import asyncio
import hashlib
import io
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
import torch
import uvicorn
from PIL import Image
from pydicom import FileMetaDataset
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from mskray.bundles import Fitted
from mskray.ensemble import Voter, load
from mskray.errors import UserError
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.imaging.regions import fit_to_canvas
from mskray.imaging.volumes import Volume
from mskray.serving.catalogue import catalogue
from mskray.serving.members import VoteQueue
from mskray.serving.pairs import PairReader
from mskray.serving.problems import InvalidValue, invalid
from mskray.serving.schemas.models import Models, Rollout
from mskray.serving.schemas.pairs import PairVote
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.spines import SpineReader

SECRET_NAME, SECRET_PATIENT = "Mustermann-Erika-1964", "Mustermann^Erika"
"""What may stand in no log."""

TOKEN = "correct-horse-battery"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def radiograph(seed: int, rows: int = 96, columns: int = 80, dtype: type = np.uint8) -> np.ndarray:
    """Return (rows, columns) of coarse noise over the dtype's full range: what a fresh network tells apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, np.iinfo(dtype).max, (rows // 8, columns // 8), dtype=dtype)
    return np.kron(coarse, np.ones((8, 8), dtype))


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Return the pixels as a PNG, TIFF or JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, body_part: str = "KNEE", frames: int = 1) -> bytes:
    """Return a digital radiograph of uint8 or uint16 pixels with a patient's name in its header."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        DigitalXRayImageStorageForPresentation,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.BodyPartExamined, data.Modality = SECRET_PATIENT, "4711", body_part, "DX"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = pixels.tobytes() * frames
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def fitted(
    seed: int, body_parts: tuple[str, ...], backbone: str = "mobilenet_v3_small", size: int = 64, images: int = 64
) -> Fitted:
    """Return a network of random weights for images of `size` px, whose answers depend on the image.

    Args:
        images: that its BatchNorm sees.
    """
    config = ClassifierConfig.model_validate(
        {"network": {"backbone": backbone, "weights": "none"}, "data": {"image_size": size}}
    )
    torch.manual_seed(seed)
    network = ClassifierRecipe(config, 2).build().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what it has seen
    canvases = np.stack([fit_to_canvas(radiograph(1000 + index), size)[0] for index in range(images)])
    shown = torch.from_numpy(canvases)[:, None] / 255.0
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        # With the statistics of a fresh network every image shrinks to the same bits on its way through the layers.
        network(shown)
        logits = network.eval()(shown)
        head.weight /= logits.std(dim=0, keepdim=True).T
        head.bias.zero_()
        head.bias -= network(shown).mean(dim=0)
    return Fitted(
        family="classifier",
        config=config.model_dump(mode="json"),
        task="abnormality",
        classes=("normal", "abnormal"),
        kind="radiograph",
        body_parts=body_parts,
        image={"size": size, "dtype": "uint8", "fit": "pad"},
        state={name: value.detach() for name, value in network.state_dict().items()},
        history=[{"epoch": 1, "val_auroc": 0.75}],
        best={"epoch": 1, "val_auroc": 0.75, "val_kappa": float("nan")},
        labels={"normal": 3, "abnormal": 1},
        cohort={"uri": "s3://cohorts/knees", "content_hash": "c" * 64},
    )


class Local:
    """Models in this process, behind the routes."""

    def __init__(
        self, voter: Voter | None = None, pairs: PairReader | None = None, spines: SpineReader | None = None
    ) -> None:
        self._queue, self._pairs, self._spines = VoteQueue(voter) if voter else None, pairs, spines
        self.served = tuple(self._catalogue().served)

    def _catalogue(self) -> Models:
        return catalogue(
            self._queue.described if self._queue else None,
            self._pairs.described if self._pairs else None,
            self._spines.described if self._spines else None,
        )

    async def models(self) -> Models:
        return self._catalogue()

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        return await self._queue.vote(views, explain)

    async def pair(self, before: DecodedView, after: DecodedView) -> PairVote:
        return await asyncio.to_thread(self._pairs.vote, before, after)

    async def spine(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        said = self._spines.read(volume, copies)
        while (each := await asyncio.to_thread(next, said, None)) is not None:
            yield each

    async def roll_out(self, ensemble: str) -> Rollout:
        try:
            self._queue = VoteQueue(await asyncio.to_thread(load, ensemble))
        except UserError as error:
            raise invalid(InvalidValue(where="body.ensemble", what=str(error))) from None
        digest = self._queue.described.ensemble.hash
        return Rollout(ensemble=ensemble, hash=digest, id=uuid.uuid4().hex, state="served", reason=None)

    async def metrics(self) -> bytes:
        return b"ray_mskray_open_requests 1.0\n"


Files = list[tuple[str, tuple[str, bytes]]]
"""What `requests` takes as `files`: (field, (file name, content)) pairs."""


def multipart(files: Files, fields: dict[str, str] | None = None) -> tuple[bytes, str]:
    """Return a multipart body and its content type."""
    prepared = requests.Request("POST", "http://server/", files=files, data=fields or {}).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, prepared.headers["content-type"]


@dataclass
class Answered:
    """What an ASGI application answered, and how many chunks of the body it took."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0


def ask(
    app: Any, method: str, path: str, body: Iterable[bytes] = (), headers: dict[str, str] | None = None
) -> Answered:
    """Send one request to an ASGI application, the body chunk by chunk, as a server does."""
    return asyncio.run(asked(app, method, path, body, headers))


async def asked(
    app: Any, method: str, path: str, body: Iterable[bytes] = (), headers: dict[str, str] | None = None
) -> Answered:
    """As `ask`, for requests at the same time."""
    plain, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
    }
    answered = Answered()
    chunks = iter(body)

    async def receive() -> dict[str, Any]:
        chunk = next(chunks, None)
        if chunk is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        answered.taken += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answered.body += message.get("body", b"")

    await app(scope, receive, send)
    return answered


@contextmanager
def over_http(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a free port of this machine; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
