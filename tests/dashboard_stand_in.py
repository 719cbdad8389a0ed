"""What answers like a dashboard's job API, over HTTP and WebSockets: for what a real head does only when it breaks.

`tests/verbs/test_submit_cluster.py` asks a real one.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from aiohttp import web


@dataclass
class Dashboard:
    """A scripted dashboard.

    Args:
        token: None for one that asks for none.
        jobs: by submission id, as the API tells them; new ones are RUNNING.
        words: what every job prints, in the pieces in which it is sent.
        cuts: how many pieces are sent before the connection is cut, for each connection in turn; then all are.
        ending: what a running job becomes when its words have been sent.
        forget, dies: whether jobs are forgotten, or end, when a connection is cut.
        away: how many of the questions to come are answered by 503.
    """

    token: str | None = None
    ray_version: str = ray.__version__
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: list[str] = field(default_factory=lambda: ["one\n", "two\n", "three\n"])
    cuts: list[int] = field(default_factory=list)
    ending: dict[str, Any] = field(default_factory=lambda: {"status": "SUCCEEDED", "driver_exit_code": 0})
    away: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    forget: bool = False
    dies: bool = False

    def application(self) -> web.Application:
        @web.middleware
        async def guard(request: web.Request, handler: Any) -> Any:
            given = request.headers.get("Authorization")
            if self.token is not None and given != f"Bearer {self.token}":
                return web.Response(status=403 if given else 401, text="Unauthorized")
            if self.away > 0 and request.path != "/api/version":
                self.away -= 1
                return web.Response(status=503, text="away")
            return await handler(request)

        app = web.Application(middlewares=[guard], client_max_size=1 << 28)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{name}", self._info)
        app.router.add_get("/api/jobs/{name}/logs/tail", self._tail)
        app.router.add_get("/api/jobs/{name}/logs", self._words)
        app.router.add_post("/api/jobs/{name}/stop", self._stop)
        app.router.add_get("/api/packages/{protocol}/{name}", self._package)
        app.router.add_put("/api/packages/{protocol}/{name}", self._keep)
        return app

    async def _version(self, request: web.Request) -> web.Response:
        told = {"version": "4", "ray_version": self.ray_version, "ray_commit": "", "session_name": ""}
        return web.json_response(told)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def _submit(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = asked["submission_id"]
        if name in self.jobs:
            return web.Response(status=500, text=f"ValueError: Job with submission_id {name} already exists.")
        self.asked.append(asked)
        self.jobs[name] = job(name, "RUNNING", metadata=asked["metadata"])
        return web.json_response({"job_id": name, "submission_id": name})

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.jobs:
            return web.Response(status=404, text=f"Job {name} does not exist")
        return web.json_response(self.jobs[name])

    async def _tail(self, request: web.Request) -> Any:
        name = request.match_info["name"]
        words = web.WebSocketResponse()
        await words.prepare(request)
        sent = self.cuts.pop(0) if self.cuts else None
        for piece in self.words[:sent]:
            await words.send_str(piece)
            await asyncio.sleep(0.01)
        if sent is not None:
            if self.forget:
                self.jobs.clear()
            if self.dies:
                self.jobs[name].update(self.ending)
            assert request.transport is not None
            request.transport.abort()
            return words
        if self.jobs[name]["status"] == "RUNNING":
            self.jobs[name].update(self.ending)
        await words.close()
        return words

    async def _words(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(self.words)})

    async def _stop(self, request: web.Request) -> web.Response:
        found = self.jobs[request.match_info["name"]]
        running = found["status"] == "RUNNING"
        if running:
            found["status"] = "STOPPED"
        return web.json_response({"stopped": running})

    async def _package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404, text="")

    async def _keep(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response(text="")


def job(name: str, status: str, **more: Any) -> dict[str, Any]:
    """A job as the API tells it."""
    return {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "python",
        "start_time": 1,
    } | more


@contextmanager
def serving(dashboard: Dashboard) -> Iterator[str]:
    """The dashboard on loopback; yields its URL."""
    loop, started, port = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(dashboard.application(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        started.set()
        return runner

    runner = None

    def run() -> None:
        nonlocal runner
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
