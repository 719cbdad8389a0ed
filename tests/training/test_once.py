"""Work that several ask for is done once; who is killed or fails leaves nothing locked; what a digest tells apart."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from mskray.cohorts import Cohort
from mskray.cohorts.schema import ABNORMALITY, Counts, ImageFormat, Manifest, SplitMethod
from mskray.cohorts.views import Part, View
from mskray.errors import UserError
from mskray.estimators.pairs import AugmentSection
from mskray.imaging.inputs import InputFormat
from mskray.progress import Progress, Report, silent
from mskray.storage import locate
from mskray.training.digests import digest
from mskray.training.feed import Split, describe_split, hold
from mskray.training.on_ray.readers import RayReaders
from mskray.training.once import Shared, once
from mskray.training.samples import EachImage, Studies


@dataclass(frozen=True)
class Other:
    column: str


def cohort_at(uri: str) -> Cohort:
    """A cohort that is nowhere, as a split knows it."""
    manifest = Manifest(
        source="manifest",
        source_options={},
        tasks=(ABNORMALITY,),
        image=ImageFormat(size=64, dtype="uint8", fit="pad"),
        masks=False,
        split=SplitMethod(method="source", seed=0, fractions=None),
        counts=Counts(listed=0, images=0, quarantined=0, splits={}),
        shards=(),
        hash_key_fingerprint="",
        content_hash="",
        created_by="",
    )
    return Cohort(locate(uri), manifest)


def split_of(**changes: Any) -> Split:
    given = {"cohort": cohort_at("s3://bucket/c"), "name": "train", "samples": EachImage("label_a")}
    return Split(**{**given, "input": InputFormat(64), "counts": (3, 4), "shards": (), **changes})


def test_equal_values_have_one_digest() -> None:
    assert digest(split_of(cohort=cohort_at("s3://bucket/c"))) == digest(split_of())
    assert digest({"a": 1, "b": AugmentSection()}) == digest({"b": AugmentSection(), "a": 1})
    assert digest(np.arange(6)) == digest(np.arange(12)[::2] // 2)
    assert digest(split_of(shards=(part(b"\xff"),))) == digest(split_of(shards=(part(b"\xff"),)))
    assert digest(split_of(shards=(part(b"\xff"),))) != digest(split_of(shards=(part(b"\xfe"),)))


def part(kept: bytes) -> Part:
    """Of a fold's view: a shard's rows are bits, which need not be text."""
    return Part(split="train", path="p", rows=7, bytes=1, sha256="a", stored=8, kept=kept)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (split_of(), split_of(cohort=cohort_at("s3://bucket/d"))),
        (split_of(), split_of(cohort=replace(cohort_at("s3://bucket/c"), view=View(merged=True)))),
        (split_of(), split_of(name="validation")),
        (split_of(), split_of(input=InputFormat(32))),
        (split_of(), split_of(counts=(7,))),
        (split_of(), split_of(samples=Studies("label_a", 2))),
        (EachImage("label_a"), Other("label_a")),
        (AugmentSection(), AugmentSection(noise=0.1)),
        (np.arange(4), np.arange(4, dtype=np.int32)),
        (np.arange(4), np.arange(4).reshape(2, 2)),
        (np.arange(5000), np.where(np.arange(5000) == 2500, 0, np.arange(5000))),
        ("1", 1),
    ],
)
def test_what_differs_has_another_digest(one: object, other: object) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [{1, 2}, np.array([None]), print])
def test_what_cannot_be_compared_has_no_digest(value: object) -> None:
    with pytest.raises(TypeError, match="has no digest"):
        digest(value)


def test_alone_the_work_is_done_here() -> None:
    said: list[Progress] = []
    once(None, "address", "what", lambda report: report(Progress(str(os.getpid()))), said.append)
    assert said == [Progress(str(os.getpid()))]


def work(folder: Path, name: str, report: Report, seconds: float = 2.0, fails: int = 0, dies: int = 0) -> None:
    """Leaves a file for each attempt; the first `fails` are refused, the first `dies` are killed."""
    attempt = len(list(folder.glob(f"{name}-*")))
    (folder / f"{name}-{attempt}").touch()
    time.sleep(seconds)
    if attempt < dies:
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt < fails:
        raise UserError("the store is away: try again")


@ray.remote(num_cpus=0)
def asker(shared: Shared, given: Callable[[Report], None]) -> None:
    once(shared, "killed", "what", given, silent)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_several_ask_for_is_done_once(ray_cluster: str, tmp_path: Path, by_value: None) -> None:
    """By two at the same time once; again after it failed; and not again where a trial was killed."""
    shared = Shared.start()

    def attempts(name: str) -> int:
        return len(list(tmp_path.glob(f"{name}-*")))

    def ask_twice(name: str, **how: Any) -> list[str]:
        said: list[str] = []

        def ask() -> None:
            try:
                once(shared, name, "what", partial(work, tmp_path, name, **how), silent)
                said.append("done")
            except UserError as error:
                said.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return said

    assert ask_twice("together") == ["done", "done"]
    assert attempts("together") == 1
    assert ask_twice("failed", fails=1) == ["the store is away: try again"] * 2
    assert attempts("failed") == 1
    assert ask_twice("failed", fails=1) == ["done", "done"]
    assert attempts("failed") == 2
    assert ask_twice("died", dies=1, seconds=0.5) == ["done", "done"]
    assert attempts("died") == 2

    trial = asker.remote(shared, partial(work, tmp_path, "killed"))
    deadline = time.monotonic() + 30
    while not attempts("killed"):
        assert time.monotonic() < deadline, "the work did not begin"
        time.sleep(0.05)
    ray.cancel(trial, force=True)
    once(shared, "killed", "what", partial(work, tmp_path, "killed"), silent)
    assert attempts("killed") == 1, "what a killed trial had started was started again"


@pytest.mark.slow
def test_readers_keep_no_memory_of_what_they_read(ray_cluster: str, by_value: None) -> None:
    """Arrow's default allocator does."""
    readers = RayReaders()
    assert readers.take(readers.start(lambda: pa.default_memory_pool().backend_name)) == "system"


@pytest.mark.slow
def test_shards_are_held_once_and_within_bounds(
    ray_cluster: str, tiny_cohort: Callable[..., Cohort], by_value: None
) -> None:
    cohort, shared = tiny_cohort((ABNORMALITY,), [{"abnormality": number % 2} for number in range(4)]), Shared.start()
    large, small = (
        describe_split(cohort, "test", EachImage(ABNORMALITY.column), InputFormat(size))[0] for size in (32, 16)
    )
    (first,), (again,), (other,) = (
        hold(RayReaders(), each, cohort.content_hash, 1, shared) for each in (large, large, small)
    )
    assert first == again != other
    for split, reference in ((large, first), (small, other)):
        np.testing.assert_array_equal(ray.get(reference)["image"], split.load(0)["image"])

    def held(address: str, size: int) -> str:
        return ray.get(shared.hold(address, lambda: [ray.put(os.urandom(8).hex())], size, 10))[0]

    shared = Shared.start()
    before = held("one", 4)
    shared.let_go()
    one, two = held("one", 4), held("two", 4)
    assert one != before, "what was let go of was given again"
    assert (held("one", 4), held("two", 4)) == (one, two)
    assert held("one", 4) == one
    held("three", 4)
    assert held("one", 4) == one, "what was used last stays"
    assert held("two", 4) != two, "what was not used for longest makes room"
