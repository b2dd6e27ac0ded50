"""Edge factors: the largest root of each optimizer's own recursion, by its companion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.stats.stability import edge_factor


def radius(matrix: list[list[float]]) -> float:
    """Spectral radius."""
    return float(np.abs(np.linalg.eigvals(np.array(matrix))).max())


def recursion(name: str, settings: dict, x: float) -> list[list[float]]:
    """One step on (θ, buffer) with η h / P = x, written from the optimizer's definition."""
    if name == "SGD":
        beta, tau = settings.get("momentum", 0.0), settings.get("dampening", 0.0)
        if settings.get("nesterov"):
            return [[1 - x - beta * x, -beta * beta], [x, beta]]  # buffer in units of η
        return [[1 - (1 - tau) * x, -beta], [(1 - tau) * x, beta]]
    if name == "RMSprop":
        mu = settings["momentum"]
        return [[1 - x, -mu], [x, mu]]
    beta1 = settings["betas"][0]
    return [[1 - (1 - beta1) * x, -beta1], [(1 - beta1) * x, beta1]]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9, "dampening": 0.4}),
        ("SGD", {"momentum": 0.5, "nesterov": True}),
        ("SGD", {"momentum": 0.95, "nesterov": True}),
        ("Adam", {"betas": (0.9, 0.999)}),
        ("AdamW", {"betas": (0.5, 0.9)}),
        ("RMSprop", {"momentum": 0.9}),
    ],
)
def test_the_spectral_radius_is_one_at_the_edge_and_nowhere_before(name, settings) -> None:
    factor = edge_factor(name, settings)
    assert factor is not None
    assert radius(recursion(name, settings, 1 / factor)) == pytest.approx(1.0, abs=1e-9)
    assert radius(recursion(name, settings, 1.001 / factor)) > 1
    assert all(
        radius(recursion(name, settings, share / factor)) < 1 for share in np.linspace(0.01, 0.999)
    )


def test_dampening_without_momentum_does_nothing_as_in_torch() -> None:
    assert edge_factor("SGD", {"momentum": 0.0, "dampening": 0.5}) == 0.5


def test_an_unknown_optimizer_has_no_edge() -> None:
    assert edge_factor("Lion", {"betas": (0.9, 0.99)}) is None
