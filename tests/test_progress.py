"""What long work says, on a terminal and in a log."""

import io

import pytest

from mskray.progress import Display, Progress, duration


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("checking"), "checking"),
        (Progress("listing", 1200), "listing  1,200 images"),
        (Progress("ingest", 10, 100, rate=4.25, left_s=21), "ingest  10/100 images  4.2 images/s  21 s left"),
        (
            Progress("epoch 1/2", 100, 100, rate=1234, left_s=0, note="loss 0.1"),
            "epoch 1/2  100/100 images  1,234 images/s  loss 0.1",
        ),
    ],
)
def test_text(progress: Progress, text: str) -> None:
    assert str(progress) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (187, "3:07 min"), (8100, "2:15 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_a_line_a_stage_and_the_last_one_and_few_between() -> None:
    stream = io.StringIO()
    show = Display(stream, every_s=1000)
    for done in range(101):
        show(Progress("ingest", done, 100))
    show(Progress("training"))
    assert stream.getvalue().splitlines() == ["ingest  0/100 images", "ingest  100/100 images", "training"]


def test_a_terminal_line_is_rewritten() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    show = Display(stream)
    show(Progress("ingest", 0, 2))
    show(Progress("ingest", 2, 2))
    show.end()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 2
