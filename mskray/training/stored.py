"""What Ray Train's controller does for this project. No torch here: the controller would load it."""

from collections.abc import Callable
from typing import Any

from ray.train import UserCallback


class TellsWhatIsStored(UserCallback):
    """Sends an event for each epoch once its checkpoint is stored and known to Ray, so that no later stop loses it.

    Args:
        say: sends an event (a small dict) to the driver.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Pass on what rank 0 reported at an epoch's end; a checkpoint inside an epoch has no figures."""
        if "train_loss" in metrics[0]:
            self._say({"kind": "epoch", **metrics[0]})
