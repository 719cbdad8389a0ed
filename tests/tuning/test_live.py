"""What a running search says: a table on a terminal, lines elsewhere, from any thread."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from searches import KAPPA, description, trial

from mskray.tuning.live import Board

SPACE = {"optimizer.learning_rate": {"loguniform": [1e-5, 1e-2]}, "network.backbone": {"choice": ["a", "b"]}}
RATE = {"optimizer.learning_rate": 0.001}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def board(stream, total=4, **other) -> Board:
    return Board(description(SPACE), total, stream, **other)


def last_table(stream: Terminal) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue().rpartition("\x1b[2K")[2])
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "30")


def test_a_log_gets_a_line_an_event():
    stream = io.StringIO()
    one, two, three = trial(0, RATE), trial(1, {"network.backbone": "b"}), trial(2)
    with board(stream) as show:
        show.update(one)
        show.update(one, epoch=1, figures={"val_kappa": 0.4})
        show.update(one, epoch=2, figures={"val_kappa": 0.3})
        show.update(trial(0, RATE, 0.41, seconds=90))
        show.update(two)
        show.update(trial(1, {"network.backbone": "b"}, state="stopped", reason="behind the others", seconds=10))
        show.update(three.model_copy(update={"state": "refused", "reason": "too small"}))
        show.tell("a word")
    name, other, third = (each.id[:8] for each in (one, two, three))
    best = f"best 0.410 (trial {name})"
    assert stream.getvalue().splitlines() == [
        f"trial {name} started: learning_rate 0.001",
        f"trial {name} finished: Cohen’s κ (study) 0.410, 1:30 min, 1 of 4 trials, {best}, 4:30 min left",
        f"trial {other} started: backbone b",
        f"trial {other} stopped: behind the others, 10 s, 2 of 4 trials, {best}, 1:40 min left",
        f"trial {third} refused: too small, 0 s, 2 of 4 trials, {best}, 1:40 min left",
        "a word",
        f"2 of 4 trials, {best}, 1:40 min left",
    ]


def test_what_an_earlier_call_finished_is_counted_and_no_news():
    stream = io.StringIO()
    with board(stream) as show:
        show.update(trial(0, RATE, 0.4, seconds=60))
        show.update(trial(1, RATE, state="stopped", seconds=20))
    assert stream.getvalue() == f"2 of 4 trials, best 0.400 (trial {trial(0).id[:8]}), 1:20 min left\n"


def test_time_left_is_shared_by_what_runs_at_once():
    show = board(io.StringIO(), total=9)
    assert show.headline() == "0 of 9 trials"
    show.update(trial(0, kappa=0.1, seconds=100))
    for number in (1, 2):
        show.update(trial(number))
    # Two run and have only begun, six are to come: eight times 100 s, two at once.
    assert show.headline().endswith("6:40 min left")


@pytest.mark.parametrize(("total", "words"), [(0, "1 trials, best"), (1, "1 of 1 trials, best")])
def test_nothing_is_foretold_of_an_unknown_number_or_at_the_end(total, words):
    show = board(io.StringIO(), total)
    show.update(trial(0, kappa=0.5, seconds=10))
    assert show.headline().startswith(words)
    assert "left" not in show.headline()


def test_a_quiet_log_gets_a_line_now_and_then():
    stream = io.StringIO()
    show = board(stream, every_s=0.01)
    with show:
        while stream.getvalue().count("0 of 4 trials\n") < 3:
            pass


def test_a_terminal_gets_the_table():
    stream = Terminal()
    with board(stream) as show:
        show.update(trial(0, {**RATE, "network.backbone": "[red]"}, 0.4, seconds=61))
        show.update(trial(1, RATE))
        show.update(trial(1, RATE), epoch=3, figures={"val_kappa": 0.6})
        show.update(trial(1, RATE), epoch=4, figures={"val_kappa": 0.5})
        show.update(trial(2, RATE, 0.45, seconds=61))
        show.tell("a [b]word")
    assert "a [b]word" in stream.getvalue()
    head, columns, *rows = last_table(stream)
    assert head.startswith(f"2 of 4 trials, best 0.450 (trial {trial(2).id[:8]}), ")
    assert re.split(r"\s{2,}", columns)[-2:] == ["learning_rate", "backbone"]
    cells = [re.split(r"\s{2,}", row) for row in rows]
    assert cells[0] == [trial(1).id[:8], "running", "4", "0.500", "0.600", "0 s", "0.001", "–"]
    assert cells[1] == [trial(2).id[:8], "finished", "–", "0.450", "0.450", "1:01 min", "0.001", "–"]
    assert cells[2][-1] == "[red]"


def test_a_narrow_terminal_keeps_the_figures(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with board(stream) as show:
        show.update(trial(0, {**RATE, "network.backbone": "a" * 60}, 0.4, seconds=61))
    row = last_table(stream)[2]
    assert row.startswith(f"{trial(0).id[:8]}  finished  –      0.400              0.400  1:01 min  learning_rate")
    assert row.endswith("…")
    assert len(row) <= 80


def test_a_long_table_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("LINES", "12")
    stream = Terminal()
    with board(stream, total=40) as show:
        for number in range(40):
            show.update(trial(number, RATE, number / 100))
    table = last_table(stream)
    assert len(table) == 2 + 7 + 1
    assert table[-1] == "… 33 more"


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_threads_may_call_it_at_once(make):
    stream = make()
    with board(stream, total=200) as show, ThreadPoolExecutor(8) as pool:

        def run(number: int) -> None:
            show.update(trial(number, None))
            show.update(trial(number, None), 1, {KAPPA: 0.1})
            show.update(trial(number, None, number / 1000, seconds=1))

        list(pool.map(run, range(200)))
    show.end()
    assert show.headline() == f"200 of 200 trials, best 0.199 (trial {trial(199).id[:8]})"
    if make is io.StringIO:
        lines = stream.getvalue().splitlines()
        assert sum(" started: " in line for line in lines) == 200
        assert sum(" finished: " in line for line in lines) == 200
