"""Ring of updates: products against float64 rows at once, sketches against their law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.estimators.update_ring import (
    CHUNK,
    count_sketch,
    exchange,
    exchange_sketch,
    parts_of,
    sketch_parts,
    update_dots,
)
from foreshock.probe.groups import Group
from foreshock.probe.view import ModelView
from tests.cases import CASES


def test_dots_are_accumulated_in_float64() -> None:
    # 1 + 2^-24 · 2^20 ones: a float32 running sum of small terms onto a large one loses them
    row = torch.full((1, 1 << 20), 2.0**-12)
    row[0, 0] = 2.0**12
    assert update_dots(row, row[0]).item() == 2.0**24 + ((1 << 20) - 1) * 2.0**-24


class Wide(torch.nn.Module):
    """One parameter longer than a chunk, between short ones."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, size in (("a", 7), ("b", CHUNK + 13), ("c", 5), ("d", 11)):
            value = torch.randn(size, generator=generator)
            self.register_parameter(name, torch.nn.Parameter(value))


@pytest.mark.parametrize("groups", [None, (Group("odd", "a|c"), Group("all", "."))])
def test_one_pass_exchanges_and_multiplies(groups: tuple[Group, ...] | None) -> None:
    view = ModelView(Wide())
    parts = parts_of(view, groups)
    theta = torch.cat([p.reshape(-1) for p in view.parameters])
    generator = torch.Generator().manual_seed(1)
    ring = torch.randn(4, len(theta), generator=generator)
    last = torch.randn(len(theta), generator=generator)
    before, delta = ring.clone().double(), (theta - last).double()
    sums = parts.assign @ exchange(ring, 2, last, view.parameters, parts).numpy()
    expected = torch.cat([before @ delta, (delta @ delta)[None]]).numpy()
    # Sums of 65,572 products in float64, of another order: 1e-12 of |x||y|.
    np.testing.assert_allclose(sums[0, :-1], expected, rtol=0, atol=1e-12 * expected[-1])
    assert sums[0, -1] == pytest.approx((theta.double() @ theta.double()).item(), rel=1e-5)
    assert torch.equal(last, theta) and torch.equal(ring[2], delta.float())
    assert torch.equal(ring[[0, 1, 3]].double(), before[[0, 1, 3]])
    if groups:
        np.testing.assert_allclose(sums[2], sums[0], rtol=1e-12)
        odd = torch.cat([torch.arange(7), torch.arange(CHUNK + 20, CHUNK + 25)])
        np.testing.assert_allclose(sums[1, :4], before[:, odd] @ delta[odd], rtol=1e-9)


def test_near_collinear_updates_keep_their_second_singular_value() -> None:
    # Rows along one direction of norm 1,000 and off it by 1e-3: the second σ is 1e-6 of the first,
    # its square 1e-12, below 2^-24 = 6e-8, which is what a float32 Gram can tell.
    generator = torch.Generator().manual_seed(2)
    line = torch.randn(20_000, generator=generator, dtype=torch.float64)
    rows = 7 * line + 1e-4 * torch.randn(5, 20_000, generator=generator, dtype=torch.float64)
    rows = rows.float()
    exact = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    gram = torch.stack([update_dots(rows, row) for row in rows]).numpy()
    found = np.sqrt(np.linalg.eigvalsh(gram)[::-1])
    np.testing.assert_allclose(found[:2], exact[:2], rtol=1e-3)
    rough = np.sqrt(np.abs(np.linalg.eigvalsh((rows @ rows.T).double().numpy())[::-1]))
    assert abs(rough[1] / exact[1] - 1) > 1  # the same in float32 is wrong by more than 100 %


@pytest.mark.parametrize("name", CASES)
def test_parts_by_layer_and_block_cover_every_weight_once(name: str) -> None:
    view = ModelView(CASES[name].model())
    for groups in ("layer", "block"):
        parts = parts_of(view, groups)
        np.testing.assert_array_equal(parts.assign[1:].sum(0), parts.assign[0])
        covered = sorted(i for _, members, _ in parts.runs for i in members)
        assert covered == list(range(len(view.parameters)))
    assert sum(parts_of(view, None).shape) == sum(p.numel() for p in view.live_parameters)


def test_heads_have_products_of_their_own() -> None:
    model = CASES["transformer"].model()
    view = ModelView(model)
    heads = tuple(Group(f"head {i}", r"qkv\.weight", (i, 2), 0, 3) for i in range(2))
    parts = parts_of(view, (*heads, Group("whole", r"qkv\.weight")))
    size = sum(parts.shape)
    generator = torch.Generator().manual_seed(3)
    ring = torch.randn(3, size, generator=generator)
    last = torch.randn(size, generator=generator)
    sums = parts.assign @ exchange(ring, 0, last, view.parameters, parts).numpy()
    np.testing.assert_allclose(sums[1] + sums[2], sums[3], rtol=1e-6)  # two heads make the whole
    assert not np.allclose(sums[1], sums[2])


def test_sketches_are_linear_unbiased_and_of_the_stated_variance() -> None:
    # 300 seeds, 3 blocks of 64 and a rest: mean of <Sx, Sy> within 4 standard errors, variance at
    # most (|x|²|y|² + <x, y>²)/m, whose own relative sd is sqrt(2/300) = 8 %, times 1.3.
    generator = torch.Generator().manual_seed(4)
    x, y = 1 + torch.randn(2, 200, generator=generator, dtype=torch.float64)  # no signs: a bias
    seen = []
    for seed in range(300):
        a, b = (count_sketch([(0, one[:50]), (1, one[50:])], 64, seed) for one in (x, y))
        both = count_sketch([(0, (x + y)[:50]), (1, (x + y)[50:])], 64, seed)
        torch.testing.assert_close(both, a + b)
        seen.append((a @ b).item())
    truth = (x @ y).item()
    bound = ((x @ x) * (y @ y) + truth**2).item() / 64
    assert np.mean(seen) == pytest.approx(truth, abs=4 * math.sqrt(bound / 300))
    assert 0.4 * bound < np.var(seen) < 1.3 * bound


def test_weights_of_one_block_never_meet() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert (
        count_sketch([(0, x)], 64, 1).abs().sort().values.tolist() == x.abs().sort().values.tolist()
    )


def test_weights_of_two_blocks_meet_once_in_as_many_seeds_as_sums() -> None:
    # Two weights a block apart fall into one sum with probability 1/64, then |Sx|² is 0 or 4 in
    # place of 2: 300 seeds, 4.7 +- 2.2. Without a shift they would meet in all 300.
    x = torch.zeros(128, dtype=torch.float64)
    x[0] = x[64] = 1.0
    squares = [count_sketch([(0, x)], 64, seed).square().sum().item() for seed in range(300)]
    assert set(squares) <= {0.0, 2.0, 4.0}
    assert sum(one != 2 for one in squares) <= 14


def test_sketched_exchange_is_the_exchange_of_its_rows() -> None:
    view = ModelView(CASES["mlp"].model())
    new = sketch_parts(view, "layer", 4096, 0)
    assert new.shape == (4, 4096)
    generator = torch.Generator().manual_seed(6)
    ring = torch.randn(3, 4, 4096, generator=generator, dtype=torch.float64)
    last = torch.randn(4, 4096, generator=generator, dtype=torch.float64)
    before, delta = ring.clone(), new - last
    sums = exchange_sketch(ring, 1, last, new)
    torch.testing.assert_close(sums[:, :3], (before * delta).sum(2).T)
    torch.testing.assert_close(sums[:, 3], (delta**2).sum(1))
    torch.testing.assert_close(sums[:, 4], (new**2).sum(1))
    assert torch.equal(ring[1], delta) and torch.equal(last, new)
