"""NoiseTails: the right coordinates, projections by hand, the numbers of the statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foreshock.estimators import NoiseTails
from foreshock.estimators.noise_tails import chosen, random_projections, sampled_coordinates
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.stable_law import stable_samples
from foreshock.stats.tails_noise import noise_tails
from tests.cases import CASES, loss

SHAPES = [(7, 5), (3,), (), (40, 11), (2,)]


def gradients(n: int, dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in SHAPES)
        for _ in range(n)
    ]


def flat(gradient: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in gradient]).double()


def test_coordinates_are_those_of_the_flat_gradient() -> None:
    given = gradients(4)
    picks = chosen(481, 100, 3)
    assert len(np.unique(picks)) == 100 and picks.max() < 481
    expected = torch.stack([flat(g)[picks] for g in given])
    torch.testing.assert_close(sampled_coordinates(given, 100, 3), expected, rtol=0, atol=0)
    everything = torch.stack([flat(g) for g in given])
    torch.testing.assert_close(sampled_coordinates(given, 999), everything, rtol=0, atol=0)


@pytest.mark.parametrize("piece", [1 << 16, 50])
@pytest.mark.parametrize("count", [16, 100, 481, 999])
def test_projections_are_signed_sums_of_disjoint_coordinates(
    count: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreshock.estimators.noise_tails.CHUNK", piece)
    # The matrix of the projection, from unit vectors; then random gradients against that matrix.
    units = torch.eye(481)
    parts = [torch.split(u, [35, 3, 1, 440, 2]) for u in units]
    shaped = [tuple(p.reshape(s) for p, s in zip(one, SHAPES, strict=True)) for one in parts]
    matrix = random_projections(shaped, count, seed=5)  # (481, P)
    width = min(count, 481)
    assert matrix.shape == (481, width)
    nonzero = matrix.nonzero()
    assert torch.equal(nonzero[:, 1], torch.arange(481) % width)  # each coordinate in one of them
    assert set(matrix[matrix != 0].tolist()) == {-1.0, 1.0}
    assert abs(matrix.sum()) < 4 * 481**0.5  # signs are fair: 4 sd
    given = gradients(3)
    expected = torch.stack([flat(g) for g in given]) @ matrix
    torch.testing.assert_close(
        random_projections(given, count, seed=5), expected, rtol=1e-4, atol=1e-4
    )


def noise_moment(noise: np.ndarray, step: int = 0) -> Moment:
    """A model whose batch gradients are the given rows: the loss is a product with the batch."""
    model = nn.Linear(noise.shape[1], 1, bias=False)
    batches = [torch.from_numpy(row).float() for row in noise]
    probe = Probe(loss=lambda m, batch: m(batch).sum(), batches=batches)
    view = ModelView(model)
    return Moment(step, view, (None,), (0.1,), probe=probe)


def test_reads_what_the_statistics_read() -> None:
    noise = stable_samples(1.5, (8, 300), np.random.default_rng(0)).astype(np.float32)
    _, readings = NoiseTails().update(None, noise_moment(noise))
    expected = noise_tails(noise)
    for name, estimate in expected.items():
        found = readings.scalars[f"tails/coordinates_{name}"]
        assert repr(found) == repr(estimate)  # equal also where nan
    projected = random_projections([(torch.from_numpy(row),) for row in noise], 64).numpy()
    for name, estimate in noise_tails(projected).items():
        assert readings.scalars[f"tails/projections_{name}"].value == pytest.approx(
            estimate.value, nan_ok=True
        )


def test_finds_stable_noise_and_leaves_gaussian_noise_in_its_null() -> None:
    rng = np.random.default_rng(1)
    scales = rng.lognormal(0, 2, 2000)
    _, heavy = NoiseTails().update(None, noise_moment(stable_samples(1.3, (8, 2000), rng) * scales))
    _, normal = NoiseTails().update(None, noise_moment(rng.standard_normal((8, 2000)) * scales))
    for name in ("log_moment", "block", "clt"):
        found = heavy.scalars[f"tails/coordinates_{name}"]
        assert found.low < 1.3 < found.high < 2
        null = normal.scalars[f"tails/coordinates_{name}"]
        # 512 coordinates: the band is about 2 ± .15 and holds 95 %; ± .3 holds all.
        assert null.low < 2 < null.high and null.value == pytest.approx(2, abs=0.3)
    assert heavy.scalars["tails/coordinates_mcculloch"].high < 1.5
    # Projections of Gaussian noise are Gaussian, whatever the scales.
    block = normal.scalars["tails/projections_block"]
    assert block.low < 2 < block.high


def test_projections_of_finite_variance_are_nearly_gaussian_where_coordinates_are_not() -> None:
    rng = np.random.default_rng(2)
    noise = rng.laplace(size=(8, 64 * 100))
    _, readings = NoiseTails(coordinates=4000).update(None, noise_moment(noise))
    coordinate = readings.scalars["tails/coordinates_block"]
    assert coordinate.high < 1.9  # Laplace reads 1.67
    projection = readings.scalars["tails/projections_block"]
    assert projection.null[0] < projection.value < projection.null[1]


def test_few_batches_say_so() -> None:
    _, readings = NoiseTails().update(None, noise_moment(np.ones((3, 40))))
    for estimate in readings.scalars.values():
        assert "5 probe batches. Got 3" in estimate.reason


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`coordinates` of `NoiseTails` must be at least 16. Got"):
        NoiseTails(coordinates=15)
    with pytest.raises(ValueError, match="`projections` of `NoiseTails`"):
        NoiseTails(projections=1)
    with pytest.raises(ValueError, match="`seed` of `NoiseTails` must be at least 0. Got -1"):
        NoiseTails(seed=-1)
    with pytest.raises(ValueError, match="`coordinates` of `NoiseTails` must be a whole number"):
        NoiseTails(coordinates=64.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_models_of_any_kind_get_a_number_or_a_flag(name: str, kind: torch.dtype) -> None:
    case = CASES[name]
    model = case.model().to(kind)
    batches = [case.batch(16, seed) for seed in range(8)]
    if name != "transformer":
        batches = [(x.to(kind), y) for x, y in batches]
    view = ModelView(model)
    absent = tuple(None for _ in view.names)
    moment = Moment(0, view, absent, (0.1,), probe=Probe(loss=loss, batches=batches))
    first, second = (NoiseTails().update(None, moment)[1].scalars for _ in range(2))
    assert {k: repr(v) for k, v in first.items()} == {k: repr(v) for k, v in second.items()}
    for estimate in first.values():
        assert np.isfinite(estimate.value) or (estimate.flags and estimate.reason)
        if np.isfinite(estimate.value) and np.isfinite(estimate.low):
            assert estimate.low <= estimate.value <= estimate.high
    if kind != torch.bfloat16:  # 8 bits of mantissa leave equal values in two batches
        found = first["tails/coordinates_block"]
        assert np.isfinite(found.value)
        assert found.resolved or "coordinates depend on each other" in found.reason
