"""Threads of a training worker: all cores where it is alone, its own where other trainings are beside it."""

from types import SimpleNamespace

import pytest

from mskray.training.on_ray import session


@pytest.mark.parametrize(
    ("cores", "cpus", "workers", "threads"),
    [
        (16, None, 1, 16),
        (16, None, 4, 4),
        (2, None, 4, 1),
        (16, 1.0, 1, 1),
        (16, 4.0, 1, 4),
        (2, 0.75, 1, 1),
        (8, 4.0, 1, 2),  # a node that states twice its cores
        (4, 64.0, 1, 4),
    ],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, cores: int, cpus: float | None, workers: int, threads: int) -> None:
    nodes = [{"NodeID": "other", "Resources": {"CPU": 999.0}}, {"NodeID": "here", "Resources": {"CPU": 16.0}}]
    if cores in (2, 4):
        nodes[1]["Resources"] = {"CPU": float(cores)}
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(session.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(session.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    assert session._threads(cpus, workers) == threads
