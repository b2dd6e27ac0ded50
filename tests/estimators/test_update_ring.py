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


@pytest.mark.parametrize("m", [63, 8])
def test_sketches_are_linear_unbiased_and_of_the_stated_variance(m: int) -> None:
    # 300 seeds, 3 blocks of 63 and a rest, or 4 pages of 8 blocks: mean of <Sx, Sy> within 4
    # standard errors, variance at most (|x|²|y|² + <x, y>²)/(m-1), whose own relative sd is
    # sqrt(2/300) = 8 %, times 1.3.
    generator = torch.Generator().manual_seed(4)
    x, y = 1 + torch.randn(2, 200, generator=generator, dtype=torch.float64)  # no signs: a bias
    seen = []
    for seed in range(300):
        a, b, both = (count_sketch([one], m, seed) for one in (x, y, x + y))
        torch.testing.assert_close(both, a + b)
        seen.append((a @ b).item())
    truth = (x @ y).item()
    bound = ((x @ x) * (y @ y) + truth**2).item() / (m - 1)
    assert np.mean(seen) == pytest.approx(truth, abs=4 * math.sqrt(bound / 300))
    assert 0.4 * bound < np.var(seen) < 1.3 * bound


@pytest.mark.parametrize("kind", ["isotropic", "equal blocks", "rank one", "decaying"])
def test_planted_singular_values_are_kept_in_proportion_to_themselves(kind: str) -> None:
    # Ten values from 1 to 1e-5. Every one errs by 1/sqrt(2m) of itself, 1.1 % at m = 4096: rms over
    # 8 seeds and 10 values, good to 1/sqrt(160) = 8 % if independent; none beyond 4 sd. The vectors
    # are those with most structure for a hash of blocks: all blocks equal, or rows of 512 equal.
    generator = torch.Generator().manual_seed(10)
    width, m, blocks = 10, 4096, 30
    rows = torch.randn(width, m * blocks, generator=generator, dtype=torch.float64)
    if kind == "equal blocks":
        rows = rows[:, :m].repeat(1, blocks)
    elif kind == "rank one":
        rows = (rows[:, : 8 * blocks, None] * rows[:, None, -512:]).reshape(width, -1)
    elif kind == "decaying":
        rows = rows * torch.arange(1.0, m * blocks + 1).double() ** -0.5
    basis = torch.linalg.qr(rows.T).Q
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator).double()).Q
    rows = (turn * torch.logspace(0, -5, width, dtype=torch.float64)) @ basis.T
    truth = np.linalg.svd(rows.numpy(), compute_uv=False)
    errors = []
    for seed in range(8):
        short = torch.stack([count_sketch([row], m, seed) for row in rows]).numpy()
        sigma = np.sqrt(np.linalg.eigvalsh(short @ short.T)[::-1])
        errors.append((sigma / truth - 1) * math.sqrt(2 * m))
    assert np.abs(errors).max() < 4
    low = 0.4 if kind == "decaying" else 0.7  # a third of it lies in the first block, which is kept
    assert low < np.sqrt(np.mean(np.square(errors))) < 1.3


def test_weights_of_one_block_never_meet() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    short = count_sketch([x], 64, 1)
    assert short.abs().sort().values.tolist() == x.abs().sort().values.tolist()
    # the same column of two blocks: rotations are distinct
    for seed in range(300):
        assert count_sketch([torch.eye(64)[3], torch.eye(64)[3]], 64, seed).abs().sum() == 2


def test_weights_of_two_blocks_meet_once_in_as_many_seeds_as_sums() -> None:
    # Two weights fall into one sum with probability 1/63, then |Sx|² is 0 or 4 in place of 2: 300
    # seeds, 4.8 +- 2.2. With rotations that differ by one between neighbours it would be all or 0.
    x = torch.zeros(128, dtype=torch.float64)
    x[0] = x[70] = 1.0
    squares = [count_sketch([x], 64, seed).square().sum().item() for seed in range(300)]
    assert set(squares) == {0.0, 2.0, 4.0}
    assert sum(one != 2 for one in squares) <= 14


def test_a_sketch_does_not_see_how_the_vector_is_cut_or_stored() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(11)).bfloat16()
    whole = count_sketch([x.double()], 64, 3)
    pieces = [x[:7], x[7:64].float(), x[64:500].double(), x[500:].reshape(20, 25)]
    # sums of sixteen float64 in the same order
    assert torch.equal(count_sketch(pieces, 64, 3), whole)
    assert torch.equal(count_sketch([x], 64, 3), whole) and whole.dtype == torch.float64
    assert not torch.equal(count_sketch([x], 64, 4), whole)


def test_signs_are_not_the_bits_of_a_model_of_the_same_seed() -> None:
    # The weights of a model made from seed 0, against a sketch of seed 0: <Sw, Sw> would be off by
    # far more than 4 sd if its signs came from the same words.
    for seed in range(5):
        x = torch.randint(0, 2, (4096,), generator=torch.Generator().manual_seed(seed)).double()
        x = torch.cat([2 * x - 1] * 20)
        square = count_sketch([x], 4096, seed).square().sum().item()
        assert square == pytest.approx(len(x), rel=4 * math.sqrt(2 / 4096))


@pytest.mark.parametrize("name", CASES)
def test_sketched_layers_add_up_to_the_sketch_of_the_whole(name: str) -> None:
    view = ModelView(CASES[name].model())
    found = sketch_parts(view.parameters, parts_of(view, "layer"), 4096, 5)
    # linear: the same sums in float64, of another order
    torch.testing.assert_close(found[1:].sum(0), found[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], count_sketch(view.parameters, 4096, 5), rtol=0, atol=1e-12)


def test_sketched_heads_and_overlapping_groups() -> None:
    view = ModelView(CASES["transformer"].model())
    heads = tuple(Group(f"head {i}", r"qkv\.weight", (i, 2), 0, 3) for i in range(2))
    groups = (*heads, Group("whole", r"qkv\.weight"), Group("all", "."))
    found = sketch_parts(view.parameters, parts_of(view, groups), 4096, 6)
    torch.testing.assert_close(found[4], found[0])
    square = sum(
        p.double().square().sum()
        for n, p in zip(view.names, view.parameters, strict=True)
        if "qkv.weight" in n
    )
    # squares within 4 sd of a sketch; the two heads have no weight in common
    for one in (found[3].square().sum(), found[1].square().sum() + found[2].square().sum()):
        assert one.item() == pytest.approx(square.item(), rel=4 * math.sqrt(2 / 4096))


def test_sketched_exchange_is_the_exchange_of_its_rows() -> None:
    view = ModelView(CASES["mlp"].model())
    new = sketch_parts(view.parameters, parts_of(view, "layer"), 4096, 0)
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
