"""The ensemble served on a cluster, asked over the wire, while a host is lost.

make test-cluster
"""

import secrets
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from ray_hosts import Driver, RayHosts
from serving_samples import encoded, radiograph
from small_run import untrained_bundle

from mskray.client import Client
from mskray.ensemble import join, load, save_ensemble
from mskray.errors import UserError
from mskray.families import Images
from mskray.storage import locate

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(1200),
]

Known = list[tuple[bytes, np.ndarray]]
PORT = 8000
REPLICA = "ray::ServeReplica:mskray:"
TOLERANCE = 1e-4
"""Between batches of other sizes the last bits of a probability differ."""
ATTEMPTS = 40
"""Of a client: one that waits for a host to be found lost, and for its replicas to load elsewhere."""


@dataclass
class Tally:
    """What came of the requests; `lock` guards it."""

    asked: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture(scope="module")
def ensemble(cluster: RayHosts) -> str:
    """Two small networks of random weights, in the store."""
    place = f"s3://{cluster.store.bucket}/served"
    uris = [untrained_bundle(f"{place}/{seed}", "mobilenet_v3_small", seed=seed) for seed in range(2)]
    save_ensemble(join(uris, "small"), locate(f"{place}/ensemble"))
    return f"{place}/ensemble"


@pytest.fixture(scope="module")
def known(ensemble: str) -> Known:
    """PNGs and the probabilities that the ensemble gives for them, here."""
    voter, pixels = load(ensemble), [radiograph(seed) for seed in range(16)]
    return [(encoded(each, "PNG"), voter(Images([each])).probabilities[0]) for each in pixels]


def ask(url: str, token: str, known: Known, seed: int, end: threading.Event, tally: Tally) -> None:
    """Ask for one picture after the other until the end."""
    random = np.random.default_rng(seed)
    with Client(url, token, attempts=ATTEMPTS, timeout_s=30.0) as client:
        while not end.is_set():
            content, expected = known[int(random.integers(len(known)))]
            began, why, wrong = time.monotonic(), "", False
            try:
                said = np.array(list(client.predict_study([content]).study.probabilities.values()))
                wrong = bool(np.abs(said - expected).max() > TOLERANCE)
            except UserError as error:
                why = str(error)
            with tally.lock:
                tally.asked += 1
                tally.wrong += wrong
                tally.lost += [why] if why else []
                tally.longest_s = max(tally.longest_s, time.monotonic() - began)


def serve(cluster: RayHosts, ensemble: str, token: str) -> tuple[Driver, str]:
    """Serve the members apart, so that they are on more than one host, and wait until they answer."""
    words = ["serve", ensemble, "--apart", "2", "--host", cluster.head.address, "--port", str(PORT)]
    driver = cluster.driver(words, environment={"MSKRAY_SERVE_TOKEN": token})
    driver.until(f"http://{cluster.head.address}:{PORT}", 300)
    return driver, f"http://{cluster.head.address}:{PORT}"


def test_a_host_lost_under_load_costs_no_answer(healthy: RayHosts, ensemble: str, known: Known) -> None:
    """Clients that ask again, as mskray's do, get every answer, and every one is right: replicas of the lost host are
    loaded on another one."""
    token = secrets.token_hex(16)
    driver, url = serve(healthy, ensemble, token)
    hosts = [host for host in (healthy.second, healthy.third) if healthy.workers(host, REPLICA)]
    assert hosts, "every replica is on the head, whose loss nothing survives"
    tally, end = Tally(), threading.Event()
    clients = [threading.Thread(target=ask, args=(url, token, known, seed, end, tally)) for seed in range(3)]
    try:
        for client in clients:
            client.start()
        answered(tally, 20)
        healthy.lose(hosts[0])
        before = tally.asked
        answered(tally, before + 30, timeout=400)
    finally:
        end.set()
        for client in clients:
            client.join(300)
    print(f"{tally.asked} requests, {tally.wrong} wrong, {len(tally.lost)} lost, longest {tally.longest_s:.1f} s")
    assert driver.running, driver.text[-3000:]
    assert tally.wrong == 0
    assert tally.lost == []


def answered(tally: Tally, count: int, timeout: float = 120.0) -> None:
    """Wait until so many requests were answered."""
    deadline = time.monotonic() + timeout
    while tally.asked < count:
        assert time.monotonic() < deadline, f"{tally.asked} answers; lost: {tally.lost[:3]}"
        time.sleep(0.2)
