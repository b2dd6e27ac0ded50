"""signal.md: each published form against a literal transcription, and its defect as a number."""

import math
import statistics

import numpy as np
import pytest

from foreshock.stats import published as pub

PHI = statistics.NormalDist().cdf
RNG = np.random.default_rng(3)
G = RNG.normal(0.3, 1.0, (20, 7))


def test_c_signal() -> None:
    n, d = G.shape
    signal = sum((sum(G[i][j] for i in range(n)) / n) ** 2 for j in range(d))
    noise = sum(statistics.variance([float(x) for x in G[:, j]]) for j in range(d))
    assert pub.c_signal(G) == pytest.approx(signal / (noise + 1e-10), rel=1e-9)
    # Defect: +1/n on pure noise. d = 1000: one draw has sd sqrt(2/1000)/20 = .0022 around .05, and
    # the mean of 100 draws .00022; E(1/V)E V adds 2/(19*1000). Four sd.
    noise_only = np.random.default_rng(0).normal(size=(100, 20, 1000))
    assert abs(np.mean([pub.c_signal(g) for g in noise_only]) - 1 / 20) < 0.001
    # Defect: the added constant. Gradients scaled by 1e-6 are the same problem.
    tiny = 1e-12 * signal / (1e-12 * noise + 1e-10)
    assert pub.c_signal(1e-6 * G) == pytest.approx(tiny, rel=1e-9)
    assert tiny < 0.1 * pub.c_signal(G)


def test_c_signal_text() -> None:
    mu, cov = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 3.0]])
    assert pub.c_signal_text(mu, cov) == pytest.approx((1 + 4) / (2 + 3), abs=1e-6)
    # Defect: stretch of a noiseless signal coordinate by J = diag(10, 1): C moves by exactly 100.
    j = np.diag([10.0, 1.0])
    mu, cov = np.array([1.0, 0.0]), np.diag([0.0, 1.0])
    moved = pub.c_signal_text(j @ mu, j @ cov @ j.T)
    assert moved / pub.c_signal_text(mu, cov) == pytest.approx(100)


def test_p_signal() -> None:
    for c in (0.0, 0.3, 1.0, 8.0):
        assert pub.p_signal(c) == pytest.approx(c / (1 + c), abs=1e-6)
    # Defect: mu = .1 e_1, Sigma = I in d = 100: C = 1e-4, share of aligned steps Phi(.1) = .540.
    g = np.random.default_rng(1).normal(size=(40_000,)) + 0.1  # g.mu depends on g_1 only
    assert abs((g > 0).mean() - PHI(0.1)) < 4 * 0.5 / 200  # four sd of a share of 40,000
    assert pub.p_signal(0.1**2 / 100) < 1.1e-4


def test_p_gauss_signal() -> None:
    for c in (0.0, 0.25, 1.0, 6.0):
        assert pub.p_gauss_signal(c) == pytest.approx(PHI(math.sqrt(c)), abs=1e-6)
    # Defect: the factor d. C = .01 in d = 10^4 is aligned with Phi(10), not Phi(.1).
    assert pub.p_gauss_signal(0.01) == pytest.approx(0.5398, abs=1e-4)
    assert PHI(math.sqrt(0.01 * 1e4)) > 1 - 1e-15
    # Defect: its "approximation" is off by a third at C = 1 and by 1/2 at C = 0.
    assert pub.p_gauss_signal(1.0) - pub.p_signal(1.0) == pytest.approx(0.3413, abs=1e-4)
    assert pub.p_gauss_signal(0.0) - pub.p_signal(0.0) == 0.5


def test_odds_signal() -> None:
    for c in (0.1, 1.0, 9.0):
        assert pub.odds_signal(c / (1 + c)) == pytest.approx(c, abs=1e-6)
    # Defect: at C = d = 1 the odds of alignment are Phi(1)/(1 - Phi(1)) = 5.3.
    assert pub.odds_signal(pub.p_signal(1.0)) == 1.0
    assert PHI(1.0) / (1 - PHI(1.0)) == pytest.approx(5.30, abs=0.01)


def test_phase_signal() -> None:
    for p in (0.1, 0.44, 0.46, 0.5, 0.54, 0.56, 0.9):
        expected = "transition" if 0.45 <= p <= 0.55 else ("exploration", "generalization")[p > 0.5]
        assert pub.phase_signal(p, 0.05) == expected
    assert [pub.phase_signal(p, 0.0) for p in (0.5, 0.51)] == ["transition", "generalization"]
    # Defect: C = B C_1, so one model is in all three phases.
    phases = [pub.phase_signal(pub.p_signal(b * 0.03), 0.05) for b in (8, 32, 128)]
    assert phases == ["exploration", "transition", "generalization"]


def test_state_signal() -> None:
    def table(p: float) -> str:
        if p < 0.40:
            return "failing"
        if p < 0.50:
            return "sub-threshold"
        if p < 0.60:
            return "critical"
        return "learning" if p < 0.75 else "strong"

    for p in np.linspace(0, 1, 101):
        assert pub.state_signal(float(p)) == table(float(p))
    # Defect: a healthy run at C_1 = .005: failing at B = 32, strong at B = 1024.
    assert pub.state_signal(pub.p_signal(32 * 0.005)) == "failing"
    assert pub.state_signal(pub.p_signal(1024 * 0.005)) == "strong"


def test_state_by_c_signal() -> None:
    states = [pub.state_by_c_signal(c) for c in (0.5, 0.8, 1.2, 2.0, 4.0)]
    assert states == ["failing", "sub-threshold", "critical", "learning", "strong"]
    # Defect: the two columns of one table disagree between 2/3 and .67.
    assert pub.state_by_c_signal(0.668) == "failing"
    assert pub.state_signal(pub.p_signal(0.668)) == "sub-threshold"


def test_action_signal() -> None:
    words = {"failing": "stop", "sub-threshold": "halve", "critical": "nothing", "strong": "deploy"}
    assert all(word in pub.action_signal(state) for state, word in words.items())
    assert "larger" in pub.action_signal("learning")
    with pytest.raises(ValueError, match="one of"):
        pub.action_signal("lost")
    # Defect: opposite advice about one model, from the batch size alone (C_1 = .005).
    advice = [pub.action_signal(pub.state_signal(pub.p_signal(b * 0.005))) for b in (32, 1024)]
    assert advice[0].startswith("stop") and advice[1].startswith("enlarge")


def test_s_signal() -> None:
    assert pub.s_signal(0.1, 3.0) == pytest.approx(0.1 + 0.1 - 3.0, abs=1e-6)
    # Defect: theta -> c theta maps (eta, lambda) to (c^2 eta, lambda/c^2) and changes no loss. The
    # exact edge eta lambda = 2 then reads anything from -20 to +20.
    values = [pub.s_signal(0.1 * c2, 20 / c2) for c2 in (1.0, 10.0, 100.0)]
    assert values == pytest.approx([-19.8, 0.0, 19.8])


def test_d_h_signal() -> None:
    assert pub.d_h_signal(1, 1.5) == 1.0
    assert pub.d_h_signal(3, 1.5) == 1.5
    # Defect: d never matters: it is 1.5 before and after any collapse from 10^9 dimensions.
    assert {pub.d_h_signal(d, 1.5) for d in (2, 10**3, 10**9)} == {1.5}


def test_i_signal() -> None:
    p, eta, lam, d, alpha = 0.7, 0.1, 4.0, 50, 1.4
    assert pub.i_signal(p) == pytest.approx(p * 0.1 / 1.5, abs=1e-6)
    s, d_h = 2 * eta - lam, min(d, alpha)
    measured = pub.i_signal(p, s=pub.s_signal(eta, lam), d_h=pub.d_h_signal(d, alpha))
    assert measured == pytest.approx(p * s / d_h, abs=1e-6)
    # Defect: even p = 1 reads 1/15, below the lowest band edge .1.
    assert pub.i_signal(1.0) == pytest.approx(1 / 15) and pub.i_signal(1.0) < 0.1
    # Defect: here eta lambda = .4, far inside stability, and I = -1.9 says divergence.
    assert measured == pytest.approx(-1.9)


def test_i_state_signal() -> None:
    states = [pub.i_state_signal(i) for i in (-0.1, 0.05, 0.1, 0.5, 0.6)]
    assert states == ["divergence", "stagnation", "transition", "transition", "healthy"]
    # Defect: as shipped the table is a constant.
    every = {pub.i_state_signal(pub.i_signal(p)) for p in np.linspace(0, 1, 101)}
    assert every == {"stagnation"}


def test_lv_signal() -> None:
    assert pub.lv_signal(3.0, 1.25) == pytest.approx(-3.0 + 1.25, abs=1e-6)
    # Defect: on L = h x^2/2, h = .1, at x = 10 (mu = 1), D = 2: dE[L]/dt = -mu^2 + h D = -.8.
    # Exactly: E x^2 = x0^2 e^-2ht + (D/h)(1 - e^-2ht); its derivative by differences.
    h, x0, diffusion, dt = 0.1, 10.0, 2.0, 1e-6
    decay = math.exp(-2 * h * dt)
    energy = 0.5 * h * (x0**2 * decay + diffusion / h * (1 - decay))
    assert (energy - 0.5 * h * x0**2) / dt == pytest.approx(-0.8, abs=1e-4)
    assert pub.lv_signal(1.0, diffusion) == 1.0  # "unstable"


def test_lambda_eff_signal() -> None:
    p = 0.8
    assert pub.lambda_eff_signal(0.02, p, 3.0) == pytest.approx(0.02 * p / (1 - p) * 3.0, abs=1e-6)
    # Defect: C = 50 at eta = .1, mu = 1 contracts by 1 - 5 = -4.
    assert 1 - pub.lambda_eff_signal(0.1, pub.p_signal(50.0), 1.0) == pytest.approx(-4)
    # Defect: theta -> 10 theta takes (eta, mu) to (100 eta, mu/10): the same run, ten times faster.
    rates = [pub.lambda_eff_signal(eta, 0.5, mu) for eta, mu in ((0.01, 1.0), (1.0, 0.1))]
    assert rates[1] / rates[0] == pytest.approx(10)


def test_convergence_signal() -> None:
    by_hand = [2.0 * (1 - 0.3) ** 5, 2.0 * (1 - 0.15) ** 5]
    got = [pub.convergence_signal(2.0, 0.3, 5, halved=h) for h in (False, True)]
    assert got == pytest.approx(by_hand, abs=1e-6)
    # Defect: one step on x^2/2 from x = 1 (mu = 1) with eta = .01 takes the excess loss to .99^2 =
    # .980 of it; the two "upper bounds" at C = 5 are .950 and .975.
    rate = pub.lambda_eff_signal(0.01, pub.p_signal(5.0), 1.0)
    actual = 0.99**2
    bounds = [pub.convergence_signal(1.0, rate, 1, halved=h) for h in (False, True)]
    assert bounds[0] < bounds[1] < actual


def test_mu_pl_signal() -> None:
    assert pub.mu_pl_signal(0.36, 0.9) == pytest.approx(0.36 / (2 * 0.9), abs=1e-6)
    # Defect: L = (x^2-1)^2/4 at x = .001, noise variance 1e-9: C = 1000 and mu_PL = 2e-6.
    x = 1e-3
    gradient, excess = x * (x * x - 1), (x * x - 1) ** 2 / 4
    assert pub.c_signal_text([gradient], [[1e-9]]) == pytest.approx(1000, rel=1e-4)
    assert pub.mu_pl_signal(gradient**2, excess) == pytest.approx(2e-6, rel=1e-4)


def test_order_parameter_signal() -> None:
    assert pub.order_parameter_signal(0.62) == pytest.approx(0.62 - 0.5, abs=1e-6)
    # Defect: in pure noise it is -1/2, not 0.
    assert pub.order_parameter_signal(pub.p_signal(0.0)) == -0.5


def test_type_two_error_signal() -> None:
    assert pub.type_two_error_signal(0.62) == pytest.approx(1 - 0.62, abs=1e-6)
    # Defect: a level-.05 test of g_1 > 0 at mean 1, sd 1 (C = 1): misses with Phi(1.645-1) = .74.
    assert PHI(statistics.NormalDist().inv_cdf(0.95) - 1) == pytest.approx(0.74, abs=0.001)
    assert pub.type_two_error_signal(pub.p_signal(1.0)) == 0.5


def test_mutual_information_signal() -> None:
    assert pub.mutual_information_signal(0.7) == pytest.approx(math.log(1.7), abs=1e-6)
    # Defect: signal variances (2, 0) and (1, 1) over noise (1, 1) both have C = 1, but carry .549
    # and .693 nats: no single factor makes log(1 + C) the information.
    exact = [0.5 * sum(math.log1p(s) for s in power) for power in ((2, 0), (1, 1))]
    assert exact == pytest.approx([0.5493, 0.6931], abs=1e-4)


def test_ticket_ratio_signal() -> None:
    assert pub.ticket_ratio_signal(100, 1.5, 0.4, 0.3) == pytest.approx(100 / 1.5 * 0.4 / 0.3)
    # Defect: 100 coordinates of noise 1, all the signal in 10 of them. Keeping those: ratio 10
    # exactly, published 67. Keeping half the signal (5 of them): exactly 10 again, published 133.
    mu = np.r_[np.ones(10), np.zeros(90)]
    full = pub.c_signal_text(mu, np.eye(100))
    for kept, published in ((10, 66.7), (5, 133.3)):
        exact = pub.c_signal_text(mu[:kept], np.eye(kept)) / full
        assert exact == pytest.approx(10)
        got = pub.ticket_ratio_signal(100, 1.5, float(mu @ mu), kept)
        assert got == pytest.approx(published, abs=0.1)


def test_adaptive_lr_signal() -> None:
    def listing(base_lr: float, p: float) -> float:
        if p < 0.40:
            return base_lr * 0.1
        if p < 0.50:
            return base_lr * 0.5
        if p < 0.60:
            return base_lr * 1.0
        if p < 0.75:
            return base_lr * 1.5
        return base_lr * 2.0

    for p in np.linspace(0, 1, 101):
        assert pub.adaptive_lr_signal(0.3, float(p)) == pytest.approx(listing(0.3, float(p)))
    # Defect: one model (C_1 = .03), factor 20 between B = 8 and B = 128.
    low, high = (pub.adaptive_lr_signal(1.0, pub.p_signal(b * 0.03)) for b in (8, 128))
    assert high / low == pytest.approx(20)


def test_early_stop_signal() -> None:
    def listing(history: list[dict[str, float]], window: int = 10) -> bool:
        if len(history) < window:
            return False
        recent = history[-window:]
        ca = [h["C"] for h in recent]
        if all(h["p"] < 0.45 for h in recent):
            return True
        if ca[-1] < ca[0] and all(ca[i] >= ca[i + 1] for i in range(window - 1)):
            return True
        return history[-1]["I"] < 0

    rng = np.random.default_rng(5)
    seen = set()
    for case in range(300):
        c = np.exp(rng.normal(0, 0.3, int(rng.integers(8, 16))))
        c = np.sort(c)[::-1] if case % 3 == 0 else c * (0.3 if case % 7 == 0 else 1)
        i = rng.normal(1.0, 1.0, c.size)
        pairs = zip(c.tolist(), i.tolist(), strict=True)
        rows = [{"C": a, "p": a / (1 + a), "I": b} for a, b in pairs]
        columns = [[row[k] for row in rows] for k in ("p", "C", "I")]
        stop, reason = pub.early_stop_signal(columns[0], columns[1], columns[2])
        assert stop == listing(rows)
        seen.add(reason)
    assert seen == {"p", "c", "i", "short", "none"}
    assert pub.early_stop_signal([0.45] * 10, [0.8] * 10, [0.0] * 10) == (False, "none")
    # Defect: steady healthy training at C_1 = .005, B = 32 (p = .14) is stopped at evaluation 10.
    c_run = [0.16] * 10
    p_run = [pub.p_signal(c) for c in c_run]
    assert pub.early_stop_signal(p_run, c_run, [pub.i_signal(p) for p in p_run]) == (True, "p")
    # Defect: with S measured, a stable run (eta lambda = .4) is "diverging" whatever its p.
    measured = [pub.i_signal(0.9, s=pub.s_signal(0.1, 4.0))] * 10
    assert pub.early_stop_signal([0.9] * 10, [9.0] * 10, measured) == (True, "i")


def test_hill_signal() -> None:
    x = np.random.default_rng(2).pareto(1.3, 900) + 1
    ordered = sorted(map(abs, x), reverse=True)
    logs = [math.log(v / (ordered[100] + 1e-10)) for v in ordered[:100]]
    expected = min(max(1 / (sum(logs) / 100 + 1e-10), 1.0), 2.0)
    assert 1 < expected < 2
    assert pub.hill_signal(-x) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="more than"):
        pub.hill_signal(x[:100])
    assert pub.hill_signal([1e8] * 200) == 2.0  # the logs are 0, and 1/1e-10 is clipped
    # Defect: norms of N(0, I_100), with no heavy tail, read the stop 2; in units of 1e-12 they
    # read the other stop.
    norms = np.linalg.norm(np.random.default_rng(3).normal(size=(1000, 100)), axis=1)
    assert pub.hill_signal(norms) == 2.0
    assert pub.hill_signal(1e-12 * norms) == 1.0
