"""Decoding in a process apart, for a shard whose workers keep dying.

A file that crashes a decoder (there is C code behind all of them) kills its worker, Ray starts the shard again, and
so on for ever. From the third attempt on, each file of the shard is decoded in a child process: the one that kills
it goes to quarantine, and the shard gets done. Slow, and never needed by files that merely cannot be decoded.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray import cloudpickle

CAREFUL_FROM = 2


class Load(Protocol):
    """Turns a path and its bytes into whatever the caller makes of them."""

    def __call__(self, path: str, data: bytes) -> Any: ...


class Crashed(Exception):
    """The process that decoded a file died."""


@contextmanager
def apart(load: Load) -> Iterator[Load]:
    """Give `load` as it runs in a child process; it raises `Crashed` where the child died, and what `load` raises."""
    pickled = cloudpickle.dumps(load)
    # A fork would inherit the locks of Ray's threads.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn)

    def call(path: str, data: bytes) -> Any:
        nonlocal pool
        try:
            return pool.submit(_call, pickled, path, data).result()
        except BrokenProcessPool:
            pool.shutdown()
            pool = ProcessPoolExecutor(1, spawn)
            raise Crashed from None

    try:
        yield call
    finally:
        pool.shutdown()


def attempt() -> int:
    """How often the present Ray task was started before."""
    worker: Any = ray._private.worker.global_worker  # the public runtime context does not say
    return int(worker.core_worker.get_current_task_attempt_number())


def _call(pickled: bytes, path: str, data: bytes) -> Any:
    # Bytes of our own making, from the process that started this one.
    return cloudpickle.loads(pickled)(path, data)
