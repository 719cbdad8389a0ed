"""A tiny real ensemble for the tests of the server."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mskray.ensemble import Voter

# Imports stand inside the fixtures: Ray reads its authentication mode when it is imported, and `tests/conftest.py`
# sets it only after pytest has imported this file.


@pytest.fixture(scope="session")
def ensemble_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of an ensemble of two: `first` (weight 3; KNEE, WRIST) and `second` (weight 1; KNEE)."""
    from serving_samples import fitted

    from mskray.bundles import save_bundle
    from mskray.ensemble import Calibration, join, save_ensemble
    from mskray.storage import locate

    folder: Path = tmp_path_factory.mktemp("models")
    members = {"first": (0, ("KNEE", "WRIST")), "second": (1, ("KNEE",))}
    for name, (seed, parts) in members.items():
        save_bundle(fitted(seed, parts), locate(folder / name), fingerprint=name)
    calibration = Calibration(temperature=1.5, fitted_on="held-out")
    made = join([str(folder / name) for name in members], "knees", [3.0, 1.0], calibration)
    save_ensemble(made.model_copy(update={"threshold": 0.4}), locate(folder / "ensemble"))
    return str(folder / "ensemble")


@pytest.fixture(scope="session")
def voter(ensemble_uri: str) -> "Voter":
    from mskray.ensemble import load

    return load(ensemble_uri)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Threads that wait for each other on cores shared with Ray's workers make a small batch take seconds."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pair_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a bundle that judges pairs by random words."""
    from small_pairs import fitted

    from mskray.bundles import save_bundle
    from mskray.storage import locate

    folder = tmp_path_factory.mktemp("pairs") / "words"
    save_bundle(fitted(6), locate(folder), fingerprint="words")
    return str(folder)


@pytest.fixture(scope="session")
def spine_uris(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a grader of random weights that knows `side` and `type`, and of a detector that finds nothing."""
    from small_spinenet import fitted, recipe
    from spine_run import vertebra_bundle

    from mskray.bundles import save_bundle
    from mskray.families.vertebra_detector import VertebraDetectorConfig
    from mskray.storage import locate

    folder = tmp_path_factory.mktemp("spines")
    save_bundle(fitted(recipe()), locate(folder / "grader"), "f00")
    small = {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}
    config = VertebraDetectorConfig.model_validate({"network": small, "data": {"image_size": 64}})
    vertebra_bundle(folder / "detector", config)
    return str(folder / "grader"), str(folder / "detector")
