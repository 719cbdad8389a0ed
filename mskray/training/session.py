"""The loop's view of where it runs: its rank, its device, what it reports, what it goes on from.

Everything that the loop knows of Ray Train is here.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device
from torch import Tensor

from mskray.training.checkpoint import FILES
from mskray.training.run import Part

# A checkpoint taken inside an epoch has no validation figure: it is kept as the latest, never as the best.
UNSCORED = -1e30
SCORE = "score"
_UNSENT = "mskray-checkpoint-"


class Session:
    """One training worker.

    Args:
        say: sends an event (a small dict) to the driver; called on rank 0 only.
        cpus: that were reserved for it, where other trainings share its node; None where it is this training's alone.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None], cpus: float | None = None) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = get_device()
        self._say = say
        self._said = float("-inf")
        torch.set_num_threads(_threads(cpus, context.get_local_world_size()))
        _tidy()

    @contextmanager
    def restored(self, part: Part | None = None) -> Iterator[Path | None]:
        """Give the folder of the latest checkpoint of this run, at its beginning of that which its part goes on from.

        None where there is neither.
        """
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                yield Path(folder)
        elif part is not None and part.start is not None:
            with tempfile.TemporaryDirectory(prefix=f"{_UNSENT}{os.getpid()}-") as folder:
                for name in FILES:
                    (Path(folder) / name).write_bytes(part.start.join(name).read_bytes())
                yield Path(folder)
        else:
            yield None

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None], score: float | None) -> None:
        """Report metrics with a checkpoint that rank 0 writes and Ray uploads while training goes on.

        Every rank must call it at the same step.
        """
        payload = {**metrics, SCORE: UNSCORED if score is None else score}
        if self.rank != 0:
            ray.train.report(payload, checkpoint=None)
            return
        folder = Path(tempfile.mkdtemp(prefix=f"{_UNSENT}{os.getpid()}-"))
        write(folder)
        ray.train.report(
            payload,
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def due(self, every_s: float) -> bool:
        """Tell rank 0 whether its last event is at least `every_s` seconds ago; other ranks never say anything."""
        return self.rank == 0 and time.monotonic() - self._said >= every_s

    def say(self, event: dict[str, Any]) -> None:
        """Send an event to the driver, from rank 0 only."""
        if self.rank == 0:
            self._said = time.monotonic()
            self._say(event)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, on every rank, in rank order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0, on every rank."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)


def _threads(cpus: float | None, workers: int) -> int:
    """Return how many threads a worker gets; `workers` of its training are on the node.

    Alone they share all cores: the loader's CPU is idle most of the time. Beside other trainings each keeps to what was
    reserved for it: threads that spin, waiting for others on the same cores, make an epoch take several times as long.
    """
    cores = len(os.sched_getaffinity(0))
    if cpus is None:
        return max(1, cores // workers)
    here = ray.get_runtime_context().get_node_id()
    total = next((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here), 0.0)
    return max(1, min(cores, int(cores * cpus / total))) if total else 1


def _tidy() -> None:
    """Remove checkpoints that workers killed before this one left on this machine, on their way to the storage."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_UNSENT}*"):
        pid = folder.name.removeprefix(_UNSENT).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):  # not of this program, or of another user's
            pass
