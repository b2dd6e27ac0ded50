"""Signal to noise in other units: the ReLU rescaling, the optimizer's metric, single weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.estimators import GradientMetrics, GradientNoise, weight_snr
from foreshock.estimators.gradient_metrics_products import SAMPLE, metric_grams, sample_ratios
from foreshock.probe import Probe
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.stats.gram import signal_noise
from foreshock.stats.mahalanobis import metric_folds, snr_in_noise_metric
from foreshock.stats.weight_snr import QUANTILES, weight_snr_null
from foreshock.types import Estimate
from tests.cases import CASES, loss

INVARIANT = ("grad/snr_diagonal", "grad/snr_mahalanobis", "grad/weight_snr_median")


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def rescaled(a: float) -> nn.Module:
    """The same function of x for every a > 0: relu(a w x)/a."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(60, 24, bias=False), nn.ReLU(), nn.Linear(24, 1, bias=False)
        ).double()
    with torch.no_grad():
        model[0].weight *= a
        model[2].weight /= a
    return model


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 60, generator=generator).double()
    return x, 1 + 0.7 * torch.randn(24, 1, generator=generator).double()


def measure(
    model: nn.Module, probe: Probe, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Estimate]:
    view = ModelView(model)
    seen = None if optimizer is None else OptimizerView(optimizer, view)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), seen, probe=probe)
    found = dict(GradientNoise().update(None, moment)[1].scalars)
    return found | dict(GradientMetrics().update(None, moment)[1].scalars)


def test_only_the_metric_of_the_noise_survives_a_relu_rescaling() -> None:
    probe = Probe(squared, [batch(i) for i in range(16)])
    found = {a: measure(rescaled(a), probe) for a in (0.1, 1.0, 10.0)}
    # a                        .1       1       10
    # grad/snr                .102    1.91    6.32
    # grad/snr_diagonal       301     301     301     interval 259 to 354 at every a
    # grad/snr_mahalanobis    2.67    2.67    2.67    2.21 to 3.23
    # grad/weight_snr_median  .0972   .0972   .0972   .0786 to .120
    assert found[10.0]["grad/snr"].low > 30 * found[0.1]["grad/snr"].high
    for name in INVARIANT:
        one = found[1.0][name]
        assert one.low > 0 and one.high < 1.5 * one.value  # and it is a measurement
        for a in (0.1, 10.0):
            for field in ("value", "low", "high"):
                # float64 gradients of two networks: rounding of 1e-15, solves of condition < 1e3
                expected = pytest.approx(getattr(one, field), rel=1e-9)
                assert getattr(found[a][name], field) == expected, (name, a)


def test_sgd_has_the_metric_of_the_weights_themselves() -> None:
    case = CASES["transformer"]
    model = case.model().eval()
    found = measure(model, case.probe(batches=8), torch.optim.SGD(model.parameters(), lr=0.1))
    plain, scaled = found["grad/snr"], found["grad/snr_preconditioned"]
    for field in ("value", "low", "high"):
        assert getattr(scaled, field) == pytest.approx(getattr(plain, field), rel=1e-9)


def test_adams_metric_is_its_second_moment() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    assert (
        "has made no step yet" in measure(model, probe, optimizer)["grad/snr_preconditioned"].reason
    )
    for seed in range(3):
        optimizer.zero_grad()
        loss(model, case.batch(16, seed)).backward()
        optimizer.step()
    found = measure(model, probe, optimizer)["grad/snr_preconditioned"]
    view = ModelView(model)
    rows = []
    for part in probe.draw(0):
        row = []
        for p, g in zip(model.parameters(), view.gradient(loss, part)[1], strict=True):
            second = optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.999**3)
            root = ((1 - 0.9**3) * (second.sqrt() + 1e-8)).sqrt()
            row.append((g.double() / root).reshape(-1))
        rows.append(torch.cat(row).numpy())
    g = np.stack(rows)
    assert found.value == pytest.approx(signal_noise(g @ g.T)["grad/snr"].value, rel=1e-9)
    unknown = measure(model, probe)["grad/snr_preconditioned"]
    assert math.isnan(unknown.value) and "not known" in unknown.reason


def test_products_are_those_of_the_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (9_000,), ()]
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(9)]
    flat = np.stack([torch.cat([p.reshape(-1) for p in g]).double().numpy() for g in gradients])
    found = metric_grams(gradients, None)
    assert found.preconditioned.abs().sum() == 0
    for gram, fold in zip(found.noise.numpy(), metric_folds(9), strict=True):
        weighted = flat / np.delete(flat, fold, 0).var(0, ddof=1)
        np.testing.assert_allclose(gram, weighted @ flat.T, rtol=1e-9)
    m, v = flat.mean(0), flat.var(0, ddof=1)
    leverage = (flat - m) ** 2 / v @ (6 / 8 * m**2 / v - 1 / 9)
    np.testing.assert_allclose(found.leverage.numpy(), leverage, rtol=1e-9)
    np.testing.assert_array_equal(found.sample.numpy(), flat)  # below SAMPLE: every weight


def test_the_sample_is_evenly_spaced_over_all_parameters() -> None:
    total = 2 * SAMPLE + 1001
    whole = torch.arange(total, dtype=torch.float32)
    parts = [whole[:1001], whole[1001 : 1001 + SAMPLE], whole[1001 + SAMPLE :]]
    sample = metric_grams([parts, parts], None).sample
    np.testing.assert_array_equal(sample[0].numpy(), np.arange(0, total, 3))
    assert sample.shape[1] <= SAMPLE


def test_weights_against_the_f_law_and_numpy() -> None:
    n, d = 8, 20_000
    g = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g[:, :100] = 0.0  # no batch moves these: neither signal nor noise
    (ratio,) = weight_snr([[row] for row in g])
    assert ratio[:100].isnan().all() and ratio.shape == (d,)
    host = sample_ratios(g).numpy()
    np.testing.assert_allclose(host[:5], np.quantile(ratio[100:].numpy(), QUANTILES), rtol=1e-12)
    assert host[5] == d - 100
    for level, value in zip(QUANTILES, host[:5], strict=True):
        # the level reached has sd sqrt(level (1-level)/d) <= .0035; 4 of them
        reached = float((ratio[100:] < weight_snr_null(n, level)).double().mean())
        assert abs(reached - level) < 0.014 and value > 0
    without = [np.delete(g[:, 100:].numpy(), i, 0) for i in range(n)]
    medians = [np.median(x.mean(0) ** 2 / x.var(0, ddof=1)) for x in without]
    # torch takes the lower of the two middle values of 19,900: one rank of 20,000
    np.testing.assert_allclose(host[6 : 6 + n], medians, rtol=1e-3)


def test_a_weight_that_only_one_batch_moves_has_no_ratio_without_it() -> None:
    g = torch.zeros(8, 3, dtype=torch.float64)
    g[2, 0] = 1 / 3
    g[:, 1] = torch.linspace(0.1, 1, 8)
    host = sample_ratios(g)
    assert host[5] == 2 and host[6:14].isfinite().all()
    others = np.delete(g[:, 1].numpy(), 2)
    assert host[8] == pytest.approx(others.mean() ** 2 / others.var(ddof=1))


def test_few_batches_say_which_series_they_lack() -> None:
    case = CASES["mlp"]
    found = measure(case.model(), case.probe(batches=6))
    assert "at least 7 batch gradients. Got 6" in found["grad/snr_diagonal"].reason
    assert math.isfinite(found["grad/weight_snr_median"].value)
    nothing = measure(case.model(), case.probe(batches=2))
    assert "at least 3 batches. Got 2" in nothing["grad/weight_snr_median"].reason


def by_parts(
    groups: Any, model: nn.Module, probe: Probe, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Estimate]:
    view = ModelView(model)
    seen = None if optimizer is None else OptimizerView(optimizer, view)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), seen, probe=probe)
    return dict(GradientMetrics(groups=groups).update(None, moment)[1].scalars)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("groups", ["layer", "block"])
def test_the_diagonal_form_of_the_parts_sums_to_the_whole(name: str, groups: str) -> None:
    case = CASES[name]
    model, probe = case.model().double().eval(), case.probe(batches=8)
    if name != "transformer":
        drawn = [(x.double(), y) for x, y in probe.draw(0)]
        probe = Probe(loss=loss, batches=drawn)
    found = by_parts(groups, model, probe)
    parts = [e.value for n, e in found.items() if n.startswith("grad/snr_diagonal@")]
    assert len(parts) > 1
    # sums of float64 in another order
    assert sum(parts) == pytest.approx(found["grad/snr_diagonal"].value, rel=1e-9)
    # and the whole is what it is without parts
    whole = by_parts(None, model, probe)
    assert {n: repr(e) for n, e in found.items() if "@" not in n} == {
        n: repr(e) for n, e in whole.items()
    }


def test_a_part_is_the_measurement_of_its_weights_alone() -> None:
    case = CASES["transformer"]
    model, probe = case.model().double().eval(), case.probe(batches=9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loss(model, case.batch(16, 7)).backward()
    optimizer.step()
    heads = [Group(f"head {i}", r"qkv\.weight", head=(i, 2), stacked=3) for i in range(2)]
    groups = [Group("qkv", r"qkv\.weight"), *heads, Group("none", "nothing")]
    found = by_parts(groups, model, probe, optimizer)

    def packed(tensors: dict[str, Tensor]) -> np.ndarray:
        """Block, 3 projections x 2 heads x 4, width."""
        chosen = [tensors[n] for n in names if n.endswith("qkv.weight")]
        return torch.stack(chosen).reshape(2, 3, 2, 4, 8).double().numpy()

    view = ModelView(model)
    names = view.names
    gradients = [view.gradient(loss, b)[1] for b in probe.draw(0)]
    rows = np.stack([packed(dict(zip(names, g, strict=True))) for g in gradients])
    seconds = {n: optimizer.state[p]["exp_avg_sq"] for n, p in model.named_parameters()}
    # After one step: second moment g² = v/(1 − β2), metric (1 − β1)(|g| + ε).
    metric = 0.1 * (np.sqrt(packed(seconds) / 0.001) + 1e-8)
    for part, slicer in (
        ("qkv", np.s_[:]),
        ("head 0", np.s_[:, :, 0]),
        ("head 1", np.s_[:, :, 1]),
    ):
        g = np.stack([row[slicer].ravel() for row in rows])
        m, v = g.mean(0), g.var(0, ddof=1)
        noise = np.stack(
            [g / np.delete(g, fold, 0).var(0, ddof=1) @ g.T for fold in metric_folds(9)]
        )
        leverage = (g - m) ** 2 / v @ (6 / 8 * m**2 / v - 1 / 9)
        naive = snr_in_noise_metric(noise, leverage)
        scaled = g / np.sqrt(metric[slicer].ravel())
        naive["grad/snr_preconditioned"] = signal_noise(scaled @ scaled.T)["grad/snr"]
        for series, estimate in naive.items():
            got = found[f"{series}@{part}"]
            # products of float64 in another order; the ridge solves at a condition below 1e3
            for field in ("value", "low", "high"):
                expected = pytest.approx(getattr(estimate, field), rel=1e-9)
                assert getattr(got, field) == expected, (series, part, field)
        median = found[f"grad/weight_snr_median@{part}"].value
        assert median == pytest.approx(np.median(m**2 / v), rel=1e-9)
    for series in ("snr_preconditioned", "snr_diagonal", "snr_mahalanobis", "weight_snr_median"):
        assert "finds no trainable parameter" in found[f"grad/{series}@none"].reason


def test_parts_of_too_few_batches_are_said() -> None:
    case = CASES["mlp"]
    found = by_parts("layer", case.model(), case.probe(batches=2))
    assert "at least 3 batches. Got 2" in found["grad/snr_diagonal@head"].reason


def test_the_door() -> None:
    with pytest.raises(ValueError, match="`ridge` of `GradientMetrics` must be positive. Got 0"):
        GradientMetrics(ridge=0)
    with pytest.raises(ValueError, match="at least 2 gradients. Got 1"):
        weight_snr([[torch.ones(2)]])
    with pytest.raises(ValueError, match="`groups` of `GradientMetrics` must be 'layer'"):
        GradientMetrics(groups="head")  # type: ignore[arg-type]
