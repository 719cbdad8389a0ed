"""What breaks on a cluster, and what a training promises then. Each test states its promise and breaks the real thing.

    make test-cluster

The disturbed run must end by itself, or by the same command given again, as the undisturbed one did: the same samples
in each epoch (`samples`, and `rows_digest`, a digest of which rows they were: no shard lost or doubled), and the same
figures but for rounding (`TOLERANCE`).
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from fault_proxy import Fault
from hosts import Host
from ray_hosts import Driver, RayHosts
from small_work import CLASSIFIER, TRAINING, bundle_place, ingest, job_file, train

from mskray.bundles import Bundle, read_description
from mskray.storage import Location, locate

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(1200),
]

RUN_S = 600.0
TOLERANCE = 1e-3
"""Relative, of each epoch's losses: workers sum gradients in the order of their ranks, whichever host has which."""

JOB: dict[str, Any] = {
    **CLASSIFIER,
    "data": {"image_size": 96, "batch_size": 4, "shuffle_window": 64},
    "loop": {"epochs": 3, "checkpoint_minutes": 0.05},
}


@pytest.fixture(scope="module")
def cohort(cluster: RayHosts) -> str:
    """Some 250 radiographs to train on, in a dozen shards."""
    return ingest(cluster, "phantom", "long", {"patients": 160, "image_size": 140}, size=96)[0]


@pytest.fixture(scope="module")
def undisturbed(cluster: RayHosts, cohort: str) -> Bundle:
    """The run that nothing happens to."""
    train(cluster, "undisturbed", cohort, JOB).done(RUN_S)
    return read_description(locate(bundle_place(cluster, "undisturbed")))


def check(found: Bundle, undisturbed: Bundle, tolerance: float = TOLERANCE) -> None:
    """The same samples in each epoch, and the same figures."""
    assert len(found.history) == len(undisturbed.history)
    for entry, expected in zip(found.history, undisturbed.history, strict=True):
        for exact in ("epoch", "samples", "rows_digest"):
            assert entry[exact] == expected[exact], (exact, entry, expected)
        for close in ("train_loss", "val_loss"):
            assert entry[close] == pytest.approx(expected[close], rel=tolerance), (close, entry, expected)


def bundle_of(cluster: RayHosts, name: str) -> Bundle:
    return read_description(locate(bundle_place(cluster, name)))


def in_second_epoch(driver: Driver) -> None:
    """Wait until the second of three epochs has begun and a few of its steps are done."""
    driver.until(r"epoch 2/3 .*images/s", RUN_S)
    time.sleep(2)


def trains_on(cluster: RayHosts, *, head: bool) -> Host:
    """A host with a training worker; `head` if the head will do."""
    return next(
        host for host in cluster.nodes if cluster.workers(host, TRAINING) and (head or host is not cluster.head)
    )


def no_worker_left(cluster: RayHosts, timeout: float = 120.0) -> None:
    """Wait until what a killed driver had started has ended."""
    deadline = time.monotonic() + timeout
    while left := [host.name for host in cluster.nodes if host.up and cluster.workers(host, TRAINING)]:
        assert time.monotonic() < deadline, f"training workers are left on {left}"
        time.sleep(0.5)


def went_on(driver: Driver) -> bool:
    """Whether it began after its last checkpoint, and did no epoch that was done."""
    return "goes on from the last checkpoint" in driver.text


def test_the_undisturbed_run_sees_every_row_that_fills_a_step(undisturbed: Bundle) -> None:
    """What the others are compared with: three epochs of whole steps. The digest is of which rows an epoch saw, in
    whatever order: it is the same in each, unless rows are left over, other ones each time."""
    seen = [entry["samples"] for entry in undisturbed.history]
    rows = sum(undisturbed.labels.values())
    assert seen == [rows - rows % 8] * 3
    assert len({entry["rows_digest"] for entry in undisturbed.history}) == (3 if rows % 8 else 1)


def test_a_killed_worker_is_replaced(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """A worker process that is killed: the same command goes on, by itself, after the last checkpoint."""
    driver = train(healthy, "worker", cohort, JOB)
    in_second_epoch(driver)
    os.kill(healthy.workers(trains_on(healthy, head=True), TRAINING)[0], SIGKILL)
    driver.done(RUN_S)
    assert went_on(driver)
    check(bundle_of(healthy, "worker"), undisturbed)


def test_a_lost_host_is_done_without(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """A host that is gone in the middle of an epoch: its worker, and the shards it held, come to another host."""
    driver = train(healthy, "host", cohort, JOB)
    in_second_epoch(driver)
    healthy.lose(trains_on(healthy, head=False))
    driver.done(RUN_S)
    assert went_on(driver)
    check(bundle_of(healthy, "host"), undisturbed)


def test_a_host_cut_off_is_done_without_and_comes_back(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """A host whose cable is out for longer than Ray waits: as if it were lost. Plugged in again it joins anew, and its
    old worker disturbs nobody."""
    driver = train(healthy, "cut", cohort, JOB)
    in_second_epoch(driver)
    cut = trains_on(healthy, head=False)
    cut.cut()
    driver.until("goes on from the last checkpoint", RUN_S)
    cut.plug()
    driver.done(RUN_S)
    check(bundle_of(healthy, "cut"), undisturbed)
    healthy.wait()


def test_a_cable_that_is_out_for_seconds_is_waited_for(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """Five seconds without network: nothing is lost, nothing begins anew."""
    driver = train(healthy, "cable", cohort, JOB)
    in_second_epoch(driver)
    cut = trains_on(healthy, head=False)
    cut.cut()
    time.sleep(5)
    cut.plug()
    driver.done(RUN_S)
    assert not went_on(driver), driver.text[-3000:]
    check(bundle_of(healthy, "cable"), undisturbed)


def test_the_job_goes_on_after_the_head_restarted(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """The head keeps nothing (no Redis): its job ends with it, the other hosts join the new head by themselves, and the
    same job given again has the same name, finds its checkpoints and does no epoch twice."""
    driver = train(healthy, "head", cohort, JOB)
    in_second_epoch(driver)
    healthy.restart_ray(healthy.head)
    assert driver.ends(60) != 0
    healthy.wait()
    again = train(healthy, "head", cohort, JOB).done(RUN_S)
    assert went_on(again)
    assert "epoch 1/3" not in again.text
    check(bundle_of(healthy, "head"), undisturbed)


def test_the_same_command_goes_on_after_its_driver_was_killed(
    healthy: RayHosts, cohort: str, undisturbed: Bundle
) -> None:
    """Workers end with their driver. The same command, from another host, goes on after the last checkpoint."""
    driver = train(healthy, "driver", cohort, JOB, host=healthy.second)
    in_second_epoch(driver)
    driver.kill()
    no_worker_left(healthy)
    again = train(healthy, "driver", cohort, JOB, host=healthy.third).done(RUN_S)
    assert went_on(again)
    assert "epoch 1/3" not in again.text
    check(bundle_of(healthy, "driver"), undisturbed)


def checkpoints(run: Location) -> list[Location]:
    """Folders of a run's checkpoints, the newest last: those that say what they hold."""
    found = [entry for entry in run.walk() if entry.path.endswith("/checkpoint.json")]
    folders = [entry.path.rpartition("/")[0] for entry in found]
    return [run.join(folder) for folder in sorted(folders, key=lambda path: _place(path.rpartition("/")[2]))]


def _place(name: str) -> tuple[int, ...]:
    return tuple(int(word) for word in name.split("-")[:2])


def test_a_damaged_checkpoint_is_passed_over(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """Weights of the newest checkpoint with one wrong byte: its hash tells, the one before it is taken, and a line says
    so."""
    driver = train(healthy, "damaged", cohort, JOB)
    in_second_epoch(driver)
    driver.kill()
    no_worker_left(healthy)
    kept = checkpoints(locate(bundle_place(healthy, "damaged")))
    assert len(kept) >= 2, kept
    weights = kept[-1].join("weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(bytes(content))
    again = train(healthy, "damaged", cohort, JOB).done(RUN_S)
    assert went_on(again)
    assert any("damaged" in line for line in again.lines), again.text[-3000:]
    check(bundle_of(healthy, "damaged"), undisturbed)


STORE_FAULTS = {
    "slow": Fault("latency", seconds=0.4),
    "503": Fault("status", probability=0.3),
    "throttled for a while": Fault("status", methods="PUT|POST", first=12),
    "cut": Fault("cut_get_body", methods="GET", probability=0.3),
    "cut after writing": Fault("cut_after_put", methods="PUT", probability=0.3),
}


@pytest.mark.parametrize("kind", STORE_FAULTS)
def test_a_store_that_fails_now_and_then_is_asked_again(
    healthy: RayHosts, cohort: str, undisturbed: Bundle, kind: str
) -> None:
    """A store that is slow, answers 503, or hangs up, from the first request to the last: the run takes longer, that is
    all."""
    name = "store-" + kind.replace(" ", "-")
    healthy.proxy.inject(STORE_FAULTS[kind])
    driver = train(healthy, name, cohort, JOB).done(RUN_S)
    assert healthy.proxy.hits(STORE_FAULTS[kind].kind) >= 3
    healthy.proxy.inject()
    assert not went_on(driver), "a worker was lost by it"
    check(bundle_of(healthy, name), undisturbed)


def test_a_store_that_is_away_for_a_minute_is_waited_for(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """The store's cable is out for a minute in the middle of an epoch: what was to be written is written afterwards."""
    driver = train(healthy, "away", cohort, JOB)
    in_second_epoch(driver)
    healthy.store_host.cut()
    time.sleep(60)
    healthy.store_host.plug()
    driver.done(RUN_S)
    check(bundle_of(healthy, "away"), undisturbed)


@contextmanager
def full(cluster: RayHosts, leave: int = 3 << 20) -> Any:
    """Fill the small disk up to `leave` bytes."""
    place = cluster.switch.small_here / "filler"
    free = shutil.disk_usage(place.parent).free
    with place.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(0, free - leave))
    yield
    place.unlink()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    healthy: RayHosts, cohort: str, undisturbed: Bundle, tmp_path: Path
) -> None:
    """The disk of checkpoints and bundle fills up: one line says so, exit code 2. Once there is room, the same command
    goes on after the last checkpoint that was whole."""
    out = healthy.switch.small / "bundle"
    words = ["train", str(job_file(healthy, "disk", {**JOB, "cohort": cohort, "out": str(out)}))]
    driver = healthy.driver(words)
    in_second_epoch(driver)
    with full(healthy):
        assert driver.ends(RUN_S) == 2, driver.text[-3000:]
    errors = [line for line in driver.lines if "error:" in line]
    assert len(errors) == 1, driver.text[-3000:]
    assert "space" in errors[0]
    assert "Traceback" not in driver.text
    again = healthy.driver(words).done(RUN_S)
    assert went_on(again)
    assert "epoch 1/3" not in again.text
    shutil.copytree(healthy.switch.small_here / "bundle", tmp_path / "bundle")
    check(read_description(locate(tmp_path / "bundle")), undisturbed)


@pytest.mark.system("gcc")
@pytest.mark.parametrize("seconds", [600, -600])
def test_a_clock_that_jumps_changes_nothing(healthy: RayHosts, cohort: str, undisturbed: Bundle, seconds: int) -> None:
    """The clock of a host with a worker jumps by ten minutes, to and fro (stores refuse requests from 15 on)."""
    clock, library = healthy.shared / "clock", healthy.shared / "jumping_clock.so"
    clock.write_text("0")
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    faked = {"LD_PRELOAD": str(library), "CLOCK_OFF_BY": str(clock)}
    healthy.lose(healthy.third)  # the two workers are on the two hosts that are left
    healthy.restart_ray(healthy.second, faked)
    try:
        healthy.wait()
        name = f"clock{seconds:+d}"
        driver = train(healthy, name, cohort, JOB)
        in_second_epoch(driver)
        assert healthy.workers(healthy.second, TRAINING), "no worker has the clock that jumps"
        clock.write_text(str(seconds))
        driver.until(r"epoch 3/3 .*images/s", RUN_S)
        clock.write_text("0")
        driver.done(RUN_S)
        check(bundle_of(healthy, name), undisturbed)
    finally:
        healthy.restart_ray(healthy.second)


EPOCHS = 24
"""Of the elastic training, some six seconds each: a host starts within a minute, and the training grows a minute after
it has shrunk, at the earliest."""


def test_an_elastic_training_shrinks_and_grows(healthy: RayHosts, cohort: str, undisturbed: Bundle) -> None:
    """With resources.min_workers it goes on with the worker that is left, and with two once the host is back: every row
    that fills a step is seen once in each epoch, whoever sees it."""
    job = {
        **JOB,
        "loop": {"epochs": EPOCHS, "checkpoint_minutes": 0.05},
        # A worker fills a host's CPUs but one, so that two workers need two hosts of those that are up.
        "resources": {"workers": 2, "min_workers": 1, "placement": "spread", "cpus_per_worker": 1.5},
    }
    healthy.lose(healthy.third)
    healthy.wait()
    driver = train(healthy, "elastic", cohort, job)
    driver.until(rf"epoch 2/{EPOCHS} .*images/s", RUN_S)
    healthy.lose(healthy.second)
    driver.until("goes on from the last checkpoint", RUN_S)
    before = len(driver.lines)
    driver.until(rf"epoch \d+/{EPOCHS} .*images/s", RUN_S, after=before)
    assert len(training_hosts(healthy)) == 1
    healthy.boot(healthy.second)
    soon(lambda: len(training_hosts(healthy)) == 2, 300)
    driver.done(RUN_S)
    bundle = bundle_of(healthy, "elastic")
    rows = sum(bundle.labels.values())
    assert [entry["epoch"] for entry in bundle.history] == list(range(1, EPOCHS + 1))
    assert [entry["samples"] for entry in bundle.history] == [rows - rows % 8] * EPOCHS
    digests = [entry["rows_digest"] for entry in bundle.history]
    assert digests[:3] == [entry["rows_digest"] for entry in undisturbed.history]


def training_hosts(cluster: RayHosts) -> set[str]:
    return {host.name for host in cluster.nodes if host.up and cluster.workers(host, TRAINING)}


def soon(true: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
