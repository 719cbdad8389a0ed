"""Work over the wire: three hosts, token authentication, TLS between them, an object store on a fourth.

    make test-cluster

Each test asserts from Ray's own record of tasks that the work ran on more than one host.
"""

import json
import secrets
import socket
import ssl
import sys
from signal import SIGINT
from typing import Any

import pytest
import requests
from ray_hosts import Driver, RayHosts
from small_work import (
    CLASSIFIER,
    KALM,
    SPINENET,
    TRAINING,
    bundle_place,
    ingest,
    job_file,
    train,
)

from mskray.bundles import Bundle, read_description
from mskray.cohorts import open_cohort
from mskray.storage import locate

pytestmark = [pytest.mark.own_cluster, pytest.mark.slow, pytest.mark.timeout(900)]

RUN_S = 400.0


def bundle_of(cluster: RayHosts, name: str) -> Bundle:
    return read_description(locate(bundle_place(cluster, name)))


def finite(value: Any) -> bool:
    return isinstance(value, float) and value == value


def test_three_hosts_ingest_into_one_cohort(cluster: RayHosts, ingested: tuple[str, Driver]) -> None:
    place, driver = ingested
    cohort = open_cohort(place)
    counts = cohort.manifest.counts
    assert counts.listed == counts.images > 150
    assert len(cohort.shards("train")) >= 4
    assert cluster.ran("", since=driver.started) == {"head", "second", "third"}


def test_strangers_are_refused(cluster: RayHosts) -> None:
    """Ray's ports speak TLS with a certificate of the cluster's authority, and answer nobody without the token."""
    trusting = ssl.create_default_context(cafile=cluster.environment["RAY_TLS_CA_CERT"])
    head = cluster.head.address
    with (
        socket.create_connection((head, 6379), timeout=10) as plain,
        trusting.wrap_socket(plain, server_hostname=head) as secure,
    ):
        assert (secure.version() or "").startswith("TLS")
    assert requests.get(f"{cluster.dashboard}/api/v0/nodes", timeout=20).status_code == 401
    stranger = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": "", "RAY_ADDRESS": cluster.address}
    script = "from mskray.cluster import session\nwith session(): print('let in')"
    refused = cluster.command([sys.executable, "-c", script], cluster.second, stranger)
    assert refused.ends(120) != 0
    assert "let in" not in refused.text


def test_two_hosts_train_one_classifier(healthy: RayHosts, radiographs: str) -> None:
    driver = train(healthy, "classifier", radiographs, CLASSIFIER).done(RUN_S)
    bundle = bundle_of(healthy, "classifier")
    assert len(bundle.history) == 2
    assert all(finite(entry["val_loss"]) for entry in bundle.history)
    assert len(healthy.ran(TRAINING, since=driver.started)) == 2


@pytest.mark.long
def test_two_hosts_train_kalm_in_two_stages(healthy: RayHosts, radiographs: str) -> None:
    driver = train(healthy, "kalm", radiographs, KALM).done(RUN_S)
    assert {"global", "local"} <= {line.split()[1].partition("/")[0] for line in driver.lines if "epoch 1/1" in line}
    assert finite(bundle_of(healthy, "kalm").best["val_loss"])
    assert len(healthy.ran(TRAINING, since=driver.started)) >= 2


@pytest.mark.long
def test_two_hosts_train_a_spinenet(healthy: RayHosts) -> None:
    cohort, _ = ingest(healthy, "phantom-discs", "discs", {"patients": 16}, size=120)
    driver = train(healthy, "spinenet", cohort, SPINENET).done(RUN_S)
    assert len(bundle_of(healthy, "spinenet").history) == 2
    assert len(healthy.ran(TRAINING, since=driver.started)) == 2


@pytest.mark.long
def test_key_points_of_pairs_are_found_on_several_hosts(healthy: RayHosts) -> None:
    """From pairs to a bundle; k-means itself stays in one process where that holds all descriptors, as here."""
    cohort, _ = ingest(healthy, "phantom-pairs", "pairs", {"patients": 40, "image_size": 96, "noise": 0.02}, size=96)
    job = {
        "family": "pair_bovw",
        "task": "change",
        "keypoints": {"descriptor": "sift", "most": 40},
        "vocabulary": 12,
    }
    driver = train(healthy, "words", cohort, job).done(RUN_S)
    assert any("12 words of" in line and "converged" in line for line in driver.lines)
    assert len(healthy.ran("_count_part", since=driver.started)) >= 2
    assert bundle_of(healthy, "words").best


K_MEANS = """
import numpy as np, ray
from mskray.cluster import session
from mskray.estimators.kmeans import KMeansSection, fit_kmeans
from mskray.estimators.pieces import Arrays, Here, Spread
random = np.random.default_rng(0)
middles = random.normal(0, 2, (12, 32))
rows = (middles[random.integers(12, size=60_000)] + random.normal(size=(60_000, 32))).astype(np.float32)
pieces = Arrays(tuple(np.array_split(rows, 24)))
with session():
    spread, here = (fit_kmeans(pieces, 12, KMeansSection(), runner) for runner in (Spread, Here))
np.testing.assert_allclose(spread.centres, here.centres, rtol=1e-4, atol=1e-4)
assert spread.counts.sum() == here.counts.sum() == len(rows)
print("as in one process")
"""


@pytest.mark.long
def test_k_means_over_hosts_finds_what_one_process_does(healthy: RayHosts) -> None:
    """Every row counts once: the centres differ by rounding alone."""
    driver = healthy.command(["python", "-c", K_MEANS], environment={"RAY_ADDRESS": healthy.address}).done(RUN_S)
    assert "as in one process" in driver.text
    assert len(healthy.ran("_run", since=driver.started)) == 3


@pytest.mark.long
def test_bagged_svms_are_fitted_on_several_hosts(healthy: RayHosts, radiographs: str) -> None:
    job = {
        "family": "feature_svm",
        "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
        "svm": {"least_images": 2, "per_part": False},
        "bag": {"number": 6, "max_samples": 0.5},
    }
    driver = train(healthy, "svm", radiographs, job).done(RUN_S)
    assert len(healthy.ran("_fit_bag", since=driver.started)) >= 2
    assert bundle_of(healthy, "svm").best


@pytest.mark.long
def test_trials_of_a_search_run_on_several_hosts(healthy: RayHosts, radiographs: str) -> None:
    out = f"s3://{healthy.store.bucket}/searches/three"
    search = {
        **CLASSIFIER,
        "cohort": radiographs,
        "out": out,
        "loop": {"epochs": 1},
        "preset": "none",
        "space": {"optimizer.learning_rate": {"grid": [1e-4, 1e-3, 1e-2]}},
        "search": {"method": "grid"},
        "scheduler": {"name": "none"},
        "budget": {"trials": 3},
        "resources": {"placement": "spread"},
    }
    driver = healthy.driver(["tune", str(job_file(healthy, "search", search))]).done(800)
    records = [
        json.loads(locate(out).join(entry.path).read_bytes()) for entry in locate(out).walk() if trial(entry.path)
    ]
    assert [record["state"] for record in records] == ["finished"] * 3
    assert len(healthy.ran(TRAINING, since=driver.started)) >= 2


def trial(path: str) -> bool:
    return path.startswith("trials/") and path.count("/") == 1 and path.endswith(".json")


@pytest.mark.long
def test_ray_job_submit_trains_on_two_hosts(healthy: RayHosts, radiographs: str) -> None:
    """As the README says it; the job's environment comes from the nodes, the checkout from who submits."""
    job = {**CLASSIFIER, "cohort": radiographs, "out": bundle_place(healthy, "submitted"), "loop": {"epochs": 1}}
    driver = healthy.job([str(job_file(healthy, "submitted", job))], "train").done(RUN_S)
    assert "epoch 1/1" in driver.text
    assert len(bundle_of(healthy, "submitted").history) == 1
    assert len(healthy.ran(TRAINING, since=driver.started)) == 2


@pytest.mark.long
def test_mskray_submit_is_left_and_rejoined(healthy: RayHosts, radiographs: str) -> None:
    """Ctrl-C leaves the job to itself; `mskray jobs follow` shows the rest and ends with the job's own exit code."""
    job = {**CLASSIFIER, "cohort": radiographs, "out": bundle_place(healthy, "left"), "loop": {"epochs": 2}}
    words = ["train", str(job_file(healthy, "left", job))]
    submitting = healthy.driver(["submit", *words], environment=address_of_jobs(healthy))
    submitting.until(r"epoch 1/2", RUN_S)
    submitting.signal(SIGINT)
    assert submitting.ends(60) == 130, submitting.text[-3000:]
    followed = healthy.driver(["jobs", "follow", job_id(submitting)], environment=address_of_jobs(healthy)).done(RUN_S)
    assert "bundle:" in followed.text
    assert len(bundle_of(healthy, "left").history) == 2
    assert len(healthy.ran(TRAINING, since=submitting.started)) == 2


@pytest.mark.long
def test_mskray_submit_returns_the_exit_code_of_the_job(healthy: RayHosts, radiographs: str) -> None:
    """What the job refuses is a refusal here as well, also where it was detached and is followed later."""
    job = {**CLASSIFIER, "cohort": radiographs, "out": bundle_place(healthy, "refused"), "loop": {"epochs": 0}}
    words = ["train", str(job_file(healthy, "refused", job))]
    detached = healthy.driver(["submit", "--detach", *words], environment=address_of_jobs(healthy)).done(120)
    followed = healthy.driver(["jobs", "follow", job_id(detached)], environment=address_of_jobs(healthy))
    assert followed.ends(RUN_S) == 2, followed.text[-3000:]
    assert "loop.epochs" in followed.text


def address_of_jobs(cluster: RayHosts) -> dict[str, str]:
    return {"RAY_ADDRESS": cluster.dashboard}


def job_id(driver: Driver) -> str:
    found = next(
        (word for line in driver.lines for word in line.split() if "mskray-" in word or "raysubmit_" in word), ""
    )
    assert found, f"no job is named:\n{driver.text}"
    return found.strip("'\":,.()")
