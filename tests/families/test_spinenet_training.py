"""SpineNet end to end: discs with missing labels are learned from, and every task of a held-out split is predicted."""

from pathlib import Path

import numpy as np
import pytest
from small_run import run
from stack_cohort import SIDE, TILT, discs, write_cohort

from mskray.bundles import load_bundle
from mskray.ensemble import describe
from mskray.errors import UserError
from mskray.prediction.batch import Predicting
from mskray.prediction.tasks import predict_tasks
from mskray.storage import locate


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_two_tasks_are_learned_at_once(tmp_path: Path) -> None:
    splits = {"train": discs(96, seed=0), "validation": discs(32, seed=1), "test": discs(32, seed=2)}
    cohort = write_cohort(tmp_path / "cohort", splits)
    still = {"rotation": 5, "shift_x": 4, "shift_y": 4, "shift_slices": 1, "slice_flip": 0.5}
    bundle = run(
        {
            "family": "spinenet",
            "cohort": str(cohort.location),
            "out": str(locate(tmp_path / "bundle")),
            "data": {"image_size": 84, "slices": 3, "batch_size": 16, "shuffle_window": 128},
            "network": {"width": 0.1, "dropout": 0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3},
            "augment": still,
            "loop": {"epochs": 6},
            "predict": {"augment": False},
        }
    )
    assert bundle.tasks == {"side": SIDE.classes, "type": TILT.classes}
    assert bundle.config["tasks"]["names"] == ["side", "type"]
    for task, known in splits["train"][1].items():
        counted = sum(count for name, count in bundle.labels.items() if name.startswith(f"{task}/"))
        assert counted == int((known >= 0).sum())
    assert bundle.best["val_side_balanced_accuracy"] > 0.6, bundle.history
    assert bundle.best["val_type_balanced_accuracy"] > 0.75, bundle.history
    mean = np.mean([bundle.best[f"val_{task}_balanced_accuracy"] for task in ("side", "type")])
    assert bundle.best["val_balanced_accuracy"] == pytest.approx(mean)
    means = load_bundle(bundle_place := str(tmp_path / "bundle"))[1].state["mean"].flatten().numpy()
    used = splits["train"][0][(np.stack(list(splits["train"][1].values())) >= 0).any(axis=0)]
    np.testing.assert_allclose(means, used[:, 1:4, 15:57, 18:102].mean(axis=(0, 2, 3)) / 255, rtol=1e-5)

    table = predict_tasks(bundle_place, cohort, ["test"])
    identity = ["instance_id", "study_id", "patient_id", "split"]
    assert table.column_names == [
        *identity,
        *("label_side", *(f"side:prob_{name}" for name in SIDE.classes)),
        *("label_type", *(f"type:prob_{name}" for name in TILT.classes)),
    ]
    assert table["instance_id"].to_pylist() == [f"test-{number:03}" for number in range(32)]
    for task, known in splits["test"][1].items():
        assert [-1 if each is None else each for each in table[f"label_{task}"].to_pylist()] == known.tolist()
    said = np.stack([table[f"type:prob_{name}"].to_numpy() for name in TILT.classes], axis=1)
    known = splits["test"][1]["type"]
    assert (said.argmax(axis=1) == known)[known >= 0].mean() > 0.75

    with pytest.raises(UserError, match="reads cohorts of the kind disc, no files"):
        Predicting(bundle_place, describe(bundle_place)).listed(locate(tmp_path))
