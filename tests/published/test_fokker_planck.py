"""fokker_planck.md's decisions on series: literal transcriptions, and each defect as a number."""

import math

import numpy as np
import pytest
import torch

from foreshock.detectors import PhaseTransition
from foreshock.simulators.published_fokker_planck import FokkerPlanckDynamics
from foreshock.stats import published as pub
from foreshock.types import Estimate


def literal_detect(metrics_history: dict, window: int = 10) -> np.ndarray:
    """The listing of section 5.3."""
    c = np.array(metrics_history["C"])
    s_dot = np.array(metrics_history["S_dot"])
    loss = np.array(metrics_history["loss"])
    d_c = np.diff(c)
    sharp_drops = np.where(d_c < -0.5 * np.std(d_c))[0]
    entropy_spikes = np.where(s_dot > np.mean(s_dot) + 2.0 * np.std(s_dot))[0]
    if len(loss) > window:
        d_loss = np.abs(np.diff(loss, n=window))
        plateaus = np.where(d_loss < 1e-4)[0] + (window - 1)
    else:
        plateaus = np.array([], dtype=int)
    return np.intersect1d(np.intersect1d(sharp_drops, entropy_spikes), plateaus)


def causal(rule: PhaseTransition, c: np.ndarray, s_dot: np.ndarray, loss: np.ndarray) -> list[int]:
    state, found = rule.init(), []
    for t, row in enumerate(zip(c, s_dot, loss, strict=True)):
        values = {n: Estimate.exact(float(v)) for n, v in zip(rule.reads, row, strict=True)}
        state, alarm = rule.update(state, t, values)
        found += [alarm.step] if alarm else []
    return found


def test_t12_np_diff_is_no_plateau_fp() -> None:
    rng = np.random.default_rng(1)
    loss = rng.standard_normal(60)
    literal = np.where(np.abs(np.diff(loss, n=10)) < 300)[0] + 9
    assert 0 < len(literal) < 50 and np.array_equal(pub.plateaus_fp(loss, 10, 300.0), literal)
    # Defect (B3): the "fixed" call and the "bug" are one call, n being the second argument.
    assert np.array_equal(np.diff(loss, n=10), np.diff(loss, 10))
    # Defect (B3): noise gain. Var of the tenth difference = sum of squared binomials = C(20, 10).
    noise = 1e-5 * rng.standard_normal(200_000)
    gain = float(np.std(np.diff(noise, n=10)) / np.std(noise))
    # Neighbours are correlated over 10 values, so the relative error is below sqrt(20/2e5) = 1 %.
    assert gain == pytest.approx(math.sqrt(math.comb(20, 10)), rel=0.04)
    lagged = noise[10:] - noise[:-10]
    assert float(np.std(lagged) / np.std(noise)) == pytest.approx(math.sqrt(2), rel=0.04)
    # Defect (B3): a true plateau with noise of 1e-5, a tenth of the tolerance, is found in
    # P(|N| < 1e-4/(1e-5 430)) = 1.9 % of the steps; by the lag of the text in all of them.
    share = len(pub.plateaus_fp(1.0 + noise)) / len(lagged)
    expected = math.erf(10 / math.sqrt(math.comb(20, 10)) / math.sqrt(2))
    assert share == pytest.approx(expected, rel=0.2) and expected < 0.02
    assert np.mean(np.abs(lagged) < 1e-4) > 0.999
    # Defect (B3): a loss that falls by half over the run is a plateau in every step; by the lag in
    # none. Its tenth difference is 0 up to rounding.
    falling = 1 - 0.5 * np.arange(200) / 200
    assert len(pub.plateaus_fp(falling)) == 190
    assert np.all(np.abs(falling[10:] - falling[:-10]) > 1e-4)


def test_transitions_fp() -> None:
    rng = np.random.default_rng(2)
    c, s_dot = rng.standard_normal((2, 4000))
    loss = 1 - np.arange(4000) * 1e-3
    literal = literal_detect({"C": c, "S_dot": s_dot, "loss": loss})
    assert np.array_equal(pub.transitions_fp(c, s_dot, loss), literal)
    # Defect (B3): on pure noise, over a loss that falls for ever, it fires at P(dC < -sd/2)
    # P(S > 2 sd) = .309 x .0228 = .70 % of the steps: 28 in 4000 (sd 5); ours not at all.
    assert 8 < len(literal) < 48
    assert causal(PhaseTransition("C", "S_dot", "loss"), c, s_dot, loss) == []
    # Defect (B3): look-ahead. An alarm at step 99 is taken back by what happens at step 190.
    c, s_dot = np.full(200, 5.0), rng.normal(0, 0.1, 200)
    c[100:], s_dot[99] = 1.0, 3.0
    still = np.ones(200)
    assert pub.transitions_fp(c[:150], s_dot[:150], still[:150]).tolist() == [99]
    s_dot[190] = 100.0
    assert pub.transitions_fp(c, s_dot, still).tolist() == []
    # Defect (B3): off by one. dC[i] is the drop at step i + 1: C and S_dot that move at one step,
    # 100, do not meet; published needs S_dot one step early, as above.
    s_dot[[99, 100, 190]] = 0.0, 3.0, 0.0
    assert pub.transitions_fp(c, s_dot, still).tolist() == []
    wave = np.sin(7.0 * np.arange(200))  # the causal rule needs some noise to measure against
    assert causal(PhaseTransition("C", "S_dot", "loss"), c + 0.1 * wave, s_dot, still) == [100]


def test_b4_published_history_has_no_loss_and_ours_has() -> None:
    system = FokkerPlanckDynamics(torch.nn.Identity(), torch.zeros(2))
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(30, 2, generator=generator)
    _, history = system.train_epoch(z, n_steps=14, generator=generator)
    published = {name: history[name] for name in ("C", "S_dot", "transitions")}
    with pytest.raises(KeyError, match="loss"):
        literal_detect(published)
    found = pub.transitions_fp(history["C"], history["S_dot"], history["loss"])
    assert np.array_equal(found, literal_detect(history))


def test_reset_step_fp() -> None:
    c = np.random.default_rng(4).uniform(0, 2, 50)
    assert pub.reset_step_fp(c) == int(np.argmin(c)) and c.min() < 0.5
    # Defect (A19): not causal: the answer for the first half changes once the second is known.
    assert pub.reset_step_fp([1.0, 0.4, 0.45]) == 1
    assert pub.reset_step_fp([1.0, 0.4, 0.45, 0.3]) == 3


def test_reset_steps_fp() -> None:
    c = [2.0] * 20 + [0.4] * 30
    assert pub.reset_steps_fp(c) == [s for s, v in enumerate(c) if v < 0.5 and s > 10]
    # Defect (A19): 30 resets for one fall; with alpha = .2 a particle survives them all with
    # probability .8^30 = .12 %: the cloud has been replaced whole. A refractory time leaves one.
    assert len(pub.reset_steps_fp(c)) == 30 and 0.8**30 < 0.0013
    # Defect (A19): nor is it the text's rule, which knows one time.
    assert pub.reset_step_fp(c) == 20
    rule = PhaseTransition("C", "S_dot", "loss", window=12, lag=5)
    wave = 0.01 * np.sin(7.0 * np.arange(50))
    spike = np.where(np.arange(50) >= 20, 5.0, 0.0)
    assert causal(rule, np.array(c) + wave, spike + wave, np.ones(50)) == [20]


def test_regime_fp() -> None:
    named = [pub.regime_fp(c) for c in (10.1, 10.0, 1.0, 0.99)]
    assert named == ["exploitation", "balanced", "balanced", "exploration"]
    # Defect (A13): C = |mu|/|D grad rho| under z -> a z, d = 2: mu a, D a^2, grad rho a^-3: C a^2.
    # One cloud passes through all three regimes by a change of unit.
    assert len({pub.regime_fp(2.0 * a**2) for a in (0.5, 1.0, 3.0)}) == 3


def test_alert_fp() -> None:
    for c, divergence in ((0.29, 1.1), (0.3, 1.1), (0.29, 1.0)):
        literal = "POTENTIAL_REWARD_HACKING" if c < 0.3 and divergence > 1.0 else None
        assert pub.alert_fp(c, divergence) == literal
    # Defect (B7): at full equilibrium, N(0, s I) in d = 2 with mu = -z and D = s, nothing flows and
    # the alert fires or not by the unit: C is |z| over |z rho|, a volume of order 2 pi s, and J as
    # coded is mu rho, whose divergence at the centre is -2 rho(0) = -1/(pi s).
    alerts = set()
    for s in (0.01, 1.0):
        z = math.sqrt(s) * np.random.default_rng(5).standard_normal((4000, 2))
        rho = np.exp(-(z**2).sum(1) / (2 * s)) / (2 * math.pi * s)
        c = np.linalg.norm(-z) / np.linalg.norm(s * (-z / s) * rho[:, None])
        alerts.add(pub.alert_fp(float(c), 1 / (math.pi * s)))
    assert alerts == {"POTENTIAL_REWARD_HACKING", None}
