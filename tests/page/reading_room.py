"""An application over small real models, with the page: what a test of the page needs to serve."""

from pathlib import Path
from typing import Any

import small_pairs
import small_spinenet
from fastapi import FastAPI
from serving_samples import Local, fitted
from spine_run import vertebra_bundle

from mskray.bundles import save_bundle
from mskray.cohorts import Task
from mskray.ensemble import join, load, save_ensemble
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.families.vertebra_finding import Spine
from mskray.imaging.phantoms.spine import SpinePhantom, SpineSpec, spine
from mskray.imaging.spine import SPINE_TASKS, FoundVertebra
from mskray.imaging.volumes import Volume
from mskray.serving.api import build_api
from mskray.serving.pairs import PairReader
from mskray.serving.settings import Limits
from mskray.serving.spines import SpineReader
from mskray.serving.tokens import Access
from mskray.storage import locate

_DETECTOR = {
    "network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8},
    "data": {"image_size": 64},
}
_NOTE = "the bodies are those that the phantom was drawn with"
THRESHOLD = 0.4


def phantom() -> SpinePhantom:
    return spine(SpineSpec(patients=2, seed=3), 0)


class KnownBodies(SpineReader):
    """A grader of random weights for the six tasks; the bodies of the phantom are its truth, of others what is found.

    A detector that finds bodies takes minutes to train.
    """

    def __init__(self, folder: Path) -> None:
        tasks = tuple(Task(name=task, classes=tuple(classes)) for task, classes in SPINE_TASKS.items())
        save_bundle(small_spinenet.fitted(small_spinenet.recipe(tasks)), locate(folder / "grader"), "f00")
        detector = vertebra_bundle(folder / "detector", VertebraDetectorConfig.model_validate(_DETECTOR))
        super().__init__(str(folder / "grader"), detector)
        drawn = phantom()
        self._shape = drawn.volume.pixels.shape
        bodies = [FoundVertebra(each.level, each.slice, each.corners, 0.9) for each in reversed(drawn.vertebrae)]
        self._truth = Spine(tuple(bodies), (_NOTE,))

    def read(self, volume: Volume, copies: int | None = None) -> Any:
        known = volume.pixels.shape == self._shape
        return self.read_known(volume, self._truth, copies) if known else super().read(volume, copies)


def studies(folder: Path) -> str:
    """Path of an ensemble of `first` (weight 3; KNEE, WRIST) and `second` (weight 1; KNEE)."""
    members = {"first": (0, ("KNEE", "WRIST")), "second": (1, ("KNEE",))}
    for name, (seed, parts) in members.items():
        save_bundle(fitted(seed, parts), locate(folder / name), fingerprint=name)
    made = join([str(folder / name) for name in members], "knees", [3.0, 1.0])
    save_ensemble(made.model_copy(update={"threshold": THRESHOLD}), locate(folder / "studies"))
    return str(folder / "studies")


def pairs(folder: Path) -> str:
    save_bundle(small_pairs.fitted(), locate(folder / "pair"), "f00")
    save_ensemble(join([str(folder / "pair")], "changes"), locate(folder / "pairs"))
    return str(folder / "pairs")


def reading_room(folder: Path) -> FastAPI:
    """Return an application that answers everybody all three."""
    backend = Local(load(studies(folder)), PairReader(load(pairs(folder))), KnownBodies(folder))
    return build_api(backend, Limits(), Access(), store=str(folder / "store"), feedback=str(folder / "feedback"))


def studies_alone(folder: Path, limits: Limits, access: Access) -> FastAPI:
    return build_api(
        Local(load(studies(folder))), limits, access, store=str(folder / "store"), feedback=str(folder / "feedback")
    )
