"""Replicas die under load: is any answer wrong, is any accepted request lost, does every job end, and once?

    .venv/bin/python tests/benchmarks/serving_chaos.py --minutes 5

Clients of `mskray.client` ask for studies of one picture whose probabilities are known. Every minute some jobs are
handed in, then the process of a replica is killed (SIGKILL): of the ingress, of the members, of the spines' reader, in
turn; there is one of each, so that for some seconds nothing answers. A client that is refused or cut off asks again;
what it gives up on is lost. The exit status is 1 where an answer was wrong, a request lost, or a job not done exactly
once.
"""

import argparse
import itertools
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from serving_setup import (
    INGRESS,
    MEMBERS,
    SPINES,
    TOKEN,
    Server,
    encoded,
    make_ensemble,
    make_spine_models,
    picture,
    serving,
    spine_file,
)

from mskray.client import Client
from mskray.ensemble import load
from mskray.errors import UserError
from mskray.families import Images

TOLERANCE = 1e-4
"""Between batches of other sizes the last bits of a probability differ."""
_PICTURES = 64
_HEAD_STARTS_S = (1.0, 0.4, 0.15, 0.05)
"""After each a job is handed in; the kill follows the last one, whose form is still being read."""
_JOB_S = 300.0


@dataclass
class Tally:
    """What came of the requests; `lock` guards it."""

    asked: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    tries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Counting(Client):
    """A client that counts how often it asks."""

    def __init__(self, url: str, tally: Tally, attempts: int) -> None:
        super().__init__(url, TOKEN, attempts=attempts)
        self._tally = tally
        self._http.event_hooks = {"request": [self._count]}

    def _count(self, _: object) -> None:
        with self._tally.lock:
            self._tally.tries += 1


def main() -> None:
    given = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = make_ensemble(folder, ("mobilenet_v3_small", "resnet18"), 96)
        known = _known(uri)
        grader, detector = make_spine_models(folder)
        store = folder / "store"
        arguments = [uri, "--spines", grader, "--vertebrae", detector, "--store", str(store)]
        with serving(arguments, folder / "serve.log", given.haproxy) as server:
            fine = disturb(server, known, spine_file(folder), store, given)
    sys.exit(0 if fine else 1)


def disturb(
    server: Server, known: list[tuple[bytes, np.ndarray]], volume: bytes, store: Path, given: argparse.Namespace
) -> bool:
    """Ask, kill, and print what came of it; return whether all is as asked."""
    tally, end, missed = Tally(), time.monotonic() + 60 * given.minutes, 0
    with ThreadPoolExecutor(given.clients + 16) as pool:
        asking = [pool.submit(ask, server, known, place, end, tally, given.attempts) for place in range(given.clients)]
        jobs: list[Future[None]] = []
        for kind in itertools.cycle((INGRESS, MEMBERS, SPINES)):
            if time.monotonic() + given.every > end:
                break
            time.sleep(given.every - sum(_HEAD_STARTS_S))
            for seconds in _HEAD_STARTS_S:
                jobs.append(pool.submit(read, server, volume, given.attempts))
                time.sleep(seconds)
            victims = server.replicas(kind)
            for victim in victims:
                victim.kill()
            missed += not victims
            print(f"killed {len(victims)} of {kind} after {tally.asked} answers", flush=True)
        for each in asking:
            each.result()
        failed = [str(error) for each in jobs if (error := each.exception(_JOB_S)) is not None]
    stored = len(list((store / "jobs").iterdir())) if (store / "jobs").is_dir() else 0
    print(f"{'requests':24} {tally.asked:7,}, tried {tally.tries:,} times; longest wait {tally.longest_s:.1f} s")
    print(f"{'wrong answers':24} {tally.wrong:7,}")
    print(f"{'lost requests':24} {len(tally.lost):7,} {'; '.join(sorted(set(tally.lost))[:3])}")
    print(f"{'jobs':24} {len(jobs):7,}, done {len(jobs) - len(failed)}, stored {stored} {'; '.join(failed[:3])}")
    return not (tally.wrong or tally.lost or failed) and stored == len(jobs) > 0 and not missed


def ask(
    server: Server, known: list[tuple[bytes, np.ndarray]], place: int, end: float, tally: Tally, attempts: int
) -> None:
    """Ask for one picture after the other until the time is over."""
    random = np.random.default_rng(place)
    with Counting(server.url, tally, attempts) as client:
        while time.monotonic() < end:
            content, expected = known[int(random.integers(len(known)))]
            began, why, wrong = time.monotonic(), "", False
            try:
                answer = client.predict_study([content])
            except UserError as error:
                why = str(error)
            else:
                said = np.array(list(answer.study.probabilities.values()))
                wrong = bool(np.abs(said - expected).max() > TOLERANCE)
            with tally.lock:
                tally.asked += 1
                tally.wrong += wrong
                tally.lost += [why] if why else []
                tally.longest_s = max(tally.longest_s, time.monotonic() - began)


def read(server: Server, volume: bytes, attempts: int) -> None:
    """Have a spine read. Raises UserError where the job does not end well."""
    with Client(server.url, TOKEN, attempts=attempts) as client:
        client.read_spine([volume], explain="saliency")


def _known(uri: str) -> list[tuple[bytes, np.ndarray]]:
    """PNGs and their probabilities, all so different that a mixed-up answer shows."""
    voter, pixels = load(uri), [picture(seed, 256, 224) for seed in range(_PICTURES)]
    probabilities = np.concatenate([voter(Images([each])).probabilities for each in pixels])
    apart = np.abs(probabilities[:, None, 0] - probabilities[None, :, 0])[~np.eye(_PICTURES, dtype=bool)]
    mixed = float((apart <= TOLERANCE).mean())
    print(f"{_PICTURES} pictures; two of them within the tolerance: {mixed:.2%}")
    return [(encoded(each, "PNG"), shares) for each, shares in zip(pixels, probabilities, strict=True)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two kills")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--attempts", type=int, default=6, help="of the client, whose default it is")
    parser.add_argument("--haproxy", action="store_true", help="HAProxy in place of Serve's own proxy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
