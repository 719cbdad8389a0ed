"""Requests/s, p50 and p99 of a served ensemble at 1, 8 and 64 clients, with images of 0.1 to 20 MB, over HTTP.

    python tests/benchmarks/bench_serve.py

Three small networks at 224 px with random weights vote on one radiograph a request: 8-bit PNGs of 0.1 and 1 MB, 16-bit
DICOM files without compression of 5 and 20 MB. Every subject decodes by mskray's decoder and takes the mean. Before
anything is timed each server's answers are checked to be those of its networks within 1e-5, and these to say the same
within 1e-4: folded or not they are 2e-5 off what they say in float64.

- ours: `mskray serve` behind HAProxy, as where it answers to other machines, with its own defaults;
- LitServe: as many workers of a thread or one of as many threads, batching what waits, for each number of clients as it
  does best of what is tried at the start; its networks are torchvision's, where mskray's predictors fold BatchNorm into
  convolutions;
- the bare models: loops over the same bytes in one process, without HTTP, by mskray's predictors, one loop of as many
  threads or a loop on each core, in the best size of batch, of those that so many clients allow: the limit;
- on a machine of more than four cores, which mskray does not take by default, each with all of them: told beside.

Each runs alone: servers are started anew in every round. Clients keep their connections and ask again when answered;
they run on the same machine, their share of a core is told. A window ends after five seconds with the last answers;
p50 and p99 are of the requests of a round's window.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import Case, Found, Growth, Reach, alternate, apart, main, tell
from serving_files import FILES, OURS, PEER, prepare
from serving_setup import (
    Server,
    Wire,
    free_port,
    http_request,
    multipart,
    running,
    serving,
)

PEER_ALL = "LitServe, all cores"
LIMIT, LIMIT_ALL = "bare models", "bare models, all cores"
CLIENTS = (1, 8, 64)
CORES = len(os.sched_getaffinity(0))
THREADS = min(4, CORES)
"""What `mskray serve` gives the networks."""
BATCHES = (1, 4, 16)
WARMING = 8
CLOSE = 1e-5
ANSWERED = 200
TRIED = [{"batch": batch, "wait_ms": wait} for batch, wait in ((1, 0.0), (8, 5.0), (32, 20.0))]

Cell = tuple[str, int]
"""A kind of file and a number of clients."""


@dataclass(frozen=True)
class Plan:
    """What is measured: which of `FILES`, with how many clients, for how many seconds each."""

    folder: Path
    uri: str
    files: Sequence[str]
    clients: Sequence[int]
    seconds: float


def cases(options: argparse.Namespace) -> Iterator[Found]:
    files = [name for name in FILES if options.only in name]
    with tempfile.TemporaryDirectory() as name:
        uri = apart(__file__, "prepare", folder=name)
        small = options.small
        plan = Plan(
            Path(name), uri, files[::3] if small else files, CLIENTS[:2] if small else CLIENTS, 1 if small else 5
        )
        yield from measured(plan, options)


def measured(plan: Plan, options: argparse.Namespace) -> Iterator[Found]:
    tried = TRIED[1:2] if options.small else TRIED
    chosen = {PEER: best_settings(plan, [each | given for each in tried for given in spread(THREADS)])}
    if CORES > THREADS:
        chosen[PEER_ALL] = best_settings(plan, [each | given for each in tried for given in spread(CORES)])
    found: dict[tuple[Cell, str], dict[str, list[float]]] = {}
    notes: dict[str, str] = {
        name: f"{name}, BatchNorm not folded, by clients: {json.dumps(settings)}." for name, settings in chosen.items()
    }

    def keep(name: str, values: dict[tuple[Cell, str], float]) -> float:
        for key, value in values.items():
            found.setdefault(key, {}).setdefault(name, []).append(value)
        return statistics.geometric_mean(value for (_, figure), value in values.items() if figure == "requests/s")

    def bare(name: str, threads: int) -> float:
        given = {"folder": str(plan.folder), "uri": plan.uri, "files": plan.files, "clients": plan.clients}
        rows, told = apart(__file__, "loop", **given, seconds=plan.seconds, threads=threads)
        notes[name] = f"{name}: {threads} threads, best loops × batches {told}."
        return keep(name, {((file, clients), figure): value for file, clients, figure, value in rows})

    def peer(name: str) -> float:
        values: dict[tuple[Cell, str], float] = {}
        for _, same in itertools.groupby(plan.clients, lambda count: chosen[name][count]):
            part = replace(plan, clients=list(same))
            values |= over_http(part, PEER, litserve(plan, chosen[name][part.clients[0]]))
        return keep(name, values)

    subjects: dict[str, Callable[[], float]] = {
        OURS: lambda: keep(OURS, over_http(plan, OURS, our_server(plan), notes)),
        LIMIT: partial(bare, LIMIT, THREADS),
        **{name: partial(peer, name) for name in chosen},
    }
    if CORES > THREADS:
        subjects[LIMIT_ALL] = partial(bare, LIMIT_ALL, CORES)
    alternate(subjects, options.rounds)
    for file, clients in itertools.product(plan.files, plan.clients):
        for figure, unit in (("requests/s", "requests/s"), ("p50", "ms"), ("p99", "ms")):
            runs = found[(file, clients), figure]
            if clients > 1 and figure != "requests/s":  # a loop has nobody who waits
                runs = {name: values for name, values in runs.items() if name not in (LIMIT, LIMIT_ALL)}
            reach = [Reach(name, 1.0) for name in (PEER, PEER_ALL) if name in runs]
            if clients > 1 and figure == "requests/s":
                reach += [Reach(name, 0.85) for name in (LIMIT, LIMIT_ALL) if name in runs]
            yield Case(f"{file}, {_clients(clients)}, {figure}", unit, OURS, runs, reach, list(notes.values()))
    for file in plan.files:
        points = {
            name: [
                (float(clients), 1000 / statistics.median(found[(file, clients), "requests/s"][name]))
                for clients in plan.clients
            ]
            for name in (OURS, *chosen)
        }
        yield Growth(f"{file}, a thousand requests over clients", "clients", "s", points, steady=True)


def spread(cores: int) -> list[dict[str, Any]]:
    """LitServe on so many cores: a worker on each, or one on all."""
    return [{"workers": workers, "threads": cores // workers} for workers in sorted({1, cores})]


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def best_settings(plan: Plan, settings: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """LitServe's setting that answers most small images, by number of clients."""
    rates: dict[int, list[float]] = {count: [] for count in plan.clients}
    few = replace(plan, files=plan.files[:1])
    for setting in settings if len(settings) > 1 else ():
        values = over_http(few, PEER, litserve(plan, setting))
        for count in plan.clients:
            rates[count].append(values[(plan.files[0], count), "requests/s"])
        tell(f"LitServe {setting}: {', '.join(f'{each[-1]:.1f}' for each in rates.values())} requests/s")
    return {count: settings[int(np.argmax(each)) if each else 0] for count, each in rates.items()}


def our_server(plan: Plan) -> AbstractContextManager[Server]:
    return serving([plan.uri], plan.folder / "serve.log", haproxy=True)


def litserve(plan: Plan, setting: dict[str, Any]) -> AbstractContextManager[Server]:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("serving_litserve.py")), plan.uri, str(port)]
    return running([*command, json.dumps(setting)], port, plan.folder / "litserve.log", {})


def over_http(
    plan: Plan, who: str, starts: AbstractContextManager[Server], notes: dict[str, str] | None = None
) -> dict[tuple[Cell, str], float]:
    """Start a server, check its answers, then measure all files and numbers of clients."""
    found: dict[tuple[Cell, str], float] = {}
    shares = []
    with starts as server:
        for file in plan.files:
            paths = sorted((plan.folder / file).iterdir())
            requests = [http_request(*multipart([("views", (path.name, path.read_bytes()))])) for path in paths]
            asyncio.run(check(server, requests, file, plan.folder, who))
            asyncio.run(load_for(server, requests, WARMING, plan.seconds))  # first requests take longer, of any server
            for clients in plan.clients:
                began, cpu = time.perf_counter(), time.process_time()
                rate, waits = asyncio.run(load_for(server, requests, clients, plan.seconds))
                shares.append((time.process_time() - cpu) / (time.perf_counter() - began))
                found |= _figures((file, clients), rate, waits)
    if notes is not None:
        notes["client"] = f"The load took up to {max(shares):.0%} of a core."
    return found


async def check(server: Server, requests: Sequence[bytes], file: str, folder: Path, who: str) -> None:
    """Ask for each file once, alone. Raises RuntimeError where an answer is not that of the models."""
    known, wire = json.loads((folder / "known.json").read_text())[who], Wire(server.port)
    for place, request in enumerate(requests):
        answer = await wire.ask(request)
        if answer.status != ANSWERED:
            raise RuntimeError(f"{file}: answered {answer.status}: {answer.body[:300]!r}")
        said = list(json.loads(answer.body)["study"]["probabilities"].values())
        if not np.allclose(said, known[f"{file}/{place}"], rtol=0, atol=CLOSE):
            raise RuntimeError(f"{file}, {place}: the server says {said}, the models {known[f'{file}/{place}']}")
    wire.close()


async def load_for(
    server: Server, requests: Sequence[bytes], clients: int, seconds: float
) -> tuple[float, list[float]]:
    """Ask with so many clients until the time is over, each once at least: requests/s, and seconds of each."""
    following, waits = itertools.cycle(requests), []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        wire = Wire(server.port)
        while True:
            began = time.perf_counter()
            answer = await wire.ask(next(following))
            if answer.status != ANSWERED:
                raise RuntimeError(f"answered {answer.status}: {answer.body[:300]!r}")
            waits.append(time.perf_counter() - began)
            if time.perf_counter() >= end:
                break
        wire.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    return len(waits) / (time.perf_counter() - began), waits


def loop(
    folder: str, uri: str, files: Sequence[str], clients: Sequence[int], seconds: float, threads: int
) -> tuple[list[tuple[str, int, str, float]], str]:
    """The bare models: rows of (file, clients, figure, value), and how many loops of which batches were best."""
    import torch

    from mskray.ensemble import load

    torch.set_num_threads(1)  # this thread computes nothing: OpenMP spins for as many threads as there are CPUs
    voters = [load(uri) for _ in range(threads)]
    rows: list[tuple[str, int, str, float]] = []
    told = []
    for file in files:
        contents = [path.read_bytes() for path in sorted(Path(folder, file).iterdir())]
        timed = {
            (loops, size): looped(voters[:loops], contents, size, threads // loops, seconds / 2)
            for loops, size in itertools.product(sorted({1, threads}), BATCHES)
            if loops * size <= max(clients)
        }
        for count in clients:
            best = max((key for key in timed if math.prod(key) <= count), key=lambda key: timed[key][0])
            figures = _figures((file, count), *timed[best])
            rows += [(file, count, figure, value) for (_, figure), value in figures.items()]
        told.append(f"{best[0]} × {best[1]}")
    return rows, ", ".join(told)


def looped(
    voters: Sequence[Any], contents: Sequence[bytes], size: int, threads: int, seconds: float
) -> tuple[float, list[float]]:
    """Have each voter judge batches in a thread of its own: images/s, and seconds of each image."""
    import torch

    from mskray.families import Images
    from mskray.imaging.decode import decode

    def judge(voter: Any) -> tuple[float, list[float]]:
        for _ in range(2):  # before and after torch gives a new thread what any thread was given last
            torch.set_num_threads(threads)
            torch.get_num_threads()
        following, waits = itertools.cycle(contents), list[float]()
        began = time.perf_counter()
        while not waits or time.perf_counter() < began + seconds:
            started = time.perf_counter()
            voter(Images([decode(next(following)).pixels for _ in range(size)]))
            waits += [time.perf_counter() - started] * size
        return len(waits) / (time.perf_counter() - began), waits

    with ThreadPoolExecutor(len(voters)) as pool:
        rates, waits = zip(*pool.map(judge, voters), strict=True)
    return sum(rates), list(itertools.chain(*waits))


def _figures(cell: Cell, rate: float, waits: Sequence[float]) -> dict[tuple[Cell, str], float]:
    half, most = (1000 * float(np.percentile(waits, each)) for each in (50, 99))
    return {(cell, "requests/s"): rate, (cell, "p50"): half, (cell, "p99"): most}


if __name__ == "__main__":
    main(cases, prepare, loop)
