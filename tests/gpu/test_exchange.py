"""On a GPU: events in its stream measure how long gradients travel. Skipped, and listed, where there is no GPU."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mskray.training.stopwatch import Exchange

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_the_exchange_changes_no_gradient_and_is_measured(tmp_path: Path) -> None:
    """A group of one rank: NCCL reduces with itself."""
    dist.init_process_group("nccl", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048)).cuda()
        given = torch.randn(256, 2048, device="cuda")
        network(given).square().mean().backward()
        expected = [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
        model = DistributedDataParallel(network, device_ids=[0])
        exchange, total = Exchange(model), 0.0
        for _ in range(5):
            network.zero_grad()
            model(given).square().mean().backward()
            total += exchange.seconds()
            torch.cuda.synchronize()
        assert 0 < total < 5
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    finally:
        dist.destroy_process_group()
