"""Bilinear forms: the check in plain numbers and the one on tensors say the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreshock.estimators.per_example_forms import (
    form,
    stacked,
    unexplained,
    unexplained_numbers,
    wave_of,
)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 2, 4), (1, 7)])
def test_the_form_is_u_g_v(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = gradient.reshape(shape[0] if shape else 1, -1)
    u, v = (wave_of(n, torch.float64, matrix.device) for n in matrix.shape)
    # A vector is multiplied with u alone.
    expected = u @ matrix @ v if len(shape) > 1 else u @ matrix.reshape(-1, 1)[:, 0]
    assert form(gradient).shape == ()
    assert form(gradient).item() == pytest.approx(expected.item(), rel=1e-12)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of squares, and forms some of which differ by about the bound, or are not numbers."""
    generator = torch.Generator().manual_seed(seed)
    sums = torch.rand(9, generator=generator, dtype=torch.float64)
    sizes = torch.rand(9, generator=generator, dtype=torch.float64)
    seen = torch.randn(9, generator=generator, dtype=torch.float64)
    apart = 0.02 * torch.randn(9, generator=generator, dtype=torch.float64)
    return sums, seen, sizes, seen + apart


@pytest.mark.parametrize("odd", [0.0, math.nan, math.inf])
def test_plain_numbers_and_tensors_agree(odd: float) -> None:
    found = []
    for seed in range(50):
        rows = drawn(seed)
        if odd:
            rows[seed % 4][0] = odd
        mask = unexplained(*rows, 0.01, 1e-3)
        wrong = unexplained_numbers(*(row.tolist() for row in rows), 0.01, 1e-3)
        assert mask.nonzero().flatten().tolist() == wrong
        found += wrong
    assert 20 < len(found) < 430  # both answers occur


def test_stacked_is_in_float64() -> None:
    assert stacked([torch.tensor(0.1), torch.tensor(1.0)]).dtype == torch.float64
