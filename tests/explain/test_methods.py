"""Saliency and Grad-CAM by hand on a network of two channels; what every method has in common; maps to boxes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mskray.errors import UserError
from mskray.explain.grad_cam import grad_cam
from mskray.explain.methods import METHODS, evidence, normalised, smoothed, to_boxes
from mskray.explain.saliency import saliency
from mskray.models.backbones import Backbone

# score of class c = sum over channel k and place of WEIGHTS[c, k] × map k
WEIGHTS = torch.tensor(
    [
        [[[0.0, 1.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]],
        [[[1.0, -5.0], [-2.0, 2.0]], [[2.0, 4.0], [0.0, 2.0]]],
    ]
)


class Tiny(Backbone):
    """4 × 4 pixels become two maps of 2 × 2: the mean of each quarter, and 1 minus it."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(WEIGHTS)
        self._frozen = []

    def maps(self, images: Tensor) -> Tensor:
        quarters = F.avg_pool2d(images, 2)
        return torch.cat([quarters, 1 - quarters], dim=1)

    def score(self, maps: Tensor) -> Tensor:
        return torch.einsum("nkij,ckij->nc", maps, self.weight)


def image(quarters: list[list[float]]) -> Tensor:
    return torch.tensor(quarters)[None, None].repeat_interleave(2, 2).repeat_interleave(2, 3)


QUARTERS = [[0.0, 1.0], [0.25, 0.8]]


def test_saliency_by_hand() -> None:
    # ∂ score / ∂ pixel = (weight of the first map - weight of the second) / 4 pixels of a quarter
    found = saliency(Tiny(), image(QUARTERS), torch.tensor([1]))
    by_quarter = torch.tensor([[1 - 2, -5 - 4], [-2 - 0, 2 - 2]]).abs() / 4
    torch.testing.assert_close(found[0], by_quarter.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_grad_cam_by_hand() -> None:
    # mean gradients of class 1 are (1-5-2+2)/4 = -1 and (2+4+0+2)/4 = 2, of class 0 they are 1 and 0; less the mean of
    # both, eq. 1 gives -1 and 1; eq. 2: ReLU of the sum
    first = torch.tensor(QUARTERS)
    coarse = (-1 * first + 1 * (1 - first)).relu()
    torch.testing.assert_close(coarse, torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    found = grad_cam(Tiny(), image(QUARTERS), torch.tensor([1]))[0]
    assert found.shape == (4, 4)
    assert found[0, 0] == 1.0
    assert found[3, 0] == 0.5
    assert (found[:, 3] == 0).all()
    # the pixel's middle lies at 3/4 : 1/4 between the quarters' middles, along both sides
    assert found[1, 1].item() == pytest.approx(0.75 * 0.75 * 1.0 + 0.25 * 0.75 * 0.5)


def test_grad_cam_does_not_depend_on_what_softmax_ignores() -> None:
    class Shifted(Tiny):
        def score(self, maps: Tensor) -> Tensor:
            return super().score(maps) - 3 * maps.sum(dim=(1, 2, 3), keepdim=True).flatten(1) - 7 * maps[:, :1, 0, 0]

    plain = grad_cam(Tiny(), image(QUARTERS), torch.tensor([1]))
    torch.testing.assert_close(grad_cam(Shifted(), image(QUARTERS), torch.tensor([1])), plain)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_target_it_is_the_class_called(method: str) -> None:
    images = torch.cat([image(QUARTERS), image([[0.9, 0.1], [0.9, 0.2]])])
    called = Tiny()(images).argmax(dim=1)
    assert called.tolist() == [0, 1]
    torch.testing.assert_close(METHODS[method](Tiny(), images, None), METHODS[method](Tiny(), images, called))
    one = METHODS[method](Tiny(), images[1:], called[1:])
    torch.testing.assert_close(METHODS[method](Tiny(), images, called)[1:], one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg16", "mobilenet_v3_small", "efficientnet_b0"])
def test_backbones_are_explained_and_left_as_they_were(method: str, name: str) -> None:
    torch.manual_seed(0)
    network = Backbone(name, 3, frozen=("head",)).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        images = torch.rand(2, 1, 64, 64)
        found = evidence(method, network, images, torch.tensor([2, 0]), size=96)
    assert found.shape == (2, 96, 96)
    assert found.dtype == np.float32
    assert found.min() >= 0
    # Nothing at all may speak for a class of a network that learnt nothing: Grad-CAM's ReLU then leaves zeros.
    assert set(np.round(found.max(axis=(1, 2)), 5)) <= ({0, 1} if method == "grad_cam" else {1})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("method", "network", "message"),
    [
        ("saliency", nn.Linear(4, 2), "saliency cannot explain a Linear: it needs a convolutional network"),
        ("grad_cam", nn.Linear(4, 2), "grad_cam cannot explain a Linear"),
        ("grad_cam", Backbone("resnet18", 2).eval(), "grad_cam: the network's last map is 1 × 1 at 32 × 32 px"),
        ("lime", Tiny(), "unknown method 'lime': known are grad_cam, guided_backprop, saliency"),
    ],
)
def test_what_cannot_be_explained_is_refused(method: str, network: Backbone, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evidence(method, network, torch.rand(1, 1, 32, 32))
    assert "\n" not in str(caught.value)


def test_normalised_by_hand() -> None:
    maps = np.array([[[0, 2], [4, 1]], [[0, 0], [0, 0]]], np.float32)
    assert normalised(maps).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]]]


def test_smoothing_joins_grains_and_leaves_other_images_alone() -> None:
    maps = np.zeros((3, 100, 100), np.float32)
    maps[1, 40:60:2, 40:60:2] = 1
    grains = smoothed(maps)
    assert grains[1, 45:55, 45:55].min() > 0.8 * grains[1].max()
    assert not grains[[0, 2]].any()
    assert to_boxes(maps)[1].tolist() == [40, 40, 1, 1]


@pytest.mark.parametrize(
    ("places", "box"),
    [
        ({(2, 3): 1.0}, [3, 2, 1, 1]),
        ({(2, 3): 1.0, (2, 4): 0.5, (3, 5): 0.6, (4, 5): 0.49}, [3, 2, 3, 2]),  # corners connect, too little does not
        ({(2, 3): 0.9, (3, 3): 0.9, (4, 3): 0.9, (7, 7): 1.0}, [7, 7, 1, 1]),  # the area of the peak, not the largest
        ({(0, 0): 1.0, (7, 7): 0.9}, [0, 0, 1, 1]),
        ({(row, column): 1.0 for row in range(8) for column in range(8)}, [0, 0, 8, 8]),
        ({}, [0, 0, 0, 0]),
    ],
)
def test_the_box_is_that_of_the_area_around_the_peak(places: dict[tuple[int, int], float], box: list[int]) -> None:
    maps = np.zeros((3, 8, 8), np.float32)
    for place, value in places.items():
        maps[1][place] = value
    maps[0, 2:4, 2:4] = maps[2, 2:4, 2:4] = 1  # other images next to it in the stack
    assert to_boxes(maps).tolist() == [[2, 2, 2, 2], box, [2, 2, 2, 2]]
