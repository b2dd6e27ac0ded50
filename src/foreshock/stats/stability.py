"""Where training with an optimizer stops being linearly stable, as a number per unit of η h / P."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def edge_factor(name: str, settings: Mapping[str, Any]) -> float | None:
    r"""The c for which a direction of curvature h is at the edge when c · η h / P = 1.

    Near a minimum along one direction, with the metric P frozen, the optimizer is a linear
    recursion. As h grows, its first root to leave the unit circle does so at −1: the weight flips
    sign at every step. Put θ_{t+1} = −θ_t and solve for h:

    | optimizer | update | c |
    |---|---|---|
    | SGD | θ − η g | 1/2 |
    | heavy ball, dampening τ | b = βb + (1 − τ)g, θ − η b | (1 − τ)/(2 + 2β) |
    | Nesterov (as `torch.optim.SGD` does it) | θ − η(g + βb) | (1 + 2β)/(2 + 2β) |
    | Adam, AdamW, P with bias corrections | m = β₁m + (1 − β₁)g, θ − η m/P | (1 − β₁)/(2 + 2β₁) |
    | RMSprop with momentum μ | b = μb + g/P, θ − η b | 1/(2 + 2μ) |
    | Adagrad | θ − η g/((1 + (t − 1)δ) P) | 1/2, δ = lr_decay in η |

    Args:
        name: Class name of the optimizer.
        settings: Settings of the parameter's group.

    Returns:
        c; ``None`` for an optimizer that is not in the table.

    References:
        Cohen et al., arXiv:2207.14484 (Adam); Cohen et al., ICLR 2021 (SGD, heavy ball, Nesterov).

    Examples:
        >>> edge_factor("SGD", {"momentum": 0.9})
        0.2631578947368421
        >>> edge_factor("Lion", {}) is None
        True
    """
    if name == "SGD":
        beta = float(settings.get("momentum", 0.0))
        if settings.get("nesterov"):
            return (1 + 2 * beta) / (2 + 2 * beta)
        # torch applies no dampening where there is no momentum.
        dampening = float(settings.get("dampening", 0.0)) if beta else 0.0
        return (1 - dampening) / (2 + 2 * beta)
    if name in ("Adam", "AdamW"):
        beta1 = float(settings["betas"][0])
        return (1 - beta1) / (2 + 2 * beta1)
    if name == "RMSprop":
        return 1 / (2 + 2 * float(settings.get("momentum", 0.0)))
    if name == "Adagrad":
        return 0.5
    return None
