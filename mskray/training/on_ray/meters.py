"""What a training worker tells the cluster's metrics: seconds by phase, and images."""

import time
from collections import Counter as Counts

from ray.util.metrics import Counter

from mskray.training.meters import Meters
from mskray.training.stopwatch import Phase

_EVERY_S = 10.0


class ClusterMeters(Meters):
    """Counters `mskray_train_seconds{phase,run,rank}` and `mskray_train_images{run,rank}`, sent every 10 s at most.

    Ray's exporter puts `ray_` before a name and `_total` behind it.
    """

    def __init__(self, run: str, rank: int) -> None:
        self._seconds = Counter(
            "mskray_train_seconds",
            "Seconds of training by phase: wait (for data), compute, communicate, report",
            tag_keys=("phase", "run", "rank"),
        )
        self._images = Counter("mskray_train_images", "Images trained on", tag_keys=("run", "rank"))
        self._tags = {"run": run, "rank": str(rank)}
        self._open: Counts[str] = Counts()
        self._seen, self._sent = 0, time.monotonic()

    def phase(self, phase: Phase, seconds: float) -> None:
        self._open[phase] += seconds  # type: ignore[assignment]  # typed for whole numbers
        if time.monotonic() - self._sent >= _EVERY_S:
            self.flush()

    def images(self, count: int) -> None:
        self._seen += count

    def flush(self) -> None:
        for phase, seconds in self._open.items():
            if seconds > 0:
                self._seconds.inc(seconds, {**self._tags, "phase": phase})
        if self._seen:
            self._images.inc(self._seen, self._tags)
        self._open.clear()
        self._seen, self._sent = 0, time.monotonic()
