"""Where finished epochs are written beside the bundle: TensorBoard always, MLflow where MLFLOW_TRACKING_URI is set.

Both run on the driver, so that workers need neither a route to the tracking server nor its package. A run that goes
on after an interruption goes on in the same place, and an epoch is written once.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mskray.errors import UserError
from mskray.progress import Progress, Report
from mskray.storage import Location

_NOT_FIGURES = ("kind", "epoch", "epochs", "prefix", "rows_digest")


class Tracker(Protocol):
    """Hears of every finished epoch; `prefix` in the event tells the stages of a run apart."""

    def epoch(self, event: dict[str, Any]) -> None: ...

    def finish(self, tags: dict[str, str]) -> None: ...

    def abandon(self) -> None:
        """The run ended without a bundle."""
        ...


def trackers(folder: Location, experiment: str, name: str, params: dict[str, Any]) -> tuple[Tracker, ...]:
    """Return the trackers of a run.

    Args:
        folder: where TensorBoard's events go.
        experiment, name: MLflow's experiment and run.
        params: flat settings of the run.
    Raises:
        UserError: MLFLOW_TRACKING_URI is set but its client is not installed or its server does not answer.
    """
    found: list[Tracker] = [TensorBoard(folder)]
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        found.append(MLflow(uri, experiment, name, params))
    return tuple(found)


def finish(listeners: Sequence[Tracker], tags: dict[str, str], report: Report) -> None:
    """Tell every tracker that the bundle is written. One that fails is reported, never raised."""
    _tell(listeners, lambda tracker: tracker.finish(tags), report)


def abandon(listeners: Sequence[Tracker], report: Report) -> None:
    """Tell every tracker that the run ended without a bundle. One that fails is reported, never raised."""
    _tell(listeners, lambda tracker: tracker.abandon(), report)


def _tell(listeners: Sequence[Tracker], what: Callable[[Tracker], None], report: Report) -> None:
    for tracker in listeners:
        try:
            what(tracker)
        except Exception as error:  # whatever a client makes of a server that is down
            reason = " ".join(str(error).split())[:200]
            report(Progress(f"tracking failed ({type(tracker).__name__}): {reason}"))


def figures(event: dict[str, Any]) -> dict[str, float]:
    prefix = event.get("prefix", "")
    return {prefix + key: float(value) for key, value in event.items() if key not in _NOT_FIGURES}


class TensorBoard:
    """Event files, written here and copied to the run's folder after each epoch (`tensorboard --logdir …`)."""

    def __init__(self, folder: Location) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._here = tempfile.TemporaryDirectory(prefix="mskray-tensorboard-")
        self._writer = SummaryWriter(self._here.name)

    def epoch(self, event: dict[str, Any]) -> None:
        for key, value in figures(event).items():
            self._writer.add_scalar(key, value, event["epoch"])
        self._copy()

    def finish(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._writer.add_text(key, value)
        self._copy()
        self.abandon()

    def abandon(self) -> None:
        self._writer.close()
        self._here.cleanup()

    def _copy(self) -> None:
        self._writer.flush()
        for path in Path(self._here.name).iterdir():
            self._folder.join(path.name).write_bytes(path.read_bytes())


class MLflow:
    """One MLflow run a training run, found again by its name."""

    def __init__(self, uri: str, experiment: str, name: str, params: dict[str, Any]) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise UserError(
                "MLFLOW_TRACKING_URI is set but mlflow is not installed: pip install mskray[mlflow]"
            ) from None
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._client = MlflowClient(tracking_uri=uri)
        try:
            known = self._client.get_experiment_by_name(experiment)
            experiment_id = known.experiment_id if known else self._client.create_experiment(experiment)
            earlier = self._client.search_runs([experiment_id], f"attributes.run_name = '{name}'", max_results=1)
            if earlier:
                self._run = earlier[0].info.run_id
                known_figures = earlier[0].data.metrics
                self._last = {key: int(value) for key, value in known_figures.items() if key.endswith("epoch")}
                self._client.update_run(self._run, status="RUNNING")
            else:
                self._run = self._client.create_run(experiment_id, run_name=name).info.run_id
                self._last = {}
                for key, value in params.items():
                    self._client.log_param(self._run, key, value)
        except MlflowException as error:
            raise UserError(f"MLFLOW_TRACKING_URI={uri}: the tracking server does not answer ({error})") from None

    def epoch(self, event: dict[str, Any]) -> None:
        step, name = int(event["epoch"]), event.get("prefix", "") + "epoch"
        if step <= self._last.get(name, 0):
            return
        for key, value in {**figures(event), name: float(step)}.items():
            self._client.log_metric(self._run, key, value, step=step)
        self._last[name] = step

    def finish(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self._run, key, value)
        self._client.set_terminated(self._run)

    def abandon(self) -> None:
        self._client.set_terminated(self._run, status="FAILED")
