"""Does a server that answers 20,000 requests grow, and do clients that dawdle or go away cost it anything?

    .venv/bin/python tests/benchmarks/serving_memory.py --requests 20000

Pictures of many sizes, damaged ones and broken forms over kept connections; beside them, all the time, clients that
send half a body and go away, and clients that send a byte a second. The resident memory of ingress, members and proxy
is told each thousand requests. Asked: from the warm-up (a fifth) to the end each grows by less than 5 %, and when all
is over no request is open. The exit status is 1 where that is missed.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from serving_setup import (
    INGRESS,
    MEMBERS,
    Server,
    Wire,
    encoded,
    http_request,
    make_ensemble,
    multipart,
    picture,
    png_request,
    serving,
)

GOAL, WARM = 0.05, 0.2
_EXPORT_S = 20.0
_GAUGE = "ray_mskray_open_requests"
_SIZES = ((96, 80), (256, 200), (512, 448), (800, 640), (64, 1200))


def main() -> None:
    given = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = make_ensemble(folder, ("mobilenet_v3_small",), 64)
        with serving([uri], folder / "serve.log", given.haproxy) as server:
            fine = asyncio.run(watch(server, given))
    sys.exit(0 if fine else 1)


async def watch(server: Server, given: argparse.Namespace) -> bool:
    """Ask, and print memory; return whether all is as asked."""
    requests = _requests()
    statuses: Counter[int] = Counter()
    rows: list[dict[str, float]] = [_memory(server)]
    rude = [
        asyncio.create_task(each(server, requests[0])) for each in (_goes_away, _dawdles) for _ in range(given.rude)
    ]
    try:
        for start in range(0, given.requests, given.step):
            began = time.perf_counter()
            await _load(server, requests, start, min(given.step, given.requests - start), given.clients, statuses)
            rows.append(_memory(server))
            rate = given.step / (time.perf_counter() - began)
            told = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in rows[-1].items())
            print(f"{start + given.step:7,} requests, {rate:5.1f}/s: {told}", flush=True)
    finally:
        for task in rude:
            task.cancel()
        gone = await asyncio.gather(*rude, return_exceptions=True)
    print(f"{'answers':24} {', '.join(f'{status}: {count:,}' for status, count in sorted(statuses.items()))}")
    print(f"{'rude clients':24} {sum(each for each in gone if isinstance(each, int)):,} connections")
    await asyncio.sleep(_EXPORT_S)
    still = server.metric(_GAUGE)
    print(f"{'open at the end':24} {still:.0f}")
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=30) as answer:
        assert answer.status == 200
    warm = max(1, int(len(rows) * WARM))
    return _told(rows[warm:], given.step) and still == 0


def _told(rows: list[dict[str, float]], step: int) -> bool:
    """Print what each process came from and to; return whether all are flat."""
    fine = True
    for name in rows[0]:
        sizes = np.array([row[name] for row in rows]) / 2**20
        slope = np.polyfit(np.arange(len(sizes)) * step / 1000, sizes, 1)[0] if len(sizes) > 1 else 0.0
        grown = sizes[-1] / sizes[0] - 1
        fine &= bool(grown < GOAL)
        print(f"{name:24} {sizes[0]:7.1f} → {sizes[-1]:.1f} MiB ({grown:+.1%}), {slope:+.2f} MiB a thousand requests")
    return fine


def _memory(server: Server) -> dict[str, float]:
    """Resident bytes by kind of process."""
    kinds = {"ingress": server.replicas(INGRESS), "members": server.replicas(MEMBERS), "proxy": server.proxies()}
    return {name: float(sum(each.memory_info().rss for each in found)) for name, found in kinds.items()}


async def _load(
    server: Server, requests: list[bytes], start: int, count: int, clients: int, statuses: "Counter[int]"
) -> None:
    following = iter(range(start, start + count))

    async def ask() -> None:
        wire = Wire(server.port)
        for number in following:
            with suppress(OSError, asyncio.IncompleteReadError):
                statuses[(await wire.ask(requests[number % len(requests)])).status] += 1
        wire.close()

    await asyncio.gather(*(ask() for _ in range(clients)))


async def _goes_away(server: Server, request: bytes) -> int:
    """Send half a request and close, again and again."""
    with suppress(asyncio.CancelledError):
        for count in itertools.count():
            done = count
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(request[: len(request) // 2])
                await writer.drain()
                await asyncio.sleep(0.2)
                writer.close()
            await asyncio.sleep(0.3)
    return done


async def _dawdles(server: Server, request: bytes) -> int:
    """Send the head and then a byte a second, for a quarter of a minute, then go away; again and again."""
    done = 0
    with suppress(asyncio.CancelledError):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                done += 1
                head = request.index(b"\r\n\r\n") + 4
                writer.write(request[:head])
                for at in range(head, head + 15):
                    writer.write(request[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(1)
                writer.close()
    return done


def _requests() -> list[bytes]:
    """Good ones of many sizes, and one in four that is refused."""
    good = [png_request(picture(seed, *_SIZES[seed % len(_SIZES)])) for seed in range(20)]
    jpegs = [multipart([("views", ("a", encoded(picture(seed), "JPEG")))]) for seed in range(4)]
    broken = multipart([("views", ("a", encoded(picture(1), "PNG")[:-4000]))])
    bad = [
        http_request(*broken),
        http_request(broken[0][:500], broken[1]),
        http_request(*multipart([("views", ("a", b"%PDF-1.7"))])),
        http_request(b"{}", "application/json"),
        http_request(*multipart([("views", ("a", b"x"))] * 40)),
        http_request(b"\0" * 300_000, "multipart/form-data; boundary=edge"),
    ]
    mixed = good + [http_request(*each) for each in jpegs] + bad
    return [mixed[place] for place in np.random.default_rng(0).permutation(len(mixed))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--step", type=int, default=1_000, help="requests between two looks")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rude", type=int, default=4, help="clients that go away, and as many that dawdle")
    parser.add_argument("--haproxy", action="store_true", help="HAProxy in place of Serve's own proxy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
