"""`mskray explain` on files: what it writes, in whose pixels, and what it refuses before or goes past."""

import io
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_run import untrained_bundle

from mskray import ensemble
from mskray.ensemble import join, save_ensemble
from mskray.errors import UserError
from mskray.explain.methods import METHODS
from mskray.explaining import Explaining
from mskray.families import Images, Prediction
from mskray.families.torch_predictor import TorchPredictor
from mskray.storage import locate
from mskray.verbs.explain import explain

SIZE = 96
bundle = partial(untrained_bundle, size=SIZE)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two radiographs, one of them below a folder, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "left").mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), rng.integers(0, 255, (120, 60), np.uint8))
    cv2.imwrite(str(folder / "left" / "b.tiff"), rng.integers(0, 65535, (700, 1400), np.uint16))
    (folder / "notes.txt").write_text("no radiograph")
    return folder


def test_each_image_of_a_folder_has_overlays_maps_and_boxes(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "out"
    done = explain(bundle(tmp_path / "model"), str(pictures), str(out))
    assert (done.images, done.notes) == (2, [])
    assert list(done.unreadable) == ["notes.txt"]
    assert "not PNG, JPEG, TIFF or DICOM" in done.unreadable["notes.txt"]
    for name, rows, columns in (("a.png", 120, 60), ("left/b.tiff", 700, 1400)):
        said = json.loads((out / name / "explanation.json").read_text())
        assert (said["image"], said["rows"], said["columns"]) == (name, rows, columns)
        assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        called = "abnormal" if said["probabilities"]["abnormal"] >= said["threshold"] else "normal"
        assert said["class"] == called
        (member,) = said["members"]
        assert member["hash"] == ensemble.describe(str(tmp_path / "model")).members[0].hash
        with np.load(out / name / "maps.npz", allow_pickle=False) as maps:
            assert set(maps) == set(METHODS)
            assert all(maps[method].shape == (SIZE, SIZE) for method in METHODS)
        for method in METHODS:
            x, y, w, h = member["methods"][method]["box"]
            assert 0 <= x <= x + w <= columns + 0.01
            assert 0 <= y <= y + h <= rows + 0.01
            overlay = cv2.imread(str(out / name / member["methods"][method]["overlay"]))
            assert overlay.shape[1] == round(columns * np.clip(max(rows, columns), 512, 1024) / max(rows, columns))
    assert not (out / "notes.txt").exists()


def test_boxes_and_overlays_lie_where_the_evidence_is_in_the_image(tmp_path: Path, monkeypatch) -> None:
    """A family whose box and map are known on the canvas: 100 × 50 px on a canvas of 96 begin at column 24."""

    def known(self, images: Images) -> Prediction:
        n = len(images)
        return Prediction(
            np.tile(np.float32([0.2, 0.8]), (n, 1)), boxes={"key_area": np.tile([24.0, 48, 24, 90], (n, 1))}
        )

    def bright(name, network, images, target, size):
        maps = np.zeros((len(images), size, size), np.float32)
        maps[:, 0:24, 48:72] = 1
        return maps

    monkeypatch.setattr(TorchPredictor, "__call__", known)
    monkeypatch.setattr("mskray.families.torch_predictor.evidence", bright)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 50), 90, np.uint8))
    explain(bundle(tmp_path / "model"), str(tmp_path / "a.png"), str(tmp_path / "out"), methods=["saliency"])
    said = json.loads((tmp_path / "out" / "a.png" / "explanation.json").read_text())
    (member,) = said["members"]
    assert said["class"] == "abnormal"
    assert member["methods"]["saliency"]["box"] == pytest.approx([25, 0, 25, 25])
    assert member["boxes"]["key_area"] == pytest.approx([0, 50, 25, 50])  # what lies below the image is cut off
    overlay = cv2.imread(str(tmp_path / "out" / "a.png" / "saliency.png"))[:512].astype(int)
    coloured = np.ptp(overlay, axis=2) > 60
    assert coloured[10:110, 140:240].all()
    assert not coloured[:110, :120].any()
    assert not coloured[140:250].any()


def test_a_box_that_was_not_found_is_not_told(tmp_path: Path, monkeypatch) -> None:
    def known(self, images: Images) -> Prediction:
        boxes = {"none": np.zeros((1, 4)), "beyond": np.array([[0.0, 0, 20, 90]]), "seen": np.array([[30.0, 9, 9, 9]])}
        return Prediction(np.float32([[0.2, 0.8]]), boxes=boxes)

    monkeypatch.setattr(TorchPredictor, "__call__", known)
    monkeypatch.setattr(
        "mskray.families.torch_predictor.evidence",
        lambda name, network, images, target, size: np.zeros((len(images), size, size), np.float32),
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 50), 90, np.uint8))  # on the canvas from column 24 to 72
    explain(bundle(tmp_path / "model"), str(tmp_path / "a.png"), str(tmp_path / "out"), methods=["saliency"])
    (member,) = json.loads((tmp_path / "out" / "a.png" / "explanation.json").read_text())["members"]
    assert list(member["boxes"]) == ["seen"]
    assert list(member["methods"]["saliency"]) == ["overlay"]


def test_every_member_of_an_ensemble_is_explained_for_one_class(tmp_path: Path, pictures: Path) -> None:
    uris = [bundle(tmp_path / "one"), bundle(tmp_path / "two", "mobilenet_v3_small", seed=1)]
    save_ensemble(join(uris, "both"), locate(tmp_path / "both"))
    explain(
        str(tmp_path / "both"), str(pictures / "a.png"), str(tmp_path / "out"), methods=["grad_cam"], target="abnormal"
    )
    said = json.loads((tmp_path / "out" / "a.png" / "explanation.json").read_text())
    assert said["class"] == "abnormal"
    assert [member["name"] for member in said["members"]] == ["one", "two"]
    mean = np.mean([member["probabilities"]["abnormal"] for member in said["members"]])
    assert said["probabilities"]["abnormal"] == pytest.approx(mean, abs=1e-5)
    with np.load(tmp_path / "out" / "a.png" / "maps.npz", allow_pickle=False) as maps:
        assert set(maps) == {"one/grad_cam", "two/grad_cam"}
    assert (tmp_path / "out" / "a.png" / "two-grad_cam.png").stat().st_size > 1000


def test_the_map_is_that_of_the_class_asked_for(tmp_path: Path, pictures: Path) -> None:
    uri = bundle(tmp_path / "model")
    maps = {}
    for name in ("normal", "abnormal"):
        explain(uri, str(pictures / "a.png"), str(tmp_path / name), methods=["grad_cam"], target=name)
        with np.load(io.BytesIO((tmp_path / name / "a.png" / "maps.npz").read_bytes()), allow_pickle=False) as each:
            maps[name] = each["grad_cam"]
    assert np.abs(maps["normal"] - maps["abnormal"]).max() > 0.2 * np.abs(maps["normal"]).max()


def test_a_method_that_the_network_does_not_allow_is_left_out_or_refused(tmp_path: Path, pictures: Path) -> None:
    uri = bundle(tmp_path / "small", image_size=32)  # the last map of a resnet18 is one cell there
    done = explain(uri, str(pictures / "a.png"), str(tmp_path / "out"))
    assert [note.split(":")[:2] for note in done.notes] == [["small", " grad_cam"]]
    assert sorted(path.name for path in (tmp_path / "out" / "a.png").glob("*.png")) == [
        "guided_backprop.png",
        "saliency.png",
    ]
    with pytest.raises(UserError, match="the network's last map is 1 × 1"):
        explain(uri, str(pictures / "a.png"), str(tmp_path / "strict"), methods=["grad_cam"])
    assert not (tmp_path / "strict").exists()


def test_a_family_without_gradients_is_told(tmp_path: Path) -> None:
    voter = ensemble.load(bundle(tmp_path / "model"))
    voter.predictors = (lambda images: Prediction(torch.full((len(images), 2), 0.5).numpy()),)
    explaining = Explaining(voter, ["saliency"])
    assert not explaining.possible
    assert "family classifier has no gradients to look into" in str(explaining.refusal())


@pytest.mark.parametrize(
    ("source", "out", "options", "message"),
    [
        ("pictures", "out", {"methods": ["lime"]}, "unknown method 'lime': known are grad_cam"),
        ("pictures", "out", {"target": "broken"}, "--class broken: the model's classes are normal, abnormal"),
        ("nowhere", "out", {}, "nowhere"),
        ("pictures", "pictures/out", {}, "is where the images are"),
        ("pictures", "pictures", {}, "is where the images are"),
        ("pictures/notes.txt", "pictures", {}, "is where the images are"),
        ("pictures/notes.txt", "out", {}, "none of the 1 files .* can be read, first notes.txt: not PNG"),
        ("empty", "out", {}, "holds no files"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, pictures: Path, source: str, out: str, options: dict, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    uri = bundle(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        explain(uri, str(tmp_path / source), str(tmp_path / out), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
