"""Who drives the loop: Ray Train on a cluster (`on_ray.driver`), or this process itself (`local`, `on_ray.trial`)."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from mskray.errors import UserError
from mskray.training.news import Say
from mskray.training.readers import Readers
from mskray.training.run import Resources, Run

if TYPE_CHECKING:
    from torch import Tensor

    from mskray.training.assignment import Assignment


class Driver(Protocol):
    """Has one assignment carried out."""

    @property
    def readers(self) -> Readers: ...

    def check(self, resources: Resources) -> None:
        """Raise UserError where such a training has no room."""
        ...

    def keep(self, weights: "dict[str, Tensor]") -> Any:
        """Keep a network's first state for `train`."""
        ...

    def listening(self, run: Run, unit: str) -> AbstractContextManager[Say]:
        """Give what sends events of the training to the run's report and trackers, until the block ends."""
        ...

    def train(self, work: "Assignment", weights: Any, run: Run) -> list[dict[str, Any]]:
        """Train to the end, from the run's last checkpoint if it has one; return the history.

        Raises:
            UserError: the training diverged, or could not go on.
        """
        ...

    def close(self) -> None:
        """Start nothing more."""
        ...


def driver_of(run: Run) -> Driver:
    """Return who drives a run. Here alone is it decided whether Ray is imported."""
    if run.local and run.shared is not None:
        from mskray.training.on_ray.trial import InTrial

        return InTrial()
    if run.local:
        from mskray.training.local import Local

        return Local()
    from mskray.training.on_ray.driver import OnRay

    return OnRay()


def stopped(kind: type[UserError], reason: BaseException, text: str) -> UserError:
    """What a training that was stopped is told as."""
    return kind(
        f"training stopped ({type(reason).__name__}: {text[:300]}): the same command goes on from the last checkpoint"
    )
