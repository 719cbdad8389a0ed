"""The flag detector: what it refuses, that it learns to find boxes, that its boxes are those of the given image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import run

from mskray import ensemble
from mskray.bundles import Fitted
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.schema import ABNORMALITY
from mskray.errors import UserError
from mskray.families import Images, family
from mskray.families.flag_detector import TASK, FlagDetectorConfig, FlagDetectorRecipe, targets
from mskray.families.flag_removal import FAMILY, KINDS, FlagPredictor, Found, load_flag_detector
from mskray.imaging.inputs import InputFormat
from mskray.models.detector import Detector, load_detector
from mskray.prediction.batch import Predicting
from mskray.training.box_samples import BoxSamples
from mskray.training.recipe import to_batch
from mskray.verbs.detection import evaluate_detector, is_detector
from mskray.verbs.ensemble import make_ensemble
from mskray.verbs.remove_flags import remove_flags

SMALL = {
    "backbone": "mobilenet_v3_small",
    "weights": "none",
    "channels": 32,
    "anchor": 12,
    "proposals": 50,
    "regions": 16,
}


def config(method: str = "faster_rcnn", **network) -> FlagDetectorConfig:
    return FlagDetectorConfig.model_validate(
        {"network": {**SMALL, "method": method, **network}, "data": {"image_size": 64, "batch_size": 8}}
    )


def letters(count: int, masks: bool = False) -> dict[str, np.ndarray]:
    """Samples of noise; every image but each fourth shows a bright block, its flag."""
    rng = np.random.default_rng(0)
    images = rng.integers(20, 60, (count, 64, 64), dtype=np.uint8)
    findings = np.empty(count, object)
    for number, image in enumerate(images):
        findings[number] = []
        if number % 4:
            x, y = rng.integers(2, 48, 2).tolist()
            image[y : y + 12, x : x + 12] = 240
            findings[number] = [{"kind": "flag", "x": x, "y": y, "w": 12, "h": 12}]
    return BoxSamples(KINDS, masks).load({"image": images, "findings": findings}, InputFormat(64))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"augment": {"flip": 0.5}}, "augment.flip"),
        ({"augment": {"rotation": 20}}, "augment.rotation"),
        ({"loop": {"class_weights": "inverse_frequency"}}, "loop.class_weights"),
        ({"loop": {"label_smoothing": 0.1}}, "loop.label_smoothing"),
        ({"network": {"backbone": "vgg16"}}, "network.backbone"),
    ],
)
def test_what_makes_no_sense_for_boxes_is_refused(data: dict, message: str) -> None:
    from mskray.config import validate

    with pytest.raises(UserError, match=message):
        validate(FlagDetectorConfig, data, "test")


def test_a_cohort_without_tasks_will_do_and_one_without_flags_will_not(tiny_cohort) -> None:
    chosen, cohort = family("flag_detector"), tiny_cohort((), [{}, {}])
    assert chosen.task(cohort, "") == TASK
    with pytest.raises(UserError, match="learns from boxes, not from the task 'abnormality'"):
        chosen.task(cohort, ABNORMALITY.name)
    with pytest.raises(UserError, match="has no split 'train'"):
        chosen.check(cohort, config(), TASK)
    split = cohort.manifest.counts.splits["test"]
    shards = tuple(shard.model_copy(update={"split": "train"}) for shard in cohort.manifest.shards)
    counts = cohort.manifest.counts.model_copy(update={"splits": {"train": split, "validation": split}})
    renamed = Cohort(cohort.location, cohort.manifest.model_copy(update={"shards": shards, "counts": counts}))
    with pytest.raises(UserError, match="split train, has no box of a flag"):
        chosen.check(renamed, config(), TASK)


@pytest.mark.parametrize("method", ["faster_rcnn", "mask_rcnn"])
def test_targets_are_the_boxes_without_padding(method: str) -> None:
    batch = to_batch(letters(6, method == "mask_rcnn"), torch.device("cpu"))
    made = targets(batch)
    assert [len(each["boxes"]) for each in made] == [0, 1, 1, 1, 0, 1]
    assert made[1]["labels"].tolist() == [1]
    if method == "mask_rcnn":
        assert made[0]["masks"].shape == (0, 64, 64)
        x0, y0, x1, y1 = (int(end) for end in made[1]["boxes"][0])
        assert made[1]["masks"][0, y0:y1, x0:x1].all()


def test_a_flag_that_leaves_the_image_is_no_target() -> None:
    torch.manual_seed(0)
    recipe = FlagDetectorRecipe(FlagDetectorConfig.model_validate({"augment": {"translation": 0.5}}))
    batch = to_batch(letters(40), torch.device("cpu"))
    moved = recipe.augment(batch)
    before, after = (batch["kinds"] > 0).sum(), (moved["kinds"] > 0).sum()
    assert 0 < after < before
    inside = moved["boxes"][moved["kinds"] > 0]
    assert inside.min() >= 0
    assert inside.max() <= 64


@pytest.mark.parametrize(("implant", "left"), [(0.4, 1), (0.95, 0)])
def test_a_thing_of_both_kinds_is_what_the_detector_is_surer_of(implant: float, left: int) -> None:
    boxes = np.array([[10, 10, 20, 20], [11, 10, 20, 20], [60, 60, 9, 9]], float)
    found = Found(boxes, np.array(["flag", "implant", "implant"]), np.array([0.9, implant, 0.3]))
    flags, implants = found.of("flag", 0.5), found.of("implant", 0.3)
    assert len(flags.surer_than(implants).boxes) == left
    assert len(implants.surer_than(flags).boxes) == 2 - left


class Finds(torch.nn.Module):
    """A detector that finds one flag, 16 to 32 of 64 px each way, and, if asked, that its pixels are the left half."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = {"boxes": torch.tensor([[16.0, 16, 32, 32]]), "labels": torch.tensor([1])}
        found["scores"] = torch.tensor([0.9])
        if self.masks:
            found["masks"] = torch.zeros(1, 1, 64, 64)
            found["masks"][:, :, 16:32, 16:24] = 1
        return [found for _ in images]


@pytest.mark.parametrize("masks", [True, False])
def test_pixels_that_the_detector_outlined_are_removed_from_an_image_of_any_shape(masks: bool) -> None:
    recipe, image = FlagDetectorRecipe(config("mask_rcnn")), {"size": 32, "dtype": "uint8", "fit": "pad"}
    state = recipe.build().state_dict()
    fitted = Fitted(FAMILY, {}, TASK.name, TASK.classes, "radiograph", (), image, state, [], {}, {}, {})
    predictor = FlagPredictor(recipe, fitted, recipe.config.removal)
    predictor.network = Finds(masks)
    pixels = np.full((80, 160), 60, np.uint8)  # on the canvas: 16 rows from row 8 on, 5 px of the image to one
    pixels[4:36, 42:58] = pixels[4:36, 64:78] = 200
    (cleaned,) = predictor.clean([pixels])
    np.testing.assert_allclose(cleaned.flags, [[40, 0, 40, 40]])
    assert cleaned.changed[4:36, 42:58].all()
    assert cleaned.changed[4:36, 66:76].any() != masks


@pytest.mark.long
@pytest.mark.slow
def test_it_learns_to_find_a_block() -> None:
    """A few steps on 32 images, from scratch: the surest flag is the block, and without a block there is none.

    With masks, because whatever learns boxes alone is part of that.
    """
    torch.manual_seed(0)
    samples = letters(32, masks=True)
    recipe = FlagDetectorRecipe(config("mask_rcnn"))
    network = recipe.build()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(60):
        rows = np.arange(8) + 8 * (step % 4)
        loss = recipe.loss(
            network, to_batch({key: value[rows] for key, value in samples.items()}, torch.device("cpu")), None
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        answer = recipe.answer(network, to_batch({"image": samples["image"]}, torch.device("cpu")))
    shown = samples["label"] == 1
    scores = answer.probabilities[:, 1].numpy()
    assert (scores[shown] > 0.5).mean() >= 0.9
    assert scores[~shown].max() < 0.5
    x0, y0, x1, y1 = samples["boxes"][shown, 0].T
    true = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    assert np.median(np.abs(answer.boxes["flag"].numpy()[shown] - true)) < 2
    assert (answer.boxes["implant"].numpy() == 0).mean() > 0.5


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "mobilenet_v3_small"])
def test_a_classifiers_weights_fill_the_backbone_and_its_batchnorm_stays(backbone: str) -> None:
    import torchvision

    given = torchvision.models.get_model(backbone, weights=None).state_dict()
    given = {name: torch.full_like(value, 0.5) if value.is_floating_point() else value for name, value in given.items()}
    recipe = FlagDetectorRecipe(config(backbone=backbone, weights="somewhere.safetensors"))
    network = recipe.build()
    load_detector(network, given, "somewhere.safetensors")
    body = network.network.backbone.body.state_dict()
    assert all((value == 0.5).all() for value in body.values())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    again = recipe.build()
    load_detector(again, network.state_dict(), "a detector")
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_weights_of_another_backbone_are_refused() -> None:
    network: Detector = FlagDetectorRecipe(config()).build()
    with pytest.raises(UserError, match=r"do not fit the detector's backbone: .* first backbone.body"):
        load_detector(network, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "x.pth")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_boxes_to_a_cohort_and_an_ensemble_without_flags(
    phantom_cohort: Cohort, trained, tiny_cohort, tmp_path: Path
) -> None:
    """Trained a little on phantoms, evaluated, used at ingest and before prediction; interrupted, it goes on."""
    bundle = str(tmp_path / "flags")
    job = {
        "family": "flag_detector",
        "cohort": str(phantom_cohort.location),
        "out": bundle,
        "network": SMALL,
        "data": {"image_size": 64, "batch_size": 8, "shuffle_window": 64},
        "removal": {"flag_score": 0.06},
        "optimizer": {"learning_rate": 2e-3},
        "loop": {"epochs": 2},
    }
    run(job)
    described, detector = load_flag_detector(bundle)
    assert (described.task, described.classes) == (TASK.name, TASK.classes)

    assert is_detector(bundle)
    figures, folder = evaluate_detector(bundle, str(phantom_cohort.location), "test", resamples=100)
    assert [each.kind for each in figures] == list(KINDS)
    assert figures[0].images == phantom_cohort.count("test")
    assert folder.join("detection.json").is_file()
    with pytest.raises(UserError, match="has no boxes of flag or implant to compare with"):
        evaluate_detector(bundle, str(tiny_cohort((), [{}]).location), "test")

    out = str(tmp_path / "plain")
    done = remove_flags(bundle, str(phantom_cohort.location), out)
    made = open_cohort(out)
    made.verify()
    assert done.counts["images"] == phantom_cohort.manifest.counts.images
    assert made.manifest.derived_from.bundle_hash == described.hash
    assert made.manifest.derived_from.content_hash == phantom_cohort.content_hash
    assert made.manifest.counts == phantom_cohort.manifest.counts
    same = ["instance_id", "study_id", "patient_id", "label_abnormality", "view"]
    for split in phantom_cohort.splits:
        assert made.metadata(split, same) == phantom_cohort.metadata(split, same)
    shard = phantom_cohort.shards("test")[0]
    given = phantom_cohort.read_shard(shard)
    stored = made.read_shard(made.shards("test")[0])
    expected = np.stack([each.pixels for each in detector.clean(list(given["image"]))])
    assert (stored["image"] == expected).all()
    assert (stored["mask"] == given["mask"]).all()
    kept = [sum(each["kind"] != "flag" for each in found) for found in given["findings"]]
    assert [sum(each["kind"] != "flag" for each in found) for found in stored["findings"]] == kept

    made.location.join("cohort.json").delete()
    made.location.join(made.manifest.shards[0].path).delete()
    again = remove_flags(bundle, str(phantom_cohort.location), out)
    assert (again.written, again.kept) == (1, len(made.manifest.shards) - 1)
    assert (again.counts, again.cohort.content_hash) == (done.counts, made.content_hash)
    with pytest.raises(UserError, match="is the cohort itself"):
        remove_flags(bundle, str(phantom_cohort.location), str(phantom_cohort.location))
    with pytest.raises(UserError, match="flags are removed by a flag_detector"):
        remove_flags(str(trained.folder), str(phantom_cohort.location), str(tmp_path / "x"))

    make_ensemble([str(trained.folder)], str(tmp_path / "ensemble"), remove_flags=bundle)
    voter = ensemble.load(str(tmp_path / "ensemble"))
    plain = ensemble.load(str(trained.folder))
    assert done.counts["changed"] > 0
    np.testing.assert_allclose(
        voter(Images(list(given["image"]))).probabilities, plain(Images(list(stored["image"]))).probabilities, atol=1e-6
    )
    predicted = Predicting(str(tmp_path / "ensemble"), ensemble.describe(str(tmp_path / "ensemble")))
    assert len(predicted.cohort(phantom_cohort, ["test"])) == phantom_cohort.count("test")
    with pytest.raises(UserError, match="flags are removed by a flag_detector"):
        make_ensemble([str(trained.folder)], str(tmp_path / "no"), remove_flags=str(trained.folder))
