"""Backbones: every one builds, answers, is cut into stages without loss, freezes, takes ImageNet-shaped weights."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mskray.errors import UserError
from mskray.models.backbones import BACKBONES, Backbone, load_initial, stages


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_make_up_the_whole_network(name: str) -> None:
    with torch.device("meta"):
        network = Backbone(name, 3).network
    parts = [parameter for modules in stages(network, name).values() for m in modules for parameter in m.parameters()]
    assert len(parts) == len(list(network.parameters()))
    assert list(stages(network, name))[-1] == "head"


@pytest.mark.parametrize("name", BACKBONES)
def test_cut_in_two_it_answers_as_in_one_piece(name: str) -> None:
    torch.manual_seed(0)
    network = Backbone(name, 3).eval()
    images = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        logits = network(images)
        whole = network.network((images.expand(-1, 3, -1, -1) - network.mean) / network.std)
        maps = network.maps(images)
    assert logits.shape == (2, 3)
    assert torch.equal(logits, whole)
    assert maps.ndim == 4
    assert min(maps.shape[2:]) >= 1


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("vgg")])  # which have none
def test_folded_it_says_and_sees_what_it_did(name: str) -> None:
    torch.manual_seed(0)
    network, images = Backbone(name, 3).eval(), torch.rand(2, 1, 96, 96)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        for values, least in ((norm.running_mean, -0.3), (norm.bias, -0.3), (norm.running_var, 0.5)):
            nn.init.uniform_(values, least, least + 1)
    seen: list[Tensor] = []
    with torch.inference_mode():
        network.watch(seen.append)
        logits = network(images)
        network.fold()
        network.watch(seen.append)
        folded = network(images)
    for found, before in ((folded, logits), (seen[-1], seen[0])):
        torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    # densenet has most of them before convolutions; those of inception_v4 have the activation inside.
    densenet, inception_v4 = name.startswith("densenet"), name == "inception_v4"
    assert left == (len(norms) if inception_v4 else len(norms) // 2 + 2 if densenet else 0)


def test_frozen_stages_do_not_learn_and_their_batchnorm_does_not_drift() -> None:
    network = Backbone("resnet18", 2, ("stem", "layer1"))
    network.train()
    frozen, free = network.network.bn1, network.network.layer2[0].bn1
    before = frozen.running_mean.clone(), free.running_mean.clone()
    network(torch.rand(4, 1, 64, 64)).sum().backward()
    assert torch.equal(frozen.running_mean, before[0])
    assert not torch.equal(free.running_mean, before[1])
    assert network.network.conv1.weight.grad is None
    assert network.network.fc.weight.grad is not None


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="resnet18 has no stage layer9; it has stem, layer1"):
        Backbone("resnet18", 2, ("layer9",))


def test_imagenet_shaped_weights_load_below_a_fresh_head() -> None:
    donor = torchvision.models.mobilenet_v2(weights=None).state_dict()
    network = Backbone("mobilenet_v2", 2)
    load_initial(network, donor, "donor.safetensors")
    own = network.network.state_dict()
    assert torch.equal(own["features.0.0.weight"], donor["features.0.0.weight"])
    assert own["classifier.1.weight"].shape == (2, 1280)


def test_weights_of_another_network_are_refused() -> None:
    donor = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(UserError, match=r"do not fit mobilenet_v2: .* give the state dict of this backbone"):
        load_initial(Backbone("mobilenet_v2", 2), donor, "donor.pth")


def test_grey_images_are_normalised_as_imagenet_was() -> None:
    network = Backbone("resnet18", 2).eval()
    seen: list[torch.Tensor] = []
    network.network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(torch.full((1, 1, 32, 32), 0.485))
    assert seen[0].shape == (1, 3, 32, 32)
    assert float(seen[0][0, 0].mean()) == pytest.approx(0, abs=1e-6)
    assert float(seen[0][0, 2].mean()) == pytest.approx((0.485 - 0.406) / 0.225, abs=1e-5)
