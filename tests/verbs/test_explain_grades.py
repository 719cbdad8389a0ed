"""`mskray explain` of a cohort's discs: pictures, arrays and figures of each, and what is refused."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_run import untrained_bundle
from small_spinenet import fitted, recipe
from stack_cohort import PICTURES, TILT, discs, write_cohort

from mskray.bundles import save_bundle
from mskray.cohorts import Task
from mskray.errors import UserError
from mskray.storage import locate
from mskray.verbs.explain import explain


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A bundle that knows `side` and `type`, a cohort of 9 discs, the first without a label of `type`; others."""
    folder = tmp_path_factory.mktemp("grades")
    save_bundle(fitted(recipe()), locate(folder / "model"), "f00")
    stacks, labels = discs(9, seed=4)
    labels["type"][:2] = [-1, 1]
    write_cohort(folder / "cohort", {"test": (stacks, labels)})
    write_cohort(folder / "classes", {"test": (stacks, labels)}, (Task(name="type", classes=("a", "b")),))
    pictures = np.zeros((len(stacks), *PICTURES.shape), np.uint8)
    write_cohort(folder / "pictures", {"test": (pictures, labels)}, image=PICTURES, kind="radiograph")
    untrained_bundle(folder / "other", "mobilenet_v3_small")
    (folder / "file").mkdir()
    cv2.imwrite(str(folder / "file" / "a.png"), pictures[0])
    return folder


def test_each_disc_has_its_maps_their_picture_and_what_was_called(place: Path, tmp_path: Path) -> None:
    done = explain(
        str(place / "model"), str(place / "cohort"), str(tmp_path), task="type", limit=2, copies=3, target="standing"
    )
    assert (done.images, done.unreadable, done.notes) == (2, {}, [])
    found = tmp_path / "type"
    assert [each.name for each in tmp_path.iterdir()] == ["type"]
    assert sorted(each.name for each in found.iterdir()) == ["test-000", "test-001"]
    for name, label in (("test-000", None), ("test-001", "standing")):
        said = json.loads((found / name / "explanation.json").read_text())
        assert (said["image"], said["task"], said["class"], said["label"]) == (name, "type", "standing", label)
        assert list(said["probabilities"]) == list(TILT.classes)
        assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (said["slices"], said["rows"], said["columns"]) == (3, 42, 84)
        with np.load(found / name / "maps.npz", allow_pickle=False) as maps:
            assert set(maps) == set(said["methods"]) == {"hotspots", "saliency"}
            for method, told in said["methods"].items():
                assert maps[method].shape == (3, 42, 84)
                assert maps[method].dtype == np.float32
                assert maps[method][tuple(told["peak"])] == maps[method].max() == 1
                picture = cv2.imread(str(found / name / told["overlay"]))
                assert picture.shape[0] > 168  # one line of three tiles and the legend
                assert picture.shape[1] == 3 * 336 + 4 * 3
            assert not np.allclose(maps["hotspots"], maps["saliency"])


def test_with_one_copy_hotspots_are_saliency(place: Path, tmp_path: Path) -> None:
    explain(str(place / "model"), str(place / "cohort"), str(tmp_path), task="side", limit=1, copies=1)
    with np.load(tmp_path / "side" / "test-000" / "maps.npz", allow_pickle=False) as maps:
        np.testing.assert_allclose(maps["hotspots"], maps["saliency"], atol=1e-6)


def test_all_discs_and_the_class_called_unless_said_otherwise(place: Path, tmp_path: Path) -> None:
    done = explain(str(place / "model"), str(place / "cohort"), str(tmp_path), task="side", methods=["saliency"])
    assert done.images == 9
    for folder in (tmp_path / "side").iterdir():
        said = json.loads((folder / "explanation.json").read_text())
        assert said["class"] == max(said["probabilities"], key=said["probabilities"].get)
        assert sorted(each.name for each in folder.iterdir()) == ["explanation.json", "maps.npz", "saliency.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say with --task which one is explained: side, type"),
        ({"task": "tipe"}, r"--task tipe: did you mean type\? the tasks of .* are side, type"),
        ({"task": "type", "target": "flying"}, "--class flying: the classes of type are lying, standing"),
        ({"task": "type", "methods": ["grad_cam"]}, "unknown method 'grad_cam': known are hotspots, saliency"),
        ({"task": "type", "copies": 0}, "are 1 or more"),
        ({"task": "type", "limit": 0}, "are 1 or more"),
        ({"task": "type", "split": "train"}, "has no split 'train': it has test"),
        ({"task": "type", "out": "cohort/maps"}, "is where the images are"),
        ({"task": "type", "model": "other"}, "of which a spinenet bundle can be explained, and .* family classifier"),
        ({"task": "type", "source": "pictures"}, "learned from discs, .* holds radiographs"),
        ({"task": "type", "source": "classes"}, "task type: its classes are a, b"),
        ({"task": "type", "source": "file"}, "--task is for cohorts of discs, and .* is none"),
        (
            {"methods": ["hotspots"], "source": "file", "model": "other"},
            "unknown method 'hotspots': known are grad_cam",
        ),
    ],
)
def test_what_cannot_be_explained_is_one_line(place: Path, options: dict, message: str) -> None:
    chosen = {"model": "model", "source": "cohort", "out": "out", **options}
    model, source, out = (str(place / chosen.pop(name)) for name in ("model", "source", "out"))
    with pytest.raises(UserError) as caught:
        explain(model, source, out, **chosen)
    assert re.search(message, str(caught.value)), caught.value
    assert not Path(out).exists()
