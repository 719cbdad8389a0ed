"""The whole application in this process, with models of all kinds and a store; and what every answer must keep to."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

import jsonschema
import psutil
from fastapi import FastAPI
from serving_samples import Answered, Local, asked, fitted
from small_pairs import fitted as fitted_pairs
from small_spinenet import fitted as fitted_grader
from small_spinenet import recipe
from spine_run import vertebra_bundle

from mskray.bundles import save_bundle
from mskray.ensemble import join, load, load_members, save_ensemble
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.serving.api import build_api
from mskray.serving.pairs import PairReader
from mskray.serving.settings import Limits
from mskray.serving.spines import SpineReader
from mskray.serving.tokens import Access
from mskray.storage import locate

LONGEST_S = 10.0
_MOST_BYTES = 1 << 30
LIMITS = Limits(
    max_body=1 << 20, max_unpacked=1 << 22, max_views=6, max_pixels=1 << 20, max_seconds=LONGEST_S, max_waiting=8
)
_DETECTOR = {
    "network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8},
    "data": {"image_size": 64},
}
RESULTS: "Counter[tuple[str, str]]" = Counter()
"""Answers by route and class of status."""


def build_app(folder: Path) -> FastAPI:
    """Return the application over small models of random weights."""
    for seed, name in enumerate(("first", "second")):
        save_bundle(fitted(seed, ("KNEE",)), locate(folder / name), fingerprint=name)
    save_ensemble(join([str(folder / "first"), str(folder / "second")], "knees"), locate(folder / "ensemble"))
    save_bundle(fitted_pairs(), locate(folder / "pairs"), fingerprint="pairs")
    save_bundle(fitted_grader(recipe()), locate(folder / "grader"), "f00")
    vertebra_bundle(folder / "detector", VertebraDetectorConfig.model_validate(_DETECTOR))
    backend = Local(
        load(str(folder / "ensemble")),
        PairReader(load_members(join([str(folder / "pairs")], "change"), "change")),
        SpineReader(str(folder / "grader"), str(folder / "detector")),
    )
    return build_api(backend, LIMITS, Access(), store=str(folder / "store"), feedback=str(folder / "feedback"))


class Room:
    """An application at work in a loop of its own; `close` ends its jobs."""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._loop = app, asyncio.new_event_loop()
        self._document = app.openapi()
        self._life = app.router.lifespan_context(app)
        self._loop.run_until_complete(self._life.__aenter__())
        self._memory = psutil.Process()
        self._before = self._memory.memory_info().rss

    def close(self) -> None:
        self._loop.run_until_complete(self._life.__aexit__(None, None, None))
        self._loop.close()

    def ask(self, method: str, path: str, body: Iterable[bytes], headers: dict[str, str]) -> Answered:
        """Send a request and check its answer. Raises AssertionError, and TimeoutError where none comes."""
        began = time.monotonic()
        answered = self._loop.run_until_complete(
            asyncio.wait_for(asked(self._app, method, path, body, headers), 2 * LONGEST_S)
        )
        template = self._template(path.partition("?")[0])
        count(method, template, answered.status)
        self._check(method, template, answered)
        assert time.monotonic() - began < LONGEST_S, "took too long"
        assert self._memory.memory_info().rss - self._before < _MOST_BYTES, "took too much memory"
        return answered

    def _template(self, path: str) -> str | None:
        for each in self._document["paths"]:
            if re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", each), path):
                return str(each)
        return None

    def _check(self, method: str, template: str | None, answered: Answered) -> None:
        """No defect, and nothing that the OpenAPI document does not tell of."""
        told = f"{method} {template}: {answered.status} {answered.body[:500]!r}"
        assert 200 <= answered.status < 500, told
        operation = self._document["paths"].get(template, {}).get(method.lower())
        kind = answered.headers.get("content-type", "").partition(";")[0]
        if operation is None:
            # The page, where it is built, stands in no document.
            known = [(404, "application/problem+json"), (405, "application/problem+json"), (200, "text/html")]
            assert (answered.status, kind) in known, told
            return
        assert str(answered.status) in operation["responses"], told
        content = operation["responses"][str(answered.status)]["content"]
        assert kind in content, told
        if kind.endswith("json"):
            schema = {**content[kind]["schema"], "components": self._document["components"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(answered.body))


def count(method: str, route: str | None, status: int) -> None:
    """Count an answer; what is asked of no route by no method of its own is told together."""
    if route is None or status == HTTPStatus.METHOD_NOT_ALLOWED:
        method, route = "elsewhere,", "other methods"
    RESULTS[f"{method} {route}", f"{status // 100}xx"] += 1


def table() -> Iterable[str]:
    """Lines: route, then how many answers of each class of status."""
    classes = sorted({status for _, status in RESULTS})
    yield f"{'route':32}" + "".join(f"{each:>9}" for each in classes)
    for route in sorted({route for route, _ in RESULTS}):
        yield f"{route:32}" + "".join(f"{RESULTS[route, each]:9,}" for each in classes)
