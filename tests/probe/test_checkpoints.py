"""Activation checkpoints within a measurement: right at any weights and in any precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView


class Net(nn.Module):
    """A middle that is checkpointed or not."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner, self.middle = nn.Linear(3, 5), nn.Linear(5, 5)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        def middle(h: Tensor) -> Tensor:
            return torch.tanh(self.middle(h))

        h = torch.tanh(self.inner(x))
        if self.reentrant is None:
            return middle(h)
        return checkpoint(middle, h, use_reentrant=self.reentrant)  # type: ignore[return-value]


def gradients(reentrant: bool | None, shift: float, kind: torch.dtype) -> list[Tensor]:
    """First and second derivative of the output at weights that are not the live ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(reentrant)
    view = ModelView(model)
    x = torch.linspace(-1, 1, 12).reshape(4, 3).to(kind)
    with quiet(0):
        leaves = [(p + shift).to(kind).requires_grad_() for p in view.parameters]
        value = view.call(leaves, lambda m: m(x).square().sum())
        first = torch.autograd.grad(value, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [*(g.detach() for g in first), *second]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_changes_nothing(reentrant: bool, kind: torch.dtype) -> None:
    # Recomputed with the live weights, which differ by 0.3, it would be far off.
    plain, checked = gradients(None, 0.3, kind), gradients(reentrant, 0.3, kind)
    assert all(torch.equal(a, b) for a, b in zip(plain, checked, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_users_checkpoints_come_back(reentrant: bool) -> None:
    calls: list[int] = []

    def noisy(h: Tensor) -> Tensor:
        calls.append(1)
        return torch.sin(h)

    with quiet(0):
        pass
    x = torch.ones(2, requires_grad=True)
    checkpoint(noisy, x, use_reentrant=reentrant).sum().backward()
    assert len(calls) == 2  # once forward, once recomputed
