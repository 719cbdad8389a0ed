"""What many tests share: one real object store a session (SeaweedFS), and a fresh place in it for each test."""

import os
import secrets
import shutil

# Ray reads these once, when it is first imported. Pinned, because a token that another session left behind would
# otherwise decide the mode.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
# As mskray.cluster.session has them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
# Two processes of pytest, Ray's workers and the commands under test share few cores: threads that wait for each other
# there cost more than they bring. Read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from infra.seaweedfs import ObjectStore, start_object_store
from mskray.storage import Location, locate

if TYPE_CHECKING:
    from small_run import Trained

    from mskray.cohorts import Cohort, Task


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running store; `env` and `reader_env` are the AWS variables for it."""
    with start_object_store(tmp_path_factory.mktemp("object-store")) as store:
        yield store


@pytest.fixture
def aws_nothing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No AWS variable, config file or instance role of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def s3_folder(object_store: ObjectStore, aws_nothing: pytest.MonkeyPatch) -> Location:
    """An empty prefix of the store, with this process's AWS variables set for it."""
    for name, value in object_store.env.items():
        aws_nothing.setenv(name, value)
    return locate(f"s3://{object_store.bucket}/{uuid4().hex}")


@pytest.fixture(scope="session")
def ray_cluster(object_store: ObjectStore) -> Iterator[str]:
    """One Ray session of three logical CPUs for all tests that need it; the address for drivers in other processes.

    Its workers can reach the object store.
    """
    import ray

    with pytest.MonkeyPatch.context() as start:
        for name, value in object_store.env.items():
            start.setenv(name, value)
        context = ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    try:
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()


@pytest.fixture
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray's workers cannot import a test file: its classes and functions travel as they are."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="session")
def phantom_cohort(ray_cluster: str, object_store: ObjectStore) -> "Iterator[Cohort]":
    """About 150 synthetic radiographs of 64 px in the object store, split 60:20:20."""
    from mskray.cohorts import open_cohort
    from mskray.cohorts.ingest import ingest

    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.env.items():
            patch.setenv(name, value)
        place = f"s3://{object_store.bucket}/cohorts/{uuid4().hex}"
        settings = {"size": 64, "split_fractions": [0.6, 0.2, 0.2], "shard_rows": 32}
        ingest("phantom", None, place, {"patients": 60, "image_size": 96}, settings, key=b"a key for tests only")
        yield open_cohort(place)


@pytest.fixture(scope="session")
def trained(phantom_cohort: "Cohort", tmp_path_factory: pytest.TempPathFactory) -> "Trained":
    """A small network after two undisturbed epochs on `phantom_cohort`."""
    from small_run import Trained, run, small_job

    folder = tmp_path_factory.mktemp("trained") / "bundle"
    seen: list = []
    return Trained(run(small_job(phantom_cohort, locate(folder)), seen.append), seen, folder)


@pytest.fixture
def tiny_cohort(tmp_path: Path) -> "Callable[..., Cohort]":
    """A maker of a cohort of one split, written without a cluster: `tasks` and, for each image, its labels by task."""
    import cv2
    import numpy as np

    from mskray.cohorts import open_cohort
    from mskray.cohorts.ledger import write_quarantine
    from mskray.cohorts.plan import ShardPlan
    from mskray.cohorts.schema import MANIFEST, Counts, ImageFormat, Manifest, SplitCount, SplitMethod
    from mskray.cohorts.shards import ShardJob, write_shard
    from mskray.cohorts.sources import get_source

    def make(tasks: "tuple[Task, ...]", labels: list[dict[str, int | None]]) -> "Cohort":
        given, out = tmp_path / "pictures", locate(tmp_path / "cohort")
        given.mkdir()
        rows = []
        for number, known in enumerate(labels):
            cv2.imwrite(str(given / f"{number}.png"), np.full((40, 48), 20 * number + 10, np.uint8))
            row = {"path": f"{number}.png", "instance_id": f"i{number}", "study_id": "s", "patient_id": "p"}
            row |= {"body_part": "HAND", "view": None, "laterality": None, "view_index": number, "row": None}
            rows.append(row | {task.column: known.get(task.name) for task in tasks})
        source, image = get_source("manifest"), ImageFormat(size=32, dtype="uint8", fit="pad")
        job = ShardJob(source, source.Options(), locate(given).uri, out.uri, image, tasks)
        shard = write_shard(job, ShardPlan("test", 0, "0" * 16, 0, len(rows)), rows).shard
        assert shard is not None
        count = SplitCount(images=shard.rows, studies=1, patients=1, labels={})
        manifest = Manifest(
            source="manifest",
            source_options={},
            tasks=tasks,
            image=image,
            masks=False,
            split=SplitMethod(method="source", seed=0, fractions=None),
            counts=Counts(listed=shard.rows, images=shard.rows, quarantined=0, splits={"test": count}),
            shards=(shard,),
            hash_key_fingerprint="",
            content_hash="",
            created_by="",
        )
        out.join(MANIFEST).write_json(manifest.model_dump(mode="json"))
        write_quarantine(out, [])
        return open_cohort(out)

    return make


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument: contents such as a new UID differ between the processes of pytest-xdist."""
    return argname if isinstance(val, bytes) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of one file, and all tests with Ray, in one of the processes of pytest-xdist.

    Two clusters at work take longer than one after the other, and on two cores what they start does not answer in time.
    """
    item.add_marker(pytest.mark.xdist_group("cluster" if _on_ray(item) else item.path.name))


def _on_ray(item: pytest.Item) -> int:
    """0 without Ray, 1 with a cluster of its own, 2 on the cluster of the session."""
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        return 2
    return int(item.get_closest_marker("own_cluster") is not None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; skip tests whose system package is absent: the summary lists them by name."""
    items.sort(key=_on_ray, reverse=True)
    for item in items:
        for mark in item.iter_markers("system"):
            if shutil.which(mark.args[0]) is None:
                item.add_marker(pytest.mark.skip(reason=f"{mark.args[0]} is not installed (make system): {item.name}"))
