"""What long work says while it runs, and how a terminal shows it.

Lower floors call a `Report` with `Progress` values; the command line passes `Display()`, tests pass a list's
append or nothing.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Progress:
    """A moment of long work.

    Args:
        stage: what is being done ("ingest", "epoch 2/4").
        done, total: how much of it, in `unit`; total 0 where it is not known, both 0 for a mere message.
        rate: units per second; 0 where it is not known.
        left_s: seconds left of the whole work; negative where it is not known.
        note: anything else, ready to print.
    """

    stage: str
    done: int = 0
    total: int = 0
    unit: str = "images"
    rate: float = 0.0
    left_s: float = -1.0
    note: str = ""

    @property
    def complete(self) -> bool:
        return self.total > 0 and self.done >= self.total

    def __str__(self) -> str:
        words = [self.stage]
        if self.total:
            words.append(f"{self.done:,}/{self.total:,} {self.unit}")
        elif self.done:
            words.append(f"{self.done:,} {self.unit}")
        if self.rate:
            words.append(f"{self.rate:,.0f} {self.unit}/s" if self.rate >= 10 else f"{self.rate:.1f} {self.unit}/s")
        if self.left_s >= 0 and not self.complete:
            words.append(f"{duration(self.left_s)} left")
        if self.note:
            words.append(self.note)
        return "  ".join(words)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report nothing."""


def duration(seconds: float) -> str:
    """Write seconds as `42 s`, `3:07 min` or `2:15 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


class Display:
    """Print progress: one line that is rewritten on a terminal, a line every few seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.2 if self._live else every_s
        self._last = float("-inf")
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        new_stage = progress.stage != self._stage
        if not (new_stage or progress.complete or now - self._last >= self._every):
            return
        if self._live:
            if new_stage and self._stage:
                self._stream.write("\n")
            self._stream.write(f"\r\x1b[2K{progress}")
        else:
            self._stream.write(f"{progress}\n")
        self._stream.flush()
        self._last, self._stage = now, progress.stage

    def end(self) -> None:
        """Leave the rewritten line as it stands."""
        if self._live and self._stage:
            self._stream.write("\n")
        self._stage = ""
