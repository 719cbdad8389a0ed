"""Boxes and masks as a detector is given them, and that they move with the pixels."""

import math

import numpy as np
import pytest
import torch

from mskray.imaging.inputs import InputFormat
from mskray.training.augmentation import moved, moved_boxes, poses
from mskray.training.box_samples import MOST, BoxSamples
from mskray.training.config import AugmentSection

KINDS = ("flag", "implant")
OFF = {"flip": 0, "rotation": 0, "translation": 0, "scale": 0, "brightness": 0, "contrast": 0}


def found(kind, x, y, w, h):
    return {"kind": kind, "x": x, "y": y, "w": w, "h": h}


def rows(*findings, mask=None):
    images = np.full((len(findings), 64, 64), 40, np.uint8)
    images[:, 10:20, 10:13] = 250
    column = np.empty(len(findings), object)
    column[:] = [list(each) for each in findings]
    return {"image": images, "findings": column} | ({} if mask is None else {"mask": mask})


def test_boxes_are_scaled_clipped_and_padded():
    data = rows(
        [found("flag", 10, 10, 6, 10), found("lesion", 1, 1, 5, 5), found("implant", 50, 50, 40, 8)],
        [found("flag", 63.5, 5, 9, 9)],
        [],
    )
    made = BoxSamples(KINDS).load(data, InputFormat(32))
    assert made["image"].shape == (3, 32, 32)
    # The implant is the larger; the flag of the second image is outside but for half a pixel.
    assert made["kinds"].tolist() == [[2, 1, *[0] * (MOST - 2)], [0] * MOST, [0] * MOST]
    assert made["boxes"][0, :2].tolist() == [[25, 25, 32, 29], [5, 5, 8, 10]]
    assert made["label"].tolist() == [1, 1, 0]
    assert made["label"].tolist() == BoxSamples(KINDS).labels(data).tolist()


def test_of_too_many_boxes_the_largest_are_kept():
    many = [found("flag", 0, 0, 2 + size, 5) for size in range(MOST + 3)]
    made = BoxSamples(KINDS).load(rows(many), InputFormat(64))
    assert made["boxes"][0, :, 2].tolist() == [2 + size for size in range(MOST + 2, 2, -1)]


def test_masks_of_flags_come_from_pixels_and_those_of_implants_from_the_cohort():
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 40:50, 40:44] = 1
    data = rows([found("flag", 9, 9, 6, 12), found("implant", 40, 40, 10, 10)], mask=mask)
    samples = BoxSamples(KINDS, masks=True, stored_masks=True)
    assert samples.columns == ("findings", "mask")
    made = samples.load(data, InputFormat(64))
    assert made["kinds"][0, :2].tolist() == [2, 1]
    assert ((made["masks"][0] & 1 > 0) == (mask[0] > 0)).all()
    flag = made["masks"][0] & 2 > 0
    assert flag[10:20, 10:13].all()
    assert flag.sum() < 6 * 12 * 0.9, "not the whole box"


def test_without_stored_masks_an_implant_fills_its_box():
    samples = BoxSamples(KINDS, masks=True)
    assert samples.columns == ("findings",)
    made = samples.load(rows([found("implant", 40, 40, 10, 10)]), InputFormat(64))
    assert (made["masks"][0, 40:50, 40:50] == 1).all()
    assert made["masks"].sum() == 100


@pytest.mark.parametrize(
    "change", [{"translation": 0.2}, {"scale": 0.3}, {"crop": 0.5}, {"flip": 1}, {"translation": 0.1, "scale": 0.2}]
)
def test_boxes_move_with_their_pixels(change):
    torch.manual_seed(1)
    drawn = poses(20, AugmentSection(**{**OFF, **change}), torch.device("cpu"))
    boxes = torch.tensor([[[24.0, 30, 36, 54]]]).expand(20, 1, 4)
    images = torch.zeros(20, 1, 96, 96)
    images[:, :, 30:54, 24:36] = 1
    there, shown = moved_boxes(boxes, drawn, 96), moved(images, drawn) > 0.5
    for (x0, y0, x1, y1), image in zip(there[:, 0].tolist(), shown[:, 0], strict=True):
        lit = torch.nonzero(image)
        ends = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
        clipped = [min(max(end, 0), 96) for end in (x0, y0, x1, y1)]
        assert [float(end) for end in ends] == pytest.approx(clipped, abs=0.75)


def test_a_turned_box_is_bounded_by_a_larger_one():
    turn = math.radians(30)
    pose = torch.tensor([[[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0]]])
    box = moved_boxes(torch.tensor([[[40.0, 40, 60, 60]]]), pose, 100)[0, 0]
    side = 20 * (math.cos(turn) + math.sin(turn))
    assert box.tolist() == pytest.approx([50 - side / 2, 50 - side / 2, 50 + side / 2, 50 + side / 2], abs=1e-3)
