"""Who hears of each interval and each image of a training: nobody, or a cluster's metrics (`on_ray.meters`)."""

from mskray.training.stopwatch import Phase


class Meters:
    """Hears, and keeps nothing."""

    def phase(self, phase: Phase, seconds: float) -> None:
        """Count an interval."""

    def images(self, count: int) -> None:
        """Count images of a step."""

    def flush(self) -> None:
        """Send what has come together."""
