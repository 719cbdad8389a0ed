"""A vertebra detector's bundle of given or random weights, without a training run."""

from pathlib import Path

from torch import Tensor

from mskray.bundles import Fitted, save_bundle
from mskray.families.vertebra_detector import TASK, VertebraDetectorConfig, VertebraDetectorRecipe
from mskray.storage import locate


def vertebra_bundle(folder: Path, config: VertebraDetectorConfig, state: dict[str, Tensor] | None = None) -> str:
    """Write it and return its URI; without a state it knows nothing and finds no body."""
    entry = {"epoch": 1}
    fitted = Fitted(
        family="vertebra_detector",
        config=config.model_dump(mode="json"),
        task=TASK.name,
        classes=TASK.classes,
        kind="spine",
        body_parts=("LSPINE",),
        image={"size": config.data.image_size, "dtype": "uint8", "fit": "pad", "slices": 9},
        state=state or VertebraDetectorRecipe(config).initial_state(),
        history=[entry],
        best=entry,
        labels={"7": 1},
        cohort={"uri": "s3://bucket/cohort", "content_hash": "ab" * 32},
    )
    save_bundle(fitted, locate(folder), "f00")
    return str(folder)
