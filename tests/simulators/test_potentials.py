"""Potentials: gradient and Hessian against autograd in float64, stationary points, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.simulators.landscapes import KWells, MullerBrown, Ring, TiltedRing
from foreshock.simulators.potentials import DoubleWell, Potential, Quadratic, Quartic, Tilted

MATRIX = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
CASES: dict[str, Potential] = {
    "quadratic-number": Quadratic(3.0, dimension=2),
    "quadratic-vector": Quadratic(torch.tensor([1.0, 4.0], dtype=torch.float64)),
    "quadratic-matrix": Quadratic(MATRIX),
    "double-well": DoubleWell(2.0, 1.5),
    "double-well-3d": DoubleWell(2.0, 1.5, dimension=3, stiffness=0.7),
    "tilted": Tilted(0.3, 1.2, 0.8, dimension=2),
    "quartic": Quartic(0.5, dimension=2),
    "muller-brown": MullerBrown(0.1),
    "k-wells": KWells(
        torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.2]]), torch.tensor([0.0, 0.5, 0.2]), 0.8, 0.3
    ),
    "ring": Ring(1.3, 0.9),
    "tilted-ring": TiltedRing(0.4, 1.1),
}


def points(potential: Potential, n: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, potential.dimension, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("potential", CASES.values(), ids=CASES)
def test_gradient_and_hessian_are_those_of_autograd(potential: Potential) -> None:
    # Rounding of float64: energies reach 1e4 (Müller-Brown), hence relative.
    assert isinstance(potential, Potential)
    x = points(potential).requires_grad_(True)
    energy = potential.energy(x)
    assert energy.shape == (len(x),)
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    torch.testing.assert_close(potential.gradient(x.detach()), gradient.detach(), rtol=1e-9, atol=0)
    rows = [
        torch.autograd.grad(gradient[:, i].sum(), x, retain_graph=True, materialize_grads=True)[0]
        for i in range(potential.dimension)
    ]
    torch.testing.assert_close(
        potential.hessian(x.detach()), torch.stack(rows, 1), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("potential", CASES.values(), ids=CASES)
def test_values_keep_the_dtype_and_leave_the_points_alone(potential: Potential) -> None:
    x = points(potential).float()
    kept = x.clone()
    for value in (potential.energy(x), potential.gradient(x), potential.hessian(x)):
        assert value.dtype == torch.float32
    assert torch.equal(x, kept)
    one = potential.gradient(x[0])  # a single point, without the particle axis
    torch.testing.assert_close(one, potential.gradient(x)[0])


@pytest.mark.parametrize("name", ["quadratic-matrix", "double-well-3d", "tilted", "muller-brown"])
def test_stationary_points_are_stationary_with_the_right_signs(name: str) -> None:
    potential = CASES[name]
    minima = torch.tensor(potential.minima, dtype=torch.float64)  # type: ignore[attr-defined]
    assert potential.gradient(minima).abs().max() < 1e-9
    assert (torch.linalg.eigvalsh(potential.hessian(minima))[:, 0] > 0).all()
    if hasattr(potential, "saddles"):
        saddles = torch.tensor(potential.saddles, dtype=torch.float64)
        assert potential.gradient(saddles).abs().max() < 1e-9
        signs = torch.linalg.eigvalsh(potential.hessian(saddles)) < 0
        assert signs[:, 0].all() and not signs[:, 1:].any()


def test_arrays_and_lists_are_matrices_too() -> None:
    """An array times a tensor would multiply entry by entry: [2.5, .5] + ... is not K x."""
    k = np.array([[2.0, 0.5], [0.5, 1.0]])
    x = torch.ones(2, 2)
    for given in (k, k.tolist(), torch.tensor(k)):
        bowl = Quadratic(given)  # type: ignore[arg-type]
        torch.testing.assert_close(bowl.gradient(x), torch.tensor([[2.5, 1.5]] * 2))
        torch.testing.assert_close(bowl.energy(x), torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(
        Quadratic([1.0, 4.0]).gradient(x),  # type: ignore[arg-type]
        torch.tensor([[1.0, 4.0]] * 2),
    )


def test_a_steep_tilt_erases_a_well_at_the_known_slope() -> None:
    edge = 8 / (3 * 3**0.5)  # largest |U'| of (x^2-1)^2 between the wells
    assert len(Tilted(0.99 * edge).minima) == 2
    assert len(Tilted(1.01 * edge).minima) == 1 and not Tilted(1.01 * edge).saddles


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DoubleWell(barrier=0.0), "`barrier` of `DoubleWell` must be positive"),
        (lambda: DoubleWell(dimension=0), "`dimension` of `DoubleWell` must be an integer"),
        (lambda: Quartic(strength=float("nan")), "`strength` of `Quartic` must be finite"),
        (lambda: Tilted(float("inf")), "`slope` of `Tilted` must be finite"),
        (lambda: Quadratic(torch.tensor([[1.0, 1.0], [0.0, 1.0]])), "must be symmetric"),
        (lambda: Quadratic(torch.ones(2), dimension=3), "has 2 rows"),
        (lambda: Quadratic(torch.ones(2, 3)), "must be a number, a vector"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
