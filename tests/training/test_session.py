"""When ranks make a checkpoint inside an epoch: all at the same step, and once for each that is due."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mskray.storage import locate
from mskray.training.group import Group
from mskray.training.session import Session
from mskray.training.shelf import Shelf
from mskray.training.writer import Writer

STEPS = 6


def steps_with_a_checkpoint(rank: int, world: int, folder: Path) -> list[int]:
    """Steps after which a rank is told to make one, where one was due before the first; without Ray."""
    session = Session.__new__(Session)
    Group.__init__(session, rank, world, torch.device("cpu"))
    session._writer = Writer(Shelf(locate(folder)), pytest.fail)
    session._kept = float("-inf")
    told = [session.checkpoint_now(minutes=60) for _ in range(STEPS)]
    session.settle()
    return [step for step, now in enumerate(told) if now]


def _rank(rank: int, world: int, folder: Path, answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=world)
    answers.put((rank, steps_with_a_checkpoint(rank, world, folder)))
    dist.barrier()
    dist.destroy_process_group()


def test_a_checkpoint_that_is_due_is_made_once_by_all_ranks(tmp_path: Path) -> None:
    """The wish of rank 0 travels during the next step, while it must not wish again."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, 2, tmp_path, answers)) for rank in range(2)]
    for each in ranks:
        each.start()
    try:
        found = dict(answers.get(timeout=60) for _ in ranks)
    finally:
        for each in ranks:
            each.join(timeout=30)
            each.kill()
    assert found == {0: [1], 1: [1]}


def test_alone_it_is_made_at_once(tmp_path: Path) -> None:
    assert steps_with_a_checkpoint(0, 1, tmp_path) == [0]
