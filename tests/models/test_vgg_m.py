"""VGG-M's sizes as the paper's figure gives them, and which layers tasks share."""

import pytest
import torch

from mskray.models.vgg_m import BRANCHES, SMALLEST_SIDE, SpineNet, map_sides

TASKS = {"pfirrmann": 5, "narrowing": 4, "upper_endplate": 2}


@pytest.mark.parametrize(
    ("side", "sides"),
    [(112, (53, 26, 12, 6, 3)), (224, (109, 54, 26, 13, 6)), (42, (18, 9, 4, 2, 1)), (SMALLEST_SIDE, (18, 9, 4, 2, 1))],
)
def test_sides_of_the_maps(side: int, sides: tuple[int, ...]) -> None:
    assert map_sides(side) == sides


def test_a_smaller_side_has_nothing_left() -> None:
    with pytest.raises(ValueError, match="40 px: the network needs 41 px at least"):
        map_sides(SMALLEST_SIDE - 1)


def test_sizes_of_the_paper_s_network() -> None:
    with torch.device("meta"):  # shapes alone
        network = SpineNet(TASKS, 9, 112, 224)
        maps = torch.empty(1, 9, 112, 224)
    sizes = []
    for name, stage in network.shared.named_children():
        for layer in stage:
            maps = layer(maps)
            sizes.append((name, type(layer).__name__, tuple(maps.shape[1:])))
    assert [each for each in sizes if each[1] != "ReLU"] == [
        ("conv1", "Conv2d", (96, 53, 109)),
        ("conv1", "MaxPool2d", (96, 26, 54)),
        ("conv2", "Conv2d", (256, 12, 26)),
        ("conv2", "MaxPool2d", (256, 6, 13)),
        ("conv3", "Conv2d", (512, 6, 13)),
        ("conv4", "Conv2d", (512, 6, 13)),
        ("conv5", "Conv2d", (512, 6, 13)),
        ("conv5", "MaxPool2d", (512, 3, 6)),
    ]
    assert network.branches["task_pfirrmann"].fc6[1].in_features == 9216


# Weights and biases of each layer for 9 slices of 112 × 224, counted by hand.
PARAMETERS = {
    "conv1": 96 * (9 * 7 * 7 + 1),
    "conv2": 256 * (96 * 5 * 5 + 1),
    "conv3": 512 * (256 * 3 * 3 + 1),
    "conv4": 512 * (512 * 3 * 3 + 1),
    "conv5": 512 * (512 * 3 * 3 + 1),
    "fc6": 4096 * (512 * 3 * 6 + 1),
    "fc7": 1024 * (4096 + 1),
}
LAST = sum(classes * (1024 + 1) for classes in TASKS.values())


@pytest.mark.parametrize("branch", BRANCHES)
def test_layers_after_the_branch_point_are_each_task_s_own(branch: str) -> None:
    with torch.device("meta"):
        network = SpineNet(TASKS, 9, 112, 224, branch)
    names = list(PARAMETERS)
    cut = 0 if branch == "none" else names.index(branch) + 1
    shared, own = (sum(PARAMETERS[name] for name in part) for part in (names[:cut], names[cut:]))
    assert sum(each.numel() for each in network.shared.parameters()) == shared
    assert sum(each.numel() for each in network.parameters()) == shared + len(TASKS) * own + LAST


def small(branch: str = "conv5", **changes) -> SpineNet:
    torch.manual_seed(0)
    return SpineNet(
        **{"tasks": {"a": 3, "type": 2}, "slices": 2, "rows": 42, "columns": 84, "branch": branch} | changes
    )


@pytest.mark.parametrize("branch", BRANCHES)
def test_one_task_s_loss_teaches_what_is_shared_and_its_own_layers(branch: str) -> None:
    network = small(branch, width=0.05)
    network(torch.rand(2, 2, 42, 84))["type"].sum().backward()
    taught = {name for name, each in network.named_parameters() if each.grad is not None}
    assert taught == {name for name, _ in network.named_parameters() if not name.startswith("branches.task_a.")}


def test_the_mean_is_subtracted() -> None:
    network = small(width=0.05).eval()
    images = torch.rand(2, 2, 42, 84)
    before = network(images)["a"]
    network.mean.copy_(torch.tensor([0.25, 0.5]).view(2, 1, 1))
    torch.testing.assert_close(network(images + network.mean)["a"], before)
    assert not torch.allclose(network(images)["a"], before)


def test_weights_are_glorot_s() -> None:
    """Uniform in ±√(6 / (fan in + fan out)); biases zero."""
    network = small()
    for layer, fans in ((network.shared.conv3[0], 9 * (256 + 512)), (network.branches["task_a"].fc7[0], 4096 + 1024)):
        bound = (6 / fans) ** 0.5
        assert 0.99 * bound < float(layer.weight.abs().max()) <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
        assert not layer.bias.any()


def test_dropout_acts_in_training_alone() -> None:
    network, images = small(width=0.2), torch.rand(1, 2, 42, 84)
    torch.manual_seed(0)
    assert not torch.equal(network(images)["a"], network(images)["a"])
    network.eval()
    assert torch.equal(network(images)["a"], network(images)["a"])
