"""Following a job to its end: what is cut, lost, forgotten or left on the way, and which exit code comes of it."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from dashboard_stand_in import Dashboard, job, serving

from mskray.progress import silent
from mskray.verbs import submit_follow
from mskray.verbs.submit_client import connect
from mskray.verbs.submit_follow import Following


@pytest.fixture
def serve() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def followed(dashboard: Dashboard, serve: ExitStack, name: str = "a", **more: float) -> tuple[int, str]:
    jobs = connect(serve.enter_context(serving(dashboard)))
    out = io.StringIO()
    return Following(jobs, name, f"mskray jobs follow {name}", silent, out, **more).end(), out.getvalue()


def running(**more: object) -> Dashboard:
    return Dashboard(jobs={"a": job("a", "RUNNING")}, **more)  # type: ignore[arg-type]


def test_a_job_is_followed_to_its_exit_code(serve: ExitStack) -> None:
    assert followed(running(ending={"status": "FAILED", "driver_exit_code": 2}), serve) == (2, "one\ntwo\nthree\n")


@pytest.mark.parametrize("cuts", [[0], [1, 2], [2, 1, 3]])
def test_a_cut_connection_is_made_again_and_nothing_is_said_twice(
    serve: ExitStack, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_follow, "_AGAIN_S", 0.05)
    assert followed(running(cuts=cuts), serve) == (0, "one\ntwo\nthree\n")


def test_nodes_without_mskray(serve: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["/usr/bin/python: Error while finding module specification for 'mskray.cli' (ModuleNotFoundError: "]
    dashboard = running(
        words=[*words, "No module named 'mskray')\n"], ending={"status": "FAILED", "driver_exit_code": 1}
    )
    assert followed(dashboard, serve)[0] == 1
    assert "the cluster's nodes have no mskray: install it there, or send this one with --send-code" in (
        capsys.readouterr().err
    )


def test_words_that_no_websocket_brings(serve: ExitStack) -> None:
    """The last of a job's words come in one piece where its connection was cut and it has ended."""
    dashboard = running(cuts=[1] * 100, dies=True, ending={"status": "FAILED", "driver_exit_code": 3})
    assert followed(dashboard, serve) == (3, "one\ntwo\nthree\n")


def test_a_head_that_was_restarted_knows_no_job(
    serve: ExitStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit_follow, "_AGAIN_S", 0.05)
    assert followed(running(cuts=[1], forget=True), serve) == (75, "one\n")
    assert (
        "the cluster knows no job a any more: its head was restarted; submit the same again" in capsys.readouterr().err
    )


def test_a_cluster_that_stays_away_is_left(
    serve: ExitStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit_follow, "_AGAIN_S", 0.05)
    assert followed(running(away=10**6), serve, patience_s=0.5) == (75, "")
    assert "the job may go on: mskray jobs follow a" in capsys.readouterr().err


def test_leaving_a_job_leaves_it_running(
    serve: ExitStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Following, "_print", interrupted)
    dashboard = running()
    assert followed(dashboard, serve) == (130, "")
    assert dashboard.jobs["a"]["status"] == "RUNNING"
    assert "the job goes on without you: mskray jobs follow a" in capsys.readouterr().err


def test_leaving_while_the_cluster_is_away(
    serve: ExitStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    dashboard = running(away=10**6)
    monkeypatch.setattr(submit_follow.time, "sleep", interrupted)
    assert followed(dashboard, serve) == (130, "")
    assert "the job goes on without you: mskray jobs follow a" in capsys.readouterr().err


def test_nobody_reads_any_more(serve: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    jobs = connect(serve.enter_context(serving(running())))
    with os.fdopen(writer, "w") as out:
        assert Following(jobs, "a", "mskray jobs follow a", silent, out).end() == 130
    assert "the job goes on without you: mskray jobs follow a" in capsys.readouterr().err
