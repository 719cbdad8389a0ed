"""Phantoms: planned and drawn as promised, the same every time, and true to their masks and boxes.

.venv/bin/pytest tests/imaging/test_phantoms.py
"""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mskray.errors import UserError
from mskray.imaging.phantoms import (
    BODY_PARTS,
    KINDS,
    PhantomImage,
    PhantomSpec,
    render,
    studies,
    study,
    study_count,
    write_dataset,
)
from mskray.imaging.phantoms.flags import letter_of
from mskray.imaging.phantoms.plan import FLAG, stream
from mskray.imaging.phantoms.radiograph import scene_of

SPEC = PhantomSpec(patients=40, seed=7, image_size=128, flag_fraction=1.0)


def drawn(spec: PhantomSpec, most: int = 40) -> list[PhantomImage]:
    """The images of the first studies, about `most` of them."""
    images: list[PhantomImage] = []
    for planned in studies(spec):
        images += [render(spec, planned.index, view) for view in range(len(planned.views))]
        if len(images) >= most:
            break
    return images


def abnormal(image: PhantomImage) -> list:
    return [finding for finding in image.findings if finding.kind != "flag"]


# Plan


@pytest.mark.parametrize(("patients", "count"), [(1, 1), (3, 3), (4, 5), (5, 6), (8, 10), (100, 125)])
def test_three_patients_in_four_have_one_study_the_fourth_two(patients: int, count: int) -> None:
    spec = PhantomSpec(patients=patients, seed=3)
    planned = list(studies(spec))
    assert study_count(spec) == len(planned) == count
    assert {item.patient for item in planned} == set(range(patients))
    assert max(Counter(item.patient for item in planned).values()) <= 2
    assert len({item.study_id for item in planned}) == count
    assert [item.number for item in planned] == [
        sum(other.patient == item.patient for other in planned[: i + 1]) for i, item in enumerate(planned)
    ]


def test_a_study_is_found_by_its_index_alone() -> None:
    assert [study(SPEC, index) for index in range(study_count(SPEC))] == list(studies(SPEC))
    assert study(replace(SPEC, patients=10_000_000), 12_000_000).index == 12_000_000


@pytest.mark.parametrize("fraction", [0.0, 0.13, 0.4, 0.5, 1.0])
def test_class_balance_holds_over_any_stretch(fraction: float) -> None:
    labels = [item.label for item in studies(PhantomSpec(patients=160, seed=1, abnormal_fraction=fraction))]
    for size in (50, 100, 200):
        assert abs(sum(labels[:size]) - fraction * size) <= 1


@pytest.mark.parametrize("parts", [BODY_PARTS, ("WRIST",), ("HAND", "ELBOW")])
def test_parts_are_equally_frequent(parts: tuple[str, ...]) -> None:
    counts = Counter(item.body_part for item in studies(PhantomSpec(patients=112, parts=parts)))
    assert set(counts) == set(parts)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_sides_views_and_labels_are_independent() -> None:
    planned = list(studies(PhantomSpec(patients=1600, seed=5)))
    labels = np.array([item.label for item in planned])
    for trait in (
        [item.laterality == "L" for item in planned],
        [len(item.views) == 3 for item in planned],
        [item.body_part == "HAND" for item in planned],
        [item.number == 2 for item in planned],
    ):
        assert abs(np.corrcoef(labels, trait)[0, 1]) < 0.07
    assert {len(item.views) for item in planned} == {1, 2, 3}
    assert all(len(set(item.views)) == len(item.views) for item in planned)
    assert {item.views[0] for item in planned if item.body_part == "WRIST"} == {"PA"}


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("patients", 0, "from 1 to"),
        ("patients", 2.5, "from 1 to"),
        ("seed", -1, "from 0 to"),
        ("image_size", 63, "from 64 to 2000"),
        ("image_size", 2001, "from 64 to 2000"),
        ("bits", 12, "8 and 16"),
        ("abnormal_fraction", 1.1, "from 0.0 to 1.0"),
        ("abnormal_fraction", float("nan"), "from 0.0 to 1.0"),
        ("flag_fraction", -0.1, "from 0.0 to 1.0"),
        ("flag_bias", 0.4, "from 0.5 to 1.0"),
        ("lesion_scale", 0.5, "the smaller first"),
        ("lesion_scale", (0.9, 0.2), "the smaller first"),
        ("lesion_scale", (0.0, 1.0), "from 0.1 to 1.0"),
        ("kinds", (), "fracture, implant, lesion"),
        ("kinds", ("cyst",), "fracture, implant, lesion"),
        ("parts", ("KNEE",), "ELBOW"),
        ("parts", ("HAND", "HAND"), "each once"),
        ("parts", "HAND", "ELBOW"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(option: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError, match=allowed) as raised:
        PhantomSpec(**{"patients": 4, option: value})  # type: ignore[arg-type]
    assert f"{option}={value!r}" in str(raised.value)


@pytest.mark.parametrize(("study_index", "view_index"), [(-1, 0), (50, 0), (0, 3), (0, -1)])
def test_no_such_image(study_index: int, view_index: int) -> None:
    with pytest.raises(UserError, match="0 to"):
        render(SPEC, study_index, view_index)


# Pixels


def test_same_spec_same_bytes_in_any_order() -> None:
    indices = [(item.index, view) for item in list(studies(SPEC))[:8] for view in range(len(item.views))]
    forth = {place: render(SPEC, *place) for place in indices}
    back = {place: render(SPEC, *place) for place in reversed(indices)}
    for place, image in forth.items():
        assert image.pixels.tobytes() == back[place].pixels.tobytes()
        assert image.mask.tobytes() == back[place].mask.tobytes()
        assert [f.box for f in image.findings] == [f.box for f in back[place].findings]
    assert len({image.pixels.tobytes() for image in forth.values()}) == len(forth)


def test_another_seed_is_another_image() -> None:
    one, other = render(SPEC, 0, 0), render(replace(SPEC, seed=8), 0, 0)
    assert one.pixels.tobytes() != other.pixels.tobytes()


@pytest.mark.parametrize("size", [64, 129, 320, 700])
def test_the_long_side_is_the_size_asked_for(size: int) -> None:
    for image in drawn(replace(SPEC, image_size=size), 4):
        assert max(image.pixels.shape) == size
        assert min(image.pixels.shape) >= round(0.72 * size)
        assert image.mask.shape == image.pixels.shape


def test_size_changes_the_sampling_not_the_anatomy() -> None:
    small, large = drawn(SPEC, 8), drawn(replace(SPEC, image_size=512), 8)
    for one, other in zip(small, large, strict=True):
        shrunk = cv2.resize(other.pixels, one.pixels.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(shrunk.ravel(), one.pixels.ravel())[0, 1] > 0.95
        assert [f.kind for f in one.findings] == [f.kind for f in other.findings]
        assert one.pixel_spacing_mm[0] == pytest.approx(4 * other.pixel_spacing_mm[0], rel=0.02)


@pytest.mark.parametrize(("bits", "dtype", "levels"), [(8, np.uint8, 100), (16, np.uint16, 2000)])
def test_bits(bits: int, dtype: type, levels: int) -> None:
    for image in drawn(replace(SPEC, bits=bits), 4):
        assert image.pixels.dtype == dtype
        assert len(np.unique(image.pixels)) > levels * 0.5
        assert image.pixels.max() > 0.6 * np.iinfo(dtype).max


@pytest.mark.parametrize("part", BODY_PARTS)
def test_every_part_fills_its_image_with_bone_and_soft_tissue(part: str) -> None:
    spec = PhantomSpec(patients=8, seed=2, image_size=128, parts=(part,))
    for planned in studies(spec):
        for view in range(len(planned.views)):
            scene = scene_of(spec, planned.index, view)
            tissue = scene.layers.anatomy > 0.1
            assert 0.04 < scene.layers.bone.mean() < 0.75
            assert tissue.mean() > scene.layers.bone.mean()
            assert tissue[scene.layers.bone].mean() > 0.97


# Truth


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_the_tight_bounds_of_masks(kind: str) -> None:
    spec = replace(SPEC, kinds=(kind,), abnormal_fraction=1.0)
    for image in drawn(spec):
        union = np.zeros_like(image.mask)
        for finding in image.findings:
            x, y, w, h = finding.box
            assert finding.kind in (kind, "flag")
            assert finding.mask.shape == (h, w)
            assert finding.mask[0].any()
            assert finding.mask[-1].any()
            assert finding.mask[:, 0].any()
            assert finding.mask[:, -1].any()
            assert x >= 0
            assert y >= 0
            assert x + w <= image.pixels.shape[1]
            assert y + h <= image.pixels.shape[0]
            if finding.kind != "flag":
                union[y : y + h, x : x + w] |= finding.mask
        np.testing.assert_array_equal(union, image.mask)


def test_a_normal_study_shows_nothing_abnormal_and_an_abnormal_one_does_in_most_views() -> None:
    images = drawn(replace(SPEC, patients=60), 120)
    for image in images:
        assert image.label == image.study.label
        if not image.label:
            assert not abnormal(image)
            assert not image.mask.any()
        elif image.view_index == 0:
            assert abnormal(image)
    shown = [bool(abnormal(image)) for image in images if image.label]
    assert np.mean(shown) > 0.9


@pytest.mark.parametrize(("kind", "least"), [("lesion", 3.0), ("implant", 8.0), ("fracture", 2.0)])
def test_masks_sit_where_the_image_differs_from_its_normal_twin(kind: str, least: float) -> None:
    """The same seed without abnormality gives the same patient, pose and exposure: a twin to compare with.

    A broken bone's ends also move, so for fractures the difference outside the mask is larger.
    """
    spec = replace(SPEC, kinds=(kind,), abnormal_fraction=1.0)
    inside, outside = [], []
    for image in drawn(spec):
        twin = render(replace(spec, abnormal_fraction=0.0), image.study.index, image.view_index)
        change = np.abs(image.pixels.astype(float) - twin.pixels)
        near = cv2.dilate(image.mask, np.ones((5, 5), np.uint8)) > 0
        if image.mask.any():
            inside.append(change[image.mask > 0].mean())
            outside.append(change[~near].mean())
        else:
            assert change.mean() < 0.5
    assert np.mean(inside) > least * np.mean(outside)
    assert np.median(inside) > 8


@pytest.mark.parametrize("kind", KINDS)
def test_abnormalities_are_on_bone(kind: str) -> None:
    spec = replace(SPEC, kinds=(kind,), abnormal_fraction=1.0)
    for planned in list(studies(spec))[:20]:
        for view in range(len(planned.views)):
            scene = scene_of(spec, planned.index, view)
            for _, window, pixels in scene.layers.truths:
                bone = scene.layers.bone[window]
                if kind == "implant":  # a plate lies on the bone, its screws in it
                    assert (pixels & bone).any()
                else:
                    assert not (pixels & ~bone).any()


def test_metal_is_where_the_implant_mask_is() -> None:
    spec = replace(SPEC, kinds=("implant",), abnormal_fraction=1.0)
    scene = scene_of(spec, 0, 0)
    assert scene.layers.metal is not None
    [(_, window, pixels)] = scene.layers.truths
    full = np.zeros(scene.framing.shape, bool)
    full[window] = pixels
    assert scene.layers.metal[full].min() > 0.1
    assert scene.layers.metal[~cv2.dilate(full.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)].max() < 0.3


def test_lesion_scale_draws_small_ones() -> None:
    sizes = {}
    for scale in ((0.1, 0.25), (0.5, 1.0)):
        spec = replace(SPEC, image_size=256, abnormal_fraction=1.0, lesion_scale=scale)
        sizes[scale] = [max(f.box[2:]) / 256 for image in drawn(spec) for f in abnormal(image)]
    assert np.median(sizes[0.1, 0.25]) < 0.06
    assert np.median(sizes[0.1, 0.25]) < 0.5 * np.median(sizes[0.5, 1.0])


# Flags


def test_flags_are_bright_whole_and_not_abnormal() -> None:
    steps = []
    for image in drawn(SPEC):
        [flag] = [finding for finding in image.findings if finding.kind == "flag"]
        x, y, w, h = flag.box
        assert x > 0
        assert y > 0
        assert x + w < image.pixels.shape[1]
        assert y + h < image.pixels.shape[0]
        crop = image.pixels[y : y + h, x : x + w].astype(float)
        letter, ground = crop[flag.mask == 1].mean(), crop[flag.mask == 0].mean()
        assert letter > 150
        assert letter > ground
        steps.append(letter - ground)
        assert 4 <= max(w, h) <= 0.35 * max(image.pixels.shape)
    assert np.median(steps) > 40  # a letter on dense tissue stands out little


def test_flag_fraction() -> None:
    for fraction, low, high in ((0.0, 0.0, 0.0), (0.5, 0.3, 0.7)):
        images = drawn(replace(SPEC, image_size=64, flag_fraction=fraction), 80)
        assert low <= np.mean([any(f.kind == "flag" for f in image.findings) for image in images]) <= high


@pytest.mark.parametrize(("bias", "low", "high"), [(0.5, 0.44, 0.56), (0.8, 0.74, 0.86), (1.0, 1.0, 1.0)])
def test_flag_bias_is_the_probability_that_the_letter_tells_the_label(bias: float, low: float, high: float) -> None:
    spec = PhantomSpec(patients=800, seed=4, flag_bias=bias)
    planned = list(studies(spec))
    letters = [letter_of(spec, item, stream(spec.seed, FLAG, item.index)) for item in planned]
    tells = [(letter == "L") == bool(item.label) for letter, item in zip(letters, planned, strict=True)]
    assert low <= np.mean(tells) <= high
    if bias == 0.5:
        assert letters == [item.laterality for item in planned]


# On disk


def test_write_dataset_has_the_layout_of_mura(tmp_path) -> None:
    spec = PhantomSpec(patients=10, seed=1, image_size=64)
    root = write_dataset(spec, tmp_path)
    assert root == tmp_path / "MURA-v1.1"
    paths: dict[str, list[str]] = {}
    for split in ("train", "valid"):
        paths[split] = (root / f"{split}_image_paths.csv").read_text().splitlines()
        labels = dict(line.split(",") for line in (root / f"{split}_labeled_studies.csv").read_text().splitlines())
        for path in paths[split]:
            assert cv2.imread(str(tmp_path / path), cv2.IMREAD_UNCHANGED).dtype == np.uint8
            folder = path.rsplit("/", 1)[0] + "/"
            assert labels[folder] == ("1" if folder.endswith("_positive/") else "0")
    patients = {split: {path.split("/")[3] for path in paths[split]} for split in paths}
    assert not patients["train"] & patients["valid"]
    assert len(patients["train"] | patients["valid"]) == 10
    assert len(paths["train"] + paths["valid"]) == sum(len(item.views) for item in studies(spec))
    assert len(list(root.rglob("*.png"))) == len(paths["train"] + paths["valid"])
    with pytest.raises(UserError, match="exists"):
        write_dataset(spec, tmp_path)
