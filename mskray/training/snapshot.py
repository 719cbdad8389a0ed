"""Ray Train's list of a run's checkpoints, made anew where a kill left it broken.

Ray writes `checkpoint_manager_snapshot.json` in place: killed in that moment, it leaves an empty file, with which no
training of that name begins again (`Tuner.restore` fails alike, https://github.com/ray-project/ray/issues/58179). The
checkpoints beside it are whole; the list is written again from what they hold.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from mskray.errors import UserError
from mskray.storage import Location
from mskray.training.checkpoint import FILES, POSITION, check_whole
from mskray.training.session import SCORE, UNSCORED

SNAPSHOT = "checkpoint_manager_snapshot.json"
_CHECKPOINT = "checkpoint_"


@dataclass(frozen=True)
class _Found:
    """A checkpoint: the name of its folder, and the epochs done before it, with a fraction in the middle of one."""

    name: str
    done: float
    metrics: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        return {"version": 0, "checkpoint_dir_name": self.name, "metrics": self.metrics}


def mend_snapshot(run: Location) -> None:
    """Write a run's list of checkpoints again where it cannot be read; with no whole checkpoint it is deleted.

    Args:
        run: the run's own folder.
    """
    place = run.join(SNAPSHOT)
    if not place.is_file():
        return
    try:
        place.read_json()
    except UserError:
        found = sorted(_checkpoints(run), key=lambda each: (each.done, each.name))
        if not found:
            place.delete()
            return
        latest, best = found[-1], max(found, key=lambda each: (each.metrics[SCORE], each.done))
        kept = [latest, best] if latest.metrics[SCORE] < best.metrics[SCORE] else [latest]  # in the order of scores
        place.write_json(
            {
                "ray_version": ray.__version__,
                "checkpoint_results": [each.state for each in kept],
                "checkpoint_report_indices": [found.index(each) for each in kept],
                "latest_checkpoint_result": latest.state,
                "pending_training_results": [],
                "pending_validation_specs": [],
                "current_report_index": len(found),
                "validated_checkpoint_dir_names": [],
                "timed_out_validation_checkpoint_dir_names": [],
                "failed_validation_checkpoint_dir_names": [],
            }
        )


def _checkpoints(run: Location) -> Iterator[_Found]:
    """The whole checkpoints of a run."""
    names = {entry.path.partition("/")[0] for entry in run.walk() if entry.path.startswith(_CHECKPOINT)}
    for name in names:
        folder = run.join(name)
        with tempfile.TemporaryDirectory() as place:
            try:
                for file in FILES:
                    (Path(place) / file).write_bytes(folder.join(file).read_bytes())
                check_whole(Path(place))
                position = json.loads((Path(place) / POSITION).read_text(encoding="utf-8"))
            except Exception:  # whatever a file that was cut off raises: it is none to go on from
                continue
        done = position["epoch"] + position["step"] / position["steps"]
        scored = not position["step"] and position["history"]
        yield _Found(name, done, position["history"][-1] if scored else {"epoch": done, SCORE: UNSCORED})
