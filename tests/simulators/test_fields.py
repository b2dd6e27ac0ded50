"""Matrix fields: divergences, symmetric roots."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foreshock.simulators.fields import divergence, symmetric_root


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_divergence_of_a_diagonal_and_of_a_matrix() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator())

    def matrix(at: Tensor) -> Tensor:
        u, v = at[:, 0], at[:, 1]
        return torch.stack([torch.stack([u * u, u * v], 1), torch.stack([u * v, v**3], 1)], 1)

    u, v = x.T
    torch.testing.assert_close(divergence(matrix, x), torch.stack([3 * u, v + 3 * v * v], 1))
    diagonal = divergence(lambda at: torch.sin(at), x)
    torch.testing.assert_close(diagonal, torch.cos(x))
    assert not divergence(lambda at: torch.ones_like(at), x).any()


def test_a_constant_matrix_has_no_divergence_field_of_its_shape() -> None:
    with pytest.raises(ValueError, match="`field` of `divergence` must return a diagonal"):
        divergence(lambda at: torch.eye(2), torch.zeros(2, 2))


def test_symmetric_roots_square_to_their_matrices_singular_ones_included() -> None:
    a = torch.randn(4, 3, 2, dtype=torch.float64, generator=generator())
    matrices = a @ a.mT  # rank 2 of 3
    roots = symmetric_root(matrices, "Langevin", "mobility")
    torch.testing.assert_close(roots @ roots, matrices)
    torch.testing.assert_close(roots, roots.mT)
    with pytest.raises(ValueError, match="Its lowest eigenvalue is -0.1"):
        symmetric_root(torch.diag(torch.tensor([1.0, -0.1])), "Langevin", "mobility")
