"""Conflict of losses on a live model: planted gradients, names, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.estimators import GradientNoise, LossConflict
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Readings


class Weights(nn.Module):
    """Nothing but a vector: the loss x·w has the gradient x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def along(column: int) -> Callable[[Weights, Tensor], Tensor]:
    def one(model: Weights, batch: Tensor) -> Tensor:
        return (batch[column] * model.w).sum()

    return one


def measure(probe: Probe, size: int = 30) -> Readings:
    view = ModelView(Weights(size))
    return LossConflict().update(None, Moment(0, view, (None,), (0.1,), probe=probe))[1]


def planted(cosine: float, n: int = 12, size: int = 30) -> list[Tensor]:
    """Batches whose rows are the gradients of the losses; noise in common, means at an angle."""
    rng = np.random.default_rng(0)
    means = np.zeros((2, size))
    means[0, 0], means[1, :2] = 4, (4 * cosine, 4 * math.sqrt(1 - cosine**2))
    return [
        torch.as_tensor(means + rng.normal(0, 0.3, size) + rng.normal(0, 0.1, (2, size)))
        for _ in range(n)
    ]


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.7])
def test_planted_gradients(cosine: float) -> None:
    batches = planted(cosine)
    found = measure(Probe(along(0), batches, losses={"Data": along(0), "decay": along(1)}))
    estimate = found.scalars["loss/cosine@data,decay"]
    # |mu|^2 = 16, noise .1 a coordinate: sd of the cosine about sqrt(.1/16/12) = .023; four of them
    assert abs(estimate.value - cosine) < 0.1 and estimate.high - estimate.low < 0.2
    assert estimate == found.scalars["loss/cosine"]
    matrix = found.arrays["loss/cosine_matrix"]
    assert matrix[0, 1] == matrix[1, 0] == estimate.value and matrix[0, 0] == 1


def test_a_loss_with_itself_is_the_gradient_noise() -> None:
    batches = planted(0.5)
    probe = Probe(along(0), batches, losses={"a": along(0), "b": along(1)})
    found = measure(probe).scalars
    view = ModelView(Weights(30))
    alone = GradientNoise().update(None, Moment(0, view, (None,), (0.1,), probe=probe))[1]
    assert found["loss/snr@a,a"].value == pytest.approx(alone.scalars["grad/snr"].value, rel=1e-9)
    assert set(found) == {
        *("loss/cosine", "loss/snr", "loss/cosine@a,b"),
        *("loss/snr@a,a", "loss/snr@a,b", "loss/snr@b,b"),
    }


def test_without_two_losses_or_a_batch_it_says_so() -> None:
    one = measure(Probe(along(0), planted(0.5), losses={"a": along(0)}))
    assert all("at least two losses" in e.reason for e in one.scalars.values())
    losses = {"a": along(0), "b": along(1)}
    none = measure(Probe(along(0), lambda step: [], losses=losses))
    assert all("no batch" in e.reason for e in none.scalars.values())
