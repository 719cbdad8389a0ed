"""The loss of several tasks by hand, and that a missing label says nothing."""

import math

import numpy as np
import pytest
import torch

from mskray.cohorts import Task
from mskray.training.multitask import multitask_loss, multitask_metrics, spans
from mskray.training.validation import validation_metrics

A, B = Task(name="a", classes=("x", "y", "z")), Task(name="b", classes=("no", "yes"))


def test_spans() -> None:
    assert spans([A, B]) == [slice(0, 3), slice(3, 5)]


def test_the_loss_by_hand() -> None:
    """Logits ln(2) against 0 give probabilities 2/3 and 1/3."""
    two = torch.tensor([[math.log(2), 0.0]])
    logits = [two.repeat(4, 1), torch.zeros(4, 3)]
    labels = torch.tensor([[0, 2], [1, -1], [-1, -1], [1, 0]])
    # Task 1: classes 0, 1, 1 weighted 1.5, 0.75, 0.75, over three labels; task 2: two labels of ln 3 each.
    first = (1.5 * math.log(3 / 2) + 2 * 0.75 * math.log(3)) / 3
    found = multitask_loss(logits, labels, [1.0, 0.5], [torch.tensor([1.5, 0.75]), None])
    assert found.item() == pytest.approx(first + 0.5 * math.log(3))
    # Weight 1 for one and 0 for the rest is the training of a single task.
    assert multitask_loss(logits, labels, [0.0, 1.0], [None, None]).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("balance", [None, torch.tensor([0.5, 2.0])])
def test_a_batch_without_a_label_of_a_task_teaches_it_nothing(smoothing: float, balance: torch.Tensor | None) -> None:
    known, unknown = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    labels = torch.tensor([[0, -1], [1, -1], [2, -1], [-1, -1]])
    loss = multitask_loss([known, unknown], labels, [1.0, 1.0], [None, balance], smoothing)
    loss.backward()
    assert torch.isfinite(loss)
    assert known.grad is not None
    assert torch.isfinite(known.grad).all()
    assert known.grad[:3].any(dim=1).all()
    assert not known.grad[3].any()
    # In the graph, as several workers need, with a gradient of exactly zero.
    assert unknown.grad is not None
    assert torch.equal(unknown.grad, torch.zeros_like(unknown))


def test_a_batch_without_any_label_is_no_nan() -> None:
    logits = [torch.randn(2, 3, requires_grad=True), torch.randn(2, 2, requires_grad=True)]
    loss = multitask_loss(logits, torch.full((2, 2), -1), [1.0, 1.0], [None, None])
    loss.backward()
    assert loss.item() == 0
    assert not any(each.grad.any() for each in logits)


def test_figures_are_means_over_tasks_of_their_labelled_samples() -> None:
    random = np.random.default_rng(0)
    labels = np.stack([random.integers(0, 3, 60), random.integers(0, 2, 60)], axis=1)
    labels[::3, 0], labels[1::4, 1] = -1, -1
    said = np.concatenate([random.dirichlet(np.ones(3), 60), random.dirichlet(np.ones(2), 60)], axis=1)
    found = multitask_metrics(said, labels, [A, B])
    known_a, known_b = labels[:, 0] >= 0, labels[:, 1] >= 0
    a = validation_metrics(said[known_a, :3], labels[known_a, 0])
    b = validation_metrics(said[known_b, 3:], labels[known_b, 1])
    for name in a:
        assert found[name] == pytest.approx((a[name] + b[name]) / 2)
    assert found["val_a_balanced_accuracy"] == a["val_balanced_accuracy"]
    assert found["val_b_balanced_accuracy"] == b["val_balanced_accuracy"]
    assert set(found) == {*a, "val_a_balanced_accuracy", "val_b_balanced_accuracy"}
