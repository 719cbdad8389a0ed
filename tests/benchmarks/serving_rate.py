"""Studies/s of `mskray serve` under load against its bare models, and what one client waits longer than they take.

    .venv/bin/python tests/benchmarks/serving_rate.py                 # Serve's own proxy
    .venv/bin/python tests/benchmarks/serving_rate.py --haproxy

Three small networks at 224 px are fused in one replica. Clients send PNGs of about 500 px over connections that are
kept, so that HTTP and decoding cost what they do; the peer is `Predictor` called directly, member after member, on
batches that are decoded already, with as many threads: by batches as large as the server's are on average, and of 32.
Server and peer take turns in short windows, so that what else the machine does meets both. The client runs on the
machine too: its share of a CPU is told.

Asked: 0.7 of the bare models' rate at the server's own batch; at one client at most 15 ms added (median).
The exit status is 1 where either is missed.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from serving_setup import BACKBONES, Server, Wire, http_request, make_ensemble, picture, png_request, serving

from mskray.ensemble import Voter, load
from mskray.families import Images

GOAL_RATE, GOAL_MS = 0.7, 15.0
_PICTURES, _EXPORT_S = 48, 12.0


@dataclass
class Load:
    """What windows of load came to."""

    answered: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    rates: list[float] = field(default_factory=list)


def main() -> None:
    given = _arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = make_ensemble(folder, BACKBONES)
        voter, pixels = load(uri), [picture(seed) for seed in range(_PICTURES)]
        requests = [png_request(each) for each in pixels]
        kib = np.mean([len(each) for each in requests]) / 1024
        print(f"{len(requests)} PNGs of {kib:.0f} KiB, {len(BACKBONES)} members")
        with serving([uri], folder / "serve.log", given.haproxy) as server:
            fine = measure(server, voter, pixels, requests, given)
            check_request_ids(server, requests[0])
    sys.exit(0 if fine else 1)


def measure(
    server: Server, voter: Voter, pixels: list[np.ndarray], requests: list[bytes], given: argparse.Namespace
) -> bool:
    """Print the figures; return whether both are as asked."""
    before = _batches(server)
    asyncio.run(load_for(server, requests, given.clients, given.window, Load()))
    images, batches = (now - then for now, then in zip(_batches(server), before, strict=True))
    size = max(1, round(images / max(1, batches)))
    served, bare = Load(), {size: Load(), 32: Load()}
    for _ in range(given.rounds):
        asyncio.run(load_for(server, requests, given.clients, given.window, served))
        for each, found in bare.items():
            bare_for(voter, pixels, each, given.window, found)
    rate = float(np.median(served.rates))
    print(f"{'served':24} {rate:7.1f} studies/s, windows {_list(served.rates)}; mean batch {images / batches:.1f}")
    print(f"{'client':24} {served.cpu_s / served.seconds:7.1%} of a CPU")
    ratios = {}
    for each, found in bare.items():
        direct = float(np.median(found.rates))
        ratios[each] = rate / direct
        told = f"{direct:7.1f} images/s, windows {_list(found.rates)}; ratio {ratios[each]:.2f}"
        print(f"{f'bare, batches of {each}':24} {told}")
    waits, takes = latency(server, voter, pixels, requests, given.single)
    middle = float(np.median(takes))
    half, most = (float(np.percentile(waits, each)) for each in (50, 95))
    print(f"{'one client':24} p50 {half:.1f} ms, p95 {most:.1f} ms; bare p50 {middle:.1f} ms")
    print(f"{'added':24} p50 {half - middle:.1f} ms, p95 {most - middle:.1f} ms")
    return ratios[size] >= GOAL_RATE and half - middle <= GOAL_MS


async def load_for(server: Server, requests: Sequence[bytes], clients: int, seconds: float, found: Load) -> None:
    """Ask with so many clients at a time until the time is over, then wait for the last answers."""
    following, end, count = itertools.cycle(requests), time.perf_counter() + seconds, 0

    async def ask() -> None:
        nonlocal count
        wire = Wire(server.port)
        while time.perf_counter() < end:
            answer = await wire.ask(next(following))
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {answer.body[:300]!r}")
            count += 1
        wire.close()

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask() for _ in range(clients)))
    took = time.perf_counter() - began
    found.answered += count
    found.seconds += took
    found.cpu_s += time.process_time() - cpu
    found.rates.append(count / took)


def bare_for(voter: Voter, pixels: list[np.ndarray], size: int, seconds: float, found: Load) -> None:
    """Call the predictors on batches until the time is over."""
    following, count, began = _cycled(pixels, size), 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        images = next(following)
        for predictor in voter.predictors:
            predictor(images)
        count += size
    found.rates.append(count / (time.perf_counter() - began))


def latency(
    server: Server, voter: Voter, pixels: list[np.ndarray], requests: list[bytes], count: int
) -> tuple[list[float], list[float]]:
    """Return milliseconds of requests and of bare calls, in turn."""

    async def alternate() -> tuple[list[float], list[float]]:
        wire, waits, takes = Wire(server.port), [], []
        for place in range(count + 5):
            began = time.perf_counter()
            await wire.ask(requests[place % len(requests)])
            waits.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            for predictor in voter.predictors:
                predictor(Images([pixels[place % len(pixels)]]))
            takes.append(1000 * (time.perf_counter() - began))
        wire.close()
        return waits[5:], takes[5:]

    return asyncio.run(alternate())


def check_request_ids(server: Server, request: bytes) -> None:
    """Print whether a response has one X-Request-Id, the client's where it gave one, the same as in the body."""
    body, kind = request.partition(b"\r\n\r\n")[2], dict(_headers(request))["content-type"]

    async def ask() -> None:
        wire = Wire(server.port)
        for given in ("", "from-the-client.1"):
            sent = http_request(body, kind, f"X-Request-Id: {given}") if given else request
            answer = await wire.ask(sent)
            ids = [value for name, value in answer.headers if name == "x-request-id"]
            right = len(ids) == 1 and ids[0] == (given or ids[0]) == json.loads(answer.body)["request_id"]
            print(f"{'X-Request-Id':24} {'right' if right else 'WRONG'} {'given' if given else 'not given'}: {ids}")
        wire.close()

    asyncio.run(ask())


def _headers(request: bytes) -> Iterator[tuple[str, str]]:
    for line in request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def _batches(server: Server) -> tuple[float, float]:
    """Images predicted and batches made so far."""
    time.sleep(_EXPORT_S)  # figures are as old as Ray's export
    name = "ray_mskray_batch_images"
    return server.metric(f"{name}_sum"), server.metric(f"{name}_count")


def _cycled(pixels: list[np.ndarray], size: int) -> Iterator[Images]:
    following = itertools.cycle(pixels)
    while True:
        yield Images([next(following) for _ in range(size)])


def _list(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.1f}" for rate in rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haproxy", action="store_true", help="HAProxy in place of Serve's own proxy")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--window", type=float, default=10.0, help="seconds of each window")
    parser.add_argument("--single", type=int, default=100, help="requests of one client")
    free = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads",
        type=int,
        default=min(4, max(1, free - 1)),
        help="of the bare models; `mskray serve` takes the same",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
