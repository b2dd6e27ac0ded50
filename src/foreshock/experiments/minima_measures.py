"""What `minima` measures of a trained network: sharpness, norm, p, C_1, errors and the gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.estimators.curvature import lambda_max
from foreshock.probe.view import ModelView
from foreshock.stats.published import c_signal, p_signal

#: Batches that make p.
PROBES = 20
#: Inputs and labels.
Half = tuple[Tensor, Tensor]


def loss_of(model: Any, batch: Half) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def measures(
    model: nn.Module, train: Half, heldout: Half, *, batch: int, noise: float, seed: int
) -> dict[str, float]:
    """Sharpness, norm, p and C_1 of a trained network, and what they have to order.

    Args:
        model: The trained network.
        train: Its training examples.
        heldout: Others, with true labels.
        batch: Examples of a gradient of p.
        noise: Share of the training labels that was drawn anew.
        seed: Of those gradients and of the start of the iteration for sharpness.

    Returns:
        By name; errors are shares of examples, ``heldout_error`` on the true labels.
    """
    _, top = lambda_max(ModelView(model), loss_of, train, seed=seed)
    generator = torch.Generator().manual_seed(seed + 2)
    parameters, taken = list(model.parameters()), []
    for _ in range(PROBES):
        rows = torch.randint(len(train[0]), (batch,), generator=generator)
        loss = loss_of(model, (train[0][rows], train[1][rows]))
        parts = torch.autograd.grad(loss, parameters)
        taken.append(torch.cat([part.reshape(-1) for part in parts]).double().numpy())
    missed, held = error_of(model, train), error_of(model, heldout)
    return {
        "sharpness": top.value,
        "norm": float(torch.sqrt(sum(p.detach().square().sum() for p in parameters))),  # type: ignore[arg-type]
        "p": p_signal(c_signal(np.stack(taken))),
        "c_1": example_c(model, train),
        "train_error": missed,
        "heldout_error": held,
        "gap": under_noise(held, noise) - missed,
        "train_loss": mean_loss(model, train),
    }


def under_noise(error: float, noise: float) -> float:
    """Expected error on labels of which a share was drawn anew from the ten classes.

    Args:
        error: Share of true labels that are missed.
        noise: Share that is drawn anew; a draw is missed with probability .9.

    Returns:
        error (1 - noise) + .9 noise.

    Examples:
        >>> under_noise(0.1, 0.0), round(under_noise(0.1, 0.2), 2), under_noise(0.1, 1.0)
        (0.1, 0.26, 0.9)
    """
    return error * (1 - noise) + 0.9 * noise


def example_c(model: nn.Module, half: Half) -> float:
    """C_1 = |mu|^2 / V_1 of the gradients of single examples, exact for draws with replacement.

    mu is their mean and V_1 the trace of their covariance over the examples; no batch is drawn, so
    there is neither the batch size in it nor the 1/n by which C of n sampled batches is too large.

    Args:
        model: The network.
        half: Its training examples.

    Returns:
        C_1; infinite where all gradients agree.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(at: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, at, (x[None],))
        return functional.cross_entropy(logits, y[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, *half)
    rows = torch.cat([part.flatten(1) for part in found.values()], dim=1)
    mean = rows.mean(0)
    spread = float((rows - mean).square().sum(1).mean())
    return float(mean.square().sum()) / spread if spread else float("inf")


def mean_loss(model: nn.Module, half: Half) -> float:
    """Cross-entropy of all examples, without a graph."""
    with torch.no_grad():
        return loss_of(model, half).item()


def error_of(model: nn.Module, half: Half) -> float:
    """Share of examples that are classified wrong."""
    with torch.no_grad():
        return (model(half[0]).argmax(1) != half[1]).float().mean().item()
