"""The table of a search while it runs: rewritten in place on a terminal, a line an event elsewhere.

    with Board(description, total=24) as board:
        board.update(record)                                          # it began, was stopped, finished, failed …
        board.update(record, epoch=3, figures={"val_kappa": 0.41})    # it came this far

May be called from any thread.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mskray.progress import duration
from mskray.tuning.figures import sign
from mskray.tuning.leaderboard import ranked
from mskray.tuning.ledger import ENDED, Description, TrialRecord
from mskray.tuning.wording import ABSENT, metric_name, number, parameters_text, short_names, shortened, value_text

EVERY_S = 30.0
"""Between two lines about the whole search, where there is no terminal."""
_SHORT, _VALUE = 8, 22
_OTHER_LINES, _GAP = 5, 2


@dataclass
class _Seen:
    """What is known of a trial."""

    record: TrialRecord
    began: float
    epoch: int = 0
    now: float | None = None
    best: float | None = None
    lasted: float = 0.0

    def seconds(self) -> float:
        if self.record.state == "open":
            return time.monotonic() - self.began
        return self.record.seconds or self.lasted


class Board:
    """Shows a search's trials.

    Args:
        description: what is searched; its first metric is shown.
        total: how many trials there will be, 0 where that is not known (a budget in time).
        stream: where to; a terminal gets the table.
        every_s: between two lines about the whole search, elsewhere.
    """

    def __init__(
        self, description: Description, total: int, stream: TextIO | None = None, every_s: float = EVERY_S
    ) -> None:
        self.total = total
        self._description = description
        self._metric = description.metrics[0]
        self._names = short_names(description.space)
        self._stream = stream or sys.stderr
        self._seen: dict[str, _Seen] = {}
        self._most_running = 1
        self._lock = Lock()
        self._ended = Event()
        self._every = every_s
        self._live: Live | None = None
        self._clock: Thread | None = None
        if self._stream.isatty():
            console = Console(file=self._stream)
            # Elsewhere than on the terminal what is printed stays what it is: it may be piped on.
            self._live = Live(
                console=console,
                get_renderable=self._draw,
                refresh_per_second=2,
                redirect_stdout=sys.stdout.isatty(),
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._clock = Thread(target=self._tick, name="tune-board", daemon=True)
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def update(self, record: TrialRecord, epoch: int = 0, figures: Mapping[str, float] | None = None) -> None:
        """Show a trial as it is now.

        Args:
            record: of the ledger.
            epoch: that has just ended, 0 for none.
            figures: of that epoch, as in a history ("val_kappa") or by the metric's name.
        """
        with self._lock:
            seen = self._seen.get(record.id)
            if seen is None or (record.state == "open" and seen.record.state != "open"):
                # What had ended before it was first shown is an earlier call's, and its end no news.
                event = record.state not in ("finished", "stopped")
                seen = self._seen[record.id] = _Seen(record, time.monotonic())
            else:
                event = seen.record.state != record.state
                if event:
                    seen.lasted = time.monotonic() - seen.began
            seen.record, seen.epoch = record, max(epoch, seen.epoch)
            self._note(seen, figures or {})
            running = sum(each.record.state == "open" for each in self._seen.values())
            self._most_running = max(self._most_running, running)
            line = self._line(seen) if event and self._live is None else ""
        if line:
            self._say(line)

    def tell(self, text: str) -> None:
        """Say something about the search, above the table."""
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            self._say(text)

    def end(self) -> None:
        """Leave the table, or a last line, as it stands. Calling it again does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._live is not None:
            self._live.stop()
            return
        if self._clock is not None:
            self._clock.join()
        self._say(self.headline())

    def headline(self) -> str:
        """ "7 of 24 trials, best 0.612 (trial a1b2c3d4), 3:10 min left"."""
        with self._lock:
            return self._headline()

    def _headline(self) -> str:
        records = [seen.record for seen in self._seen.values()]
        ended = [record for record in records if record.state in ENDED]
        words = [f"{len(ended)} of {self.total} trials" if self.total else f"{len(ended)} trials"]
        finished = [record for record in ended if record.state == "finished" and self._metric in record.figures]
        if finished:
            best = ranked(self._description.model_copy(update={"metrics": (self._metric,)}), finished)[0]
            words.append(f"best {number(best.figures[self._metric].mean)} (trial {best.id[:_SHORT]})")
        left = self._left()
        if left is not None:
            words.append(f"{duration(left)} left")
        return ", ".join(words)

    def _left(self) -> float | None:
        """Seconds: what trials last on average, for those to come and the rest of those that run, over the slots."""
        lasted = [seen.seconds() for seen in self._seen.values() if seen.record.state in ("finished", "stopped")]
        ended = sum(seen.record.state in ENDED for seen in self._seen.values())
        if not lasted or not self.total or ended >= self.total:
            return None
        mean = fmean(lasted)
        running = [seen.seconds() for seen in self._seen.values() if seen.record.state == "open"]
        to_come = max(0, self.total - ended - len(running))
        return (mean * to_come + sum(max(0.0, mean - each) for each in running)) / self._most_running

    def _note(self, seen: _Seen, figures: Mapping[str, float]) -> None:
        if self._metric in seen.record.figures:
            seen.now = seen.best = seen.record.figures[self._metric]
            return
        found = figures.get(self._metric, figures.get(f"val_{self._metric.rpartition('.')[2]}"))
        if found is not None:
            better = sign(self._metric)
            seen.now = found
            seen.best = found if seen.best is None else better * max(better * found, better * seen.best)

    def _tick(self) -> None:
        while not self._ended.wait(self._every):
            self._say(self.headline())

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _line(self, seen: _Seen) -> str:
        record = seen.record
        words = [f"trial {record.id[:_SHORT]} {'started' if record.state == 'open' else record.state}"]
        if record.state == "open":
            words.append(self._parameters(record))
        elif record.state == "finished" and seen.now is not None:
            words.append(f"{metric_name(self._metric)} {number(seen.now)}")
        if record.reason:
            words.append(record.reason)
        if record.state != "open":
            words += [duration(seen.seconds()), self._headline()]
        return ": ".join([words[0], ", ".join(word for word in words[1:] if word)])

    def _parameters(self, record: TrialRecord) -> str:
        return parameters_text(record.parameters, {key: self._names.get(key, key) for key in record.parameters})

    def _draw(self) -> Group:
        with self._lock:
            seen = sorted(self._seen.values(), key=self._place)
            headline = self._headline()
        console = self._live.console if self._live is not None else Console()
        room = max(1, console.height - _OTHER_LINES)
        heads = ["trial", "state", "epoch", metric_name(self._metric), "best", "time"]
        rows = [self._cells(each) for each in seen[:room]]
        values = [self._values(each.record) for each in seen[:room]]
        columns = list(self._names.values())
        if _width([heads + columns, *(row + value for row, value in zip(rows, values, strict=True))]) > console.width:
            left = console.width - _width([heads, *rows]) - _GAP
            columns, values = ["parameters"], [[self._parameters(each.record)] for each in seen[:room]]
            columns, *values = [[shortened(cell, max(1, left)) for cell in line] for line in (columns, *values)]
        shown = Table(box=None, pad_edge=False)
        for column in heads + columns:
            shown.add_column(column, no_wrap=True)
        for row, value in zip(rows, values, strict=True):
            shown.add_row(*map(Text, row + value))
        rest = [Text(f"… {len(seen) - room} more")] if len(seen) > room else []
        return Group(Text(headline), shown, *rest)

    def _cells(self, seen: _Seen) -> list[str]:
        state = "running" if seen.record.state == "open" else seen.record.state
        figures = [ABSENT if each is None else number(each) for each in (seen.now, seen.best)]
        return [seen.record.id[:_SHORT], state, str(seen.epoch or ABSENT), *figures, duration(seen.seconds())]

    def _values(self, record: TrialRecord) -> list[str]:
        there = record.parameters
        return [value_text(there[key], _VALUE) if key in there else ABSENT for key in self._names]

    def _place(self, seen: _Seen) -> tuple[int, float, int]:
        """Running ones first, then the best; those without a figure last."""
        best = 0.0 if seen.best is None else -sign(self._metric) * seen.best
        group = 0 if seen.record.state == "open" else 2 if seen.best is None else 1
        return group, best if group == 1 else 0.0, seen.record.number


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Characters that lines of cells need side by side."""
    widest = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widest) + _GAP * (len(widest) - 1)
