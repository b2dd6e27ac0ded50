"""The names of "fokker_planck" against transcriptions, their doors, and defects as numbers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.density import published as pub
from foreshock.documents import (
    FokkerPlanckDynamics,
    FPETorchWrapper,
    RLHFMonitor,
    detect_phase_transition,
)
from tests.published.test_fokker_planck import literal_detect
from tests.published.test_fokker_planck_density import literal_entropy_gradient
from tests.published.test_model import Dynamics

#: Thresholds that no number reaches, so that nothing is reset or looked at.
NEVER = -math.inf


def cloud(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def system(d: int = 2, target: Tensor | None = None, **how: float) -> FokkerPlanckDynamics:
    """The identity as decoder."""
    fpe = FokkerPlanckDynamics(lambda z: z, **how)
    fpe.target_x = torch.full((d,), 0.5, dtype=torch.float64) if target is None else target
    return fpe


def listing(n: int, d: int = 2) -> Dynamics:
    """The listing with the same target for every particle; its own Fisher sums, ours likewise."""
    theirs = Dynamics(torch.full((n, d), 0.5, dtype=torch.float64))
    theirs.gamma *= d**2  # that transcription takes the mean of squares where the listing sums
    return theirs


def test_an_epoch_is_that_of_the_listing() -> None:
    """Oracle: Euler-Maruyama with the same normals; C and J rest on rounding, so to their size."""
    ours, theirs, z = system(C_threshold=NEVER), listing(30), cloud(30, 2) * 0.2
    end, history = ours.train_epoch(z, None, n_steps=4, dt=0.05, seed=7)
    g, moved, losses, production = torch.Generator().manual_seed(7), z, [], []
    for step in range(4):
        t = step * 0.05
        root = torch.linalg.cholesky(theirs.diffusion(moved, t)[0] + 1e-6 * torch.eye(2))
        noise = torch.randn(30, 2, generator=g, dtype=z.dtype)
        moved = moved + theirs.drift(moved, t) * 0.05 + math.sqrt(0.1) * noise @ root.T
        losses.append(float((moved - 0.5).square().mean()))
        production.append(theirs.production(moved, theirs.flux(moved, t)))
    torch.testing.assert_close(end, moved, rtol=1e-9, atol=1e-12)
    assert history["loss"] == pytest.approx(losses)
    assert history["S_dot"] == pytest.approx(production, rel=1e-3)
    assert history["transitions"] == [] and len(history["C"]) == 4
    torch.testing.assert_close(ours._compute_flux(z, None, 0.3), theirs.flux(z, 0.3), rtol=1e-3,
                               atol=1e-6)  # fmt: skip
    flux = cloud(30, 2, 1)
    assert ours.entropy_production(z, flux) == pytest.approx(theirs.production(z, flux))
    assert ours.learning_rate(1000.0) == pytest.approx(0.005)
    torch.testing.assert_close(z, cloud(30, 2) * 0.2)  # the start is left as it was
    again, _ = ours.train_epoch(z, None, n_steps=4, dt=0.05, seed=7)
    assert torch.equal(end, again)


def test_c_is_rounding() -> None:
    # Defect: C depends on the float type by a factor of thousands, and on d beyond.
    z, found = cloud(60, 2) * 0.2, {}
    for dtype in (torch.float32, torch.float64):
        fpe = system(target=torch.full((2,), 0.5, dtype=dtype))
        found[dtype] = fpe.consolidation_ratio(z.to(dtype), None, 0.0)
    assert found[torch.float64] > 1e3 * found[torch.float32]
    drift = listing(60).drift(z, 0.0)
    carried = torch.einsum("nij,nj->ni", listing(60).diffusion(z, 0.0), pub.grad_rho_queries_fp(z))
    meant = float(drift.norm() / carried.norm())
    assert found[torch.float32] > 10 * meant


def test_an_underflow_is_nan_and_no_exception() -> None:
    """rho = 1/(n (2 pi h^2)^(d/2)) by the self term: infinite above 3.4e38, and with n = 8 and
    h = .1 that is d > 2 ln(3.4e38 * 8)/-ln(.0628) = 65.6."""
    for d, finite in ((65, True), (66, False)):
        assert bool(torch.isinf(pub.rho_fp(cloud(8, d, dtype=torch.float32))).all()) is not finite
        fpe = FokkerPlanckDynamics(lambda z: z)
        fpe.target_x = torch.zeros(d)
        z, history = fpe.train_epoch(cloud(8, d), None, n_steps=2)
        assert bool(torch.isfinite(z).all()) is finite
        assert math.isfinite(history["C"][-1]) is finite
        assert history["transitions"] == [] or finite


def test_resets_and_what_has_no_effect() -> None:
    z = cloud(50, 2)
    ours = system()
    first = ours.apply_reset(z, 0.0, 3)
    kept = (first[:, None] == z[None]).all(2).any(1)
    assert int(kept.sum()) == 40 and first.shape == z.shape
    assert torch.equal(first, ours.apply_reset(z, 99.0, torch.Generator().manual_seed(3)))
    # Defect: rows change places (A19).
    assert not torch.equal(first[:40], z[:40])
    # Defect: beta_reset is nothing, at any value, in an epoch full of resets.
    ends = [
        system(beta_reset=beta, C_threshold=math.inf).train_epoch(z, None, n_steps=14, seed=1)
        for beta in (0.0, 5.0)
    ]
    assert ends[0][1]["transitions"] == [11, 12, 13] and torch.equal(ends[0][0], ends[1][0])
    assert not bool(torch.isfinite(ours.apply_reset(z * math.nan, 0.0, 3)[40:]).any())


def test_the_weights_of_the_decoder_are_those_of_the_call() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, two = (nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)).double() for _ in "ab")
    z = cloud(20, 2)

    def flux(model: nn.Module, params: dict[str, Tensor] | None) -> Tensor:
        fpe = FokkerPlanckDynamics(model)
        fpe.target_x = torch.zeros(3).double()
        return fpe._compute_flux(z, params, 0.0)

    weights = dict(two.named_parameters())
    assert torch.equal(flux(one, weights), flux(two, None))
    assert not torch.equal(flux(one, None), flux(two, None))
    assert torch.equal(flux(one, None), flux(one, dict(one.named_parameters())))

    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = one

        def decode(self, z: Tensor) -> Tensor:
            return self.inner(z)

    assert torch.equal(flux(Coder(), None), flux(one, None))
    with pytest.raises(ValueError, match=r"There is no \['0.bias'\]"):
        flux(one, {"0.weight": one[0].weight})


def test_door_of_the_dynamics() -> None:
    with pytest.raises(ValueError, match="must be positive. Got 0"):
        FokkerPlanckDynamics(nn.Identity(), kde_bandwidth=0)
    with pytest.raises(ValueError, match=r"`alpha_reset` .* must be in \[0, 1\]. Got 1.5"):
        FokkerPlanckDynamics(nn.Identity(), alpha_reset=1.5)
    fpe = FokkerPlanckDynamics(lambda z: z)
    assert fpe.target_x is None
    with pytest.raises(ValueError, match="Set `target_x`"):
        fpe.consolidation_ratio(torch.eye(2), None, 0.0)
    fpe.target_x = torch.zeros(2)
    with pytest.raises(ValueError, match=r"shape \(n, d\). Got \(2,\)"):
        fpe.train_epoch(torch.zeros(2), None)
    with pytest.raises(ValueError, match="at least 2 particles"):
        fpe.apply_reset(torch.eye(2)[:1], 0.0, 0)


def test_detector() -> None:
    g = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        history = {name: g.standard_normal(40) for name in ("C", "S_dot")}
        history["loss"] = np.full(40, 1.0)
        found = detect_phase_transition(history, entropy_sigma=1.0)
        assert found.tolist() == literal(history).tolist()
        hits += len(found)
    assert hits > 200  # an oracle that finds nothing would prove nothing
    # Defect: a loss that falls by 1 % of its range at each step is a "plateau"; with noise of a
    # thousandth on a flat one there is none.
    step = {"C": [5.0] * 15 + [1.0] * 15, "S_dot": [0.0] * 14 + [9.0] + [0.0] * 15}
    falling = [1 - 0.01 * k for k in range(30)]
    noisy = (1 + 1e-3 * g.standard_normal(30)).tolist()
    assert detect_phase_transition(step | {"loss": falling}).tolist() == [14]
    assert detect_phase_transition(step | {"loss": noisy}).tolist() == []
    # Defect: what is found at step 14 is taken back by what happens afterwards.
    later = step | {"loss": falling + [0.0] * 30}
    later = {k: list(v) + [9.0] * 30 if k == "S_dot" else list(v) for k, v in later.items()}
    later["C"] = later["C"] + [1.0] * 30
    assert detect_phase_transition(later).tolist() == []
    with pytest.raises(ValueError, match="There is no loss"):  # the published KeyError
        detect_phase_transition({"C": [1.0], "S_dot": [1.0]})
    with pytest.raises(ValueError, match="must have one length"):
        detect_phase_transition({"C": [1.0], "S_dot": [1.0], "loss": [1.0] * 2})
    for short in ([], [1.0]):
        history = dict.fromkeys(("C", "S_dot", "loss"), short)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means of nothing
            assert literal_detect(history).tolist() == []
        assert detect_phase_transition(history).tolist() == []


def literal(history: dict[str, np.ndarray]) -> np.ndarray:
    """The criteria with entropy_sigma = 1: that of the listing, its spike apart."""
    c, s = history["C"], history["S_dot"]
    drops = np.where(np.diff(c) < -0.5 * np.std(np.diff(c)))[0]
    spikes = np.where(s > s.mean() + s.std())[0]
    flat = np.arange(9, 39)  # the tenth difference of a constant is 0
    assert set(literal_detect(history)) <= set(drops)
    return np.intersect1d(np.intersect1d(drops, spikes), flat)


def test_monitor() -> None:
    fpe, z = system(), cloud(30, 2) * 0.2
    monitor = RLHFMonitor("anything", fpe)
    quiet = monitor.detect_misalignment_risk(z, None, 0.0)
    assert quiet["alert"] is None and quiet["C"] > 10 and quiet["max_divergence"] == 0
    eager = RLHFMonitor(None, fpe, C_alert_threshold=math.inf, div_J_threshold=0.0)
    found = eager.detect_misalignment_risk(z, None, 0.0)
    largest = pub.div_j_fp(z, lambda at: listing(30).flux(at, 0.0)).abs().max()
    assert found["alert"] == "POTENTIAL_REWARD_HACKING"
    assert found["max_divergence"] == pytest.approx(float(largest), rel=1e-2)
    # Defect (B7): the divergence is that of t = 0 for ever, though the learning rate has halved.
    later = eager.detect_misalignment_risk(z, None, 1000.0)
    assert later["max_divergence"] == found["max_divergence"] and later["C"] != found["C"]
    nan = eager.detect_misalignment_risk(z * math.nan, None, 0.0)
    assert math.isnan(nan["C"]) and nan["alert"] is None and "nan" in nan["recommendation"]


@pytest.mark.parametrize("d", [6, 8])
def test_the_alert_comes_by_chance(d: int) -> None:
    """Defect: clouds drawn alike, at rest on their target, with the defaults, in float32.

    11 of 20 in six dimensions and 6 in eight: at such shares none or all is rarer than 1e-3.
    """
    g, alerts = torch.Generator().manual_seed(0), 0
    for _ in range(20):
        z = 0.2 * torch.randn(60, d, generator=g)
        monitor = RLHFMonitor(None, system(target=torch.zeros(d)))
        alerts += monitor.detect_misalignment_risk(z, None, 0.0)["alert"] is not None
        meant = pub.c_fp(-0.02 * z / d, torch.eye(d).expand(60, d, d), pub.grad_rho_queries_fp(z))
        assert meant < 1e-2  # what C would be by its formula: an alert for every cloud, or none
    assert 0 < alerts < 20


def test_wrapper() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 2).double()
    z, wrapper = cloud(25, 2) * 0.2, FPETorchWrapper(model, model)
    with pytest.warns(UserWarning, match="published 1.0, which stands for nothing"):
        assert wrapper.consolidation_ratio(z, 0) == 1.0
    model(z).square().sum().backward()
    size = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    numpy = z.numpy()
    rho = np.exp(-((numpy[:, None] - numpy[None]) ** 2).sum(-1) / 0.02).sum(1)
    rho = rho / (25 * 2 * math.pi * 0.01)
    slope = -literal_entropy_gradient(numpy, 0.1) / (1 + np.log(rho + 1e-10))[:, None]
    expected = size / (0.01 * math.exp(-40 / 500) * np.linalg.norm(slope) + 1e-8)
    got = wrapper.consolidation_ratio(model(z) * 0 + z, 40)  # a graph at the latents is no harm
    assert got == pytest.approx(expected, rel=1e-6)
    # Without effect, as published: the extractor, lambda_reg and C_threshold.
    other = FPETorchWrapper(model, lambda *_: 1 / 0, lambda_reg=9.0, C_threshold=9.0)
    assert other.consolidation_ratio(z, 40) == got
    # Defect: twice the loss is twice the C, and latents in half the unit another C again.
    for p in model.parameters():
        p.grad *= 2
    assert wrapper.consolidation_ratio(z, 40) == pytest.approx(2 * got)
    assert wrapper.consolidation_ratio(2 * z, 40) > 2.5 * got
    assert math.isnan(FPETorchWrapper(model, model, kde_bandwidth=10.0).consolidation_ratio(
        cloud(3, 600), 0))  # fmt: skip
    with pytest.raises(ValueError, match=r"shape \(n, d\). Got \(3,\)"):
        wrapper.consolidation_ratio(torch.zeros(3), 0)
    with pytest.raises(ValueError, match="must be positive. Got -1"):
        FPETorchWrapper(model, model, kde_bandwidth=-1)


def test_weight_reset() -> None:
    """Oracle: the share of weights that move, and the size of the moves, over 40,000 of them."""
    model = nn.Linear(200, 200, bias=False)
    wrapper, before = FPETorchWrapper(model, model), model.weight.detach().clone()
    state = torch.get_rng_state()
    wrapper.apply_reset(model)
    assert torch.equal(state, torch.get_rng_state())
    moved = (model.weight.detach() - before).flatten()
    hit = moved != 0
    # Four standard errors: sqrt(.15 .85/40000) = 1.8e-3, and 1/sqrt(2 * 6000) = .9 %.
    assert float(hit.double().mean()) == pytest.approx(0.15, abs=0.0072)
    assert float(moved[hit].std()) == pytest.approx(0.01, rel=0.037)
    # Defect: one scale for all: a thousandth of weights of 10, a hundred times those of .0001.
    pair = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    for layer, size in zip(pair, (10.0, 1e-4), strict=True):
        nn.init.constant_(layer.weight, size)
    wrapper.apply_reset(pair, alpha=1.0)
    spread = [
        float(p.detach().std() / s) for p, s in zip(pair.parameters(), (10, 1e-4), strict=True)
    ]
    assert spread == pytest.approx([0.001, 100], rel=0.06)  # 4/sqrt(2 * 2500)
    again = model.weight.detach().clone()
    wrapper.apply_reset(model, alpha=0.0)
    assert torch.equal(again, model.weight)
    with pytest.raises(ValueError, match="Got 1 trained tensors, 2"):
        wrapper.apply_reset(model, alpha=2)
    with pytest.raises(ValueError, match="Got 0 trained tensors"):
        wrapper.apply_reset(model.requires_grad_(False))
