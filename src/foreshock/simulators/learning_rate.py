"""A learning rate from the curvature and the noise of a loss. Document: langevin."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LearningRate:
    """A learning rate and what limits it.

    Args:
        value: The smaller of the two.
        edge: 2/lambda_max (2 (1 + momentum)/lambda_max with momentum): beyond it descent diverges.
        noise: The rate at which SGD has the wanted temperature; infinite if none was asked for.
        limit: ``"edge"`` or ``"noise"``.
    """

    value: float
    edge: float
    noise: float
    limit: str


def learning_rate(
    lambda_max: float,
    *,
    temperature: float = math.inf,
    variance: float = math.nan,
    batch: int = 1,
    momentum: float = 0.0,
    safety: float = 0.5,
) -> LearningRate:
    r"""A learning rate from curvature and noise: min(safety * edge, 2 B T (1 - beta)/sigma^2).

    The published 2 D/lambda_max has the unit of a loss times a learning rate; 2/lambda_max is the
    edge of stability, and the noise enters on its own: T = lr sigma^2/(2 B (1 - beta)), so at a
    constant temperature lr grows with B (not with its square root).

    Args:
        lambda_max: Largest curvature of the loss.
        temperature: T wanted; infinite asks for no limit.
        variance: sigma^2, variance of one example's gradient coordinate; needed with `temperature`.
        batch: B.
        momentum: beta of heavy-ball momentum.
        safety: Share of the edge to use.

    Returns:
        The rate and both limits.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> learning_rate(10.0).value, learning_rate(10.0).limit
        (0.1, 'edge')
        >>> learning_rate(10.0, temperature=0.001, variance=2.0, batch=64).value
        0.064
    """
    if not (lambda_max > 0 and batch >= 1 and 0 <= momentum < 1 and 0 < safety <= 1):
        raise ValueError(
            "`learning_rate` needs lambda_max > 0, batch >= 1, 0 <= momentum < 1 and "
            f"0 < safety <= 1. Got {lambda_max}, {batch}, {momentum}, {safety}."
        )
    if not temperature > 0 or (math.isfinite(temperature) and not variance > 0):
        raise ValueError(
            "A `temperature` of `learning_rate` must be positive and needs the `variance` of one "
            f"example's gradient. Got {temperature} and {variance}."
        )
    edge = 2 * (1 + momentum) / lambda_max
    noise = math.inf
    if math.isfinite(temperature):
        noise = 2 * batch * temperature * (1 - momentum) / variance
    value = min(safety * edge, noise)
    return LearningRate(value, edge, noise, "edge" if safety * edge <= noise else "noise")
