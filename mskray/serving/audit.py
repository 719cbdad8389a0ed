"""Who asked what, and which model answered: an append-only table of Parquet files.

    mskray serve ENSEMBLE --audit s3://msk/audit
    pyarrow.dataset.dataset("s3://msk/audit", partitioning="hive").to_table()

A row is a request to a /v1 route: images are named by the SHA-256 of the bytes that were sent, never by their names or
headers. A file is written once, under a name of its own, and never again: a bucket can forbid all but new objects.
Rows wait a few seconds for company; what waits when a replica is killed is lost.
"""

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa

from mskray.storage import Location
from mskray.storage.tables import parquet_bytes

_EVERY_S = 2.0
_MOST_WAITING = 10_000
"""Rows: beyond, a store that is away makes the server forget, and say so, rather than fill its memory."""

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("who", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("route", pa.string(), nullable=False),
        pa.field("status", pa.int16(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),
        pa.field("images", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
    ]
)
_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Row:
    """One request.

    Args:
        who: name of the token; "" where none was accepted.
        route: the path as the server knows it, without what a client put into it.
        images: SHA-256 of each file that was sent, in order.
        model: hash of the model that answered; "" where none did.
    """

    time: datetime
    request_id: str
    who: str
    method: str
    route: str
    status: int
    seconds: float
    images: Sequence[str]
    model: str


class Audit:
    """Rows on their way to a folder. Used from one event loop."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._waiting: list[Row] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, row: Row) -> None:
        """Keep a row; it is written within some seconds."""
        if len(self._waiting) >= _MOST_WAITING:
            _log.error("the audit cannot be written: request %s is not in it", row.request_id)
            return
        self._waiting.append(row)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Write what waits, now."""
        if self._writing is not None:
            self._writing.cancel()
        await self._flush()

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(_EVERY_S)
            await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            await asyncio.to_thread(self._write, rows)
        except Exception as error:  # the store is away: the rows wait for it
            _log.error("the audit cannot be written, %d rows wait: %s", len(rows), error)
            self._waiting = rows + self._waiting

    def _write(self, rows: Sequence[Row]) -> None:
        now = datetime.now(UTC)
        table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
        name = f"{now:%H%M%S}-{uuid.uuid4().hex}.parquet"
        self._folder.join(f"date={now:%Y-%m-%d}", name).write_bytes(parquet_bytes(table))
