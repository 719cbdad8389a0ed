"""Fusion of views: order and padding change nothing, weights sum to 1, repeats are crops and mirrors."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from mskray.models.backbones import Backbone, load_initial
from mskray.models.view_fusion import LateFusion, real_views, repeat_views

POOLINGS = ("mean", "max", "attention")


def late(pooling: str) -> LateFusion:
    torch.manual_seed(0)
    return LateFusion("resnet18", 2, pooling).eval()  # type: ignore[arg-type]


def test_real_views_are_those_before_the_padding() -> None:
    assert real_views(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.inference_mode()
def test_order_and_padding_of_views_change_nothing(pooling: str) -> None:
    network = late(pooling)
    views = torch.rand(2, 3, 48, 48)
    views[0, 2] = 0.7  # padding of the first study, whatever it holds
    counts = torch.tensor([2, 3])
    answer = network(views, counts)
    reordered = torch.stack([views[0, [1, 0, 2]], views[1, [2, 0, 1]]])
    torch.testing.assert_close(network(reordered, counts), answer)
    wider = F.pad(views, (0, 0, 0, 0, 0, 4), value=0.3)
    torch.testing.assert_close(network(wider, counts), answer)
    torch.testing.assert_close(network(views[:1, :2], counts[:1]), answer[:1])


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.inference_mode()
def test_a_study_of_one_view_is_answered_as_the_network_alone_would(pooling: str) -> None:
    network = late(pooling)
    image = torch.rand(1, 1, 48, 48)
    torch.testing.assert_close(network(image, torch.tensor([1])), network.backbone(image))


def test_pooling_by_hand() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 1.0], [2.0, 2.0]])
    study = torch.tensor([0, 0, 1])
    assert late("mean").pool(features, study, 2).tolist() == [[2.0, 3.0], [2.0, 2.0]]
    assert late("max").pool(features, study, 2).tolist() == [[3.0, 5.0], [2.0, 2.0]]


def test_attention_weights_sum_to_1_over_each_study_s_views() -> None:
    network = late("attention")
    features = 100 * torch.randn(6, network.backbone.width)
    study = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = network.weigh(features, study, 3)
    torch.testing.assert_close(torch.zeros(3).scatter_add(0, study, weights), torch.ones(3))
    assert weights[3].item() == 1.0
    # Ilse et al. eq. 8: a softmax over the views of tanh features times a vector.
    hidden, score = network.attention[0], network.attention[2]
    expected = (torch.tanh(features[:3] @ hidden.weight.T + hidden.bias) @ score.weight[0]).softmax(dim=0)
    torch.testing.assert_close(weights[:3], expected)


def test_attention_learns_which_view_tells() -> None:
    """Three views of noise and one in which a feature tells the class: the others' weights fall."""
    torch.manual_seed(0)
    network = LateFusion("mobilenet_v3_small", 2, "attention", units=8)
    width, study = network.backbone.width, torch.arange(16).repeat_interleave(4)
    network.backbone._top[-1] = torch.nn.Linear(width, 2)
    parameters = [*network.attention.parameters(), *network.backbone._top[-1].parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(150):
        features, label = 0.5 * torch.randn(64, width), torch.randint(2, (16,))
        features[::4, 0] = 4 * (2.0 * label - 1)
        features[::4, 1] = 4.0  # marks the view that tells
        loss = F.cross_entropy(network.backbone.head(network.pool(features, study, 16)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.weigh(features, study, 16)[::4].mean().item() > 0.8


def test_padding_does_not_reach_batchnorm() -> None:
    networks = [late("mean").train() for _ in range(2)]
    views, counts = torch.rand(3, 2, 48, 48), torch.tensor([2, 1, 2])
    networks[0](views, counts)
    networks[1](F.pad(views, (0, 0, 0, 0, 0, 4), value=1.0), counts)
    for first, second in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
        torch.testing.assert_close(first, second)


def test_early_fusion_repeats_views_as_mirrors_and_crops() -> None:
    views = torch.rand(2, 6, 16, 16)
    counts = torch.tensor([1, 4])
    filled = repeat_views(views, counts, side=0.5)
    one = views[0, 0]
    assert torch.equal(filled[0, 0], one)
    torch.testing.assert_close(filled[0, 1], one.flip(1))

    def crop(rows: slice, columns: slice) -> torch.Tensor:
        # What of the image a crop shows, enlarged; its border apart, where resampling looks beyond the crop.
        return F.interpolate(one[None, None, rows, columns], size=(16, 16), mode="bilinear")[0, 0]

    middle, corner = crop(slice(4, 12), slice(4, 12)), crop(slice(0, 8), slice(0, 8))
    inside = (slice(1, -1), slice(1, -1))
    torch.testing.assert_close(filled[0, 2][inside], middle[inside])
    torch.testing.assert_close(filled[0, 3][inside], middle.flip(1)[inside])
    torch.testing.assert_close(filled[0, 4][inside], corner[inside])
    assert torch.equal(filled[1, :4], views[1, :4])
    torch.testing.assert_close(filled[1, 4:], views[1, :2].flip(2))
    assert torch.equal(repeat_views(views, counts, 0.5), filled)


def test_one_view_fills_every_slot_differently() -> None:
    filled = repeat_views(torch.rand(1, 12, 24, 24), torch.tensor([1]), side=0.875)[0]
    differences = (filled[:, None] - filled[None]).abs().amax(dim=(2, 3)) + torch.eye(12)
    assert float(differences.min()) > 0.01


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", "vgg19", "efficientnet_b0", "mobilenet_v3_small", "inception_v3", "inception_v4"],
)
def test_the_first_convolution_takes_a_channel_a_view(name: str) -> None:
    with torch.device("meta"):
        network = Backbone(name, 2, channels=6).eval()
        assert network(torch.rand(1, 6, 96, 96)).shape == (1, 2)
        assert network.network.state_dict().keys() == Backbone(name, 2).network.state_dict().keys()


@pytest.mark.parametrize("channels", [3, 6])
@torch.inference_mode()
def test_imagenet_weights_see_equal_views_as_the_grey_image(channels: int) -> None:
    donor = torchvision.models.resnet18(weights=None)
    network = Backbone("resnet18", 2, channels=channels).eval()
    load_initial(network, donor.state_dict(), "donor")
    image = torch.rand(1, 1, 32, 32)
    grey = ((image - network.mean) / network.std).expand(-1, 3, -1, -1)
    stacked = (image.expand(-1, channels, -1, -1) - network.mean) / network.std
    torch.testing.assert_close(network.network.conv1(stacked), donor.conv1(grey), rtol=1e-4, atol=1e-4)
    assert torch.equal(network.network.layer1[0].conv1.weight, donor.layer1[0].conv1.weight)
