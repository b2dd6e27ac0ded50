"""`signal_noise`: values, invariances, what it refuses, and the law of p_align."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from foreshock.stats.gram import SERIES, alignment, finite_population, signal_noise
from foreshock.stats.gram_interval import gram_moments
from foreshock.types import Flag
from tests import oracles


def gram(seed: int, n: int = 10, d: int = 30, shift: float = 0.3) -> np.ndarray:
    g = np.random.default_rng(seed).standard_normal((n, d)) + shift
    return g @ g.T


def test_values_are_those_of_the_definitions() -> None:
    g = np.random.default_rng(0).standard_normal((9, 30)) + 0.3
    naive = oracles.gram_moments(g[:, :])
    out = signal_noise(g @ g.T, batch_size=16)
    u, v = naive["signal"], naive["noise"]
    expected = {
        "grad/signal": u,
        "grad/noise": v,
        "grad/snr": u / v,
        "grad/snr_per_example": u / v / 16,
        "grad/noise_scale": v * 16 / u,
        "grad/p_published": (u / v) / (1 + u / v),
        "grad/p_align": oracles.p_align(g),
    }
    assert tuple(out) == SERIES
    for name, value in expected.items():
        assert out[name].value == pytest.approx(value, rel=1e-9), name
        assert out[name].low <= value <= out[name].high
        assert out[name].n == 9


@pytest.mark.parametrize("factor", [1e-160, 1e-6, 1e140])
def test_scale_free_quantities_ignore_the_scale(factor: float) -> None:
    one, other = signal_noise(gram(1), batch_size=4), signal_noise(gram(1) * factor, batch_size=4)
    for name in SERIES:
        unit = factor if name in ("grad/signal", "grad/noise") else 1.0
        for field in ("value", "low", "high"):
            assert getattr(other[name], field) == pytest.approx(
                unit * getattr(one[name], field), rel=1e-9
            )


def test_order_of_the_batches_does_not_matter() -> None:
    matrix = gram(2)
    order = np.random.default_rng(0).permutation(len(matrix))
    one, other = signal_noise(matrix), signal_noise(matrix[np.ix_(order, order)])
    for name in ("grad/signal", "grad/noise", "grad/snr", "grad/p_align"):
        assert other[name].low == pytest.approx(one[name].low, rel=1e-9)
        assert other[name].high == pytest.approx(one[name].high, rel=1e-9)


def test_no_signal_is_unresolved_unclipped_and_bounded_below_only() -> None:
    seeds = [s for s in range(40) if signal_noise(gram(s, shift=0.0))["grad/signal"].value < 0]
    assert len(seeds) > 10  # U is negative about half of the time: nothing was clipped
    out = signal_noise(gram(seeds[0], shift=0.0), batch_size=8)
    for name in ("grad/signal", "grad/snr", "grad/snr_per_example", "grad/noise_scale"):
        assert Flag.UNRESOLVED in out[name].flags and out[name].reason
    assert out["grad/noise"].resolved
    assert math.isinf(out["grad/noise_scale"].high) and out["grad/noise_scale"].low > 0
    low, high = out["grad/snr"].null or (0, 0)
    assert low < out["grad/snr"].value < high


def test_noise_scale_is_the_reciprocal_set_of_snr() -> None:
    out = signal_noise(gram(3, shift=1.0), batch_size=8)
    snr, scale = out["grad/snr"], out["grad/noise_scale"]
    assert (scale.low, scale.high) == pytest.approx((8 / snr.high, 8 / snr.low))
    assert out["grad/p_published"].high == pytest.approx(snr.high / (1 + snr.high))


def test_without_batch_size_only_the_per_example_quantities_are_missing() -> None:
    out = signal_noise(gram(4))
    missing = [name for name in SERIES if math.isnan(out[name].value)]
    assert missing == ["grad/snr_per_example", "grad/noise_scale"]
    assert "pass batch_size=..." in out["grad/noise_scale"].reason


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        pytest.param(np.eye(2), "at least 3 batch gradients. Got 2", id="two"),
        pytest.param(np.full((4, 4), np.nan), "contains nan or inf", id="nan"),
        pytest.param(np.full((4, 4), np.inf), "contains nan or inf", id="inf"),
        pytest.param(np.zeros((4, 4)), "exactly zero", id="zero"),
    ],
)
def test_nothing_to_compute_is_said_in_a_sentence(matrix: np.ndarray, sentence: str) -> None:
    out = signal_noise(matrix, batch_size=1)
    assert tuple(out) == SERIES
    assert all(math.isnan(e.value) and sentence in e.reason for e in out.values())


@pytest.mark.parametrize("factor", [1.0, 1e-300, 0.1])
def test_identical_batches_have_no_noise(factor: float) -> None:
    out = signal_noise(np.full((5, 5), factor), batch_size=4)
    assert out["grad/signal"].value == pytest.approx(factor)
    assert out["grad/signal"].resolved
    assert out["grad/noise"].value == 0.0
    assert math.isinf(out["grad/snr"].value)
    assert out["grad/noise_scale"].value == 0.0
    assert out["grad/p_published"].value == out["grad/p_align"].value == 1.0
    assert all("full batch has no noise" in out[f"grad/{x}"].reason for x in ("noise", "snr"))


@pytest.mark.parametrize("n", [3, 8])
def test_one_gradient_that_carries_all_the_noise_leaves_everything_open(n: int) -> None:
    g = np.tile([1.0, 1.0], (n, 1))
    g[0] = (1.0, -1.0)
    out = signal_noise(g @ g.T, batch_size=2)
    snr, noise = out["grad/snr"], out["grad/noise"]
    assert snr.low < 0 and snr.high > 1e6 * snr.value  # V without g_0 is 0
    assert 0 < noise.low < 1e-3 * noise.value and noise.high > 1e3 * noise.value


def test_the_door_is_checked() -> None:
    with pytest.raises(ValueError, match="must be n x n"):
        signal_noise(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="must be symmetric"):
        signal_noise(np.tril(np.ones((3, 3))))
    with pytest.raises(ValueError, match="`batch_size` of `signal_noise` must be positive. Got 0"):
        signal_noise(np.eye(3), batch_size=0)
    with pytest.raises(ValueError, match="at least 3"):
        alignment(np.eye(2))


@pytest.mark.parametrize("snr", [0.0, 0.01, 0.05])
def test_p_align_has_the_finite_n_gaussian_law(snr: float) -> None:
    # Isotropic, d = 400, n = 20: P = Phi(sqrt(d) C sqrt((n-1)/(nC+1))) up to O(1/d) (the product of
    # two long Gaussian vectors is nearly Gaussian). 1,000 windows of 20 dependent signs: the SD of
    # the mean comes from the windows themselves; 4 of them, plus 1/d = .0025 for the formula.
    d, n = 400, 20
    rng = np.random.default_rng(7)
    g = rng.standard_normal((1000, n, d)) / math.sqrt(d)
    g[..., 0] += math.sqrt(snr)
    shares = np.array([alignment(m).value for m in g @ g.swapaxes(1, 2)])
    truth = norm.cdf(math.sqrt(d) * snr * math.sqrt((n - 1) / (n * snr + 1)))
    assert abs(shares.mean() - truth) < 4 * shares.std() / math.sqrt(1000) + 0.0025


def test_null_of_p_align_knows_that_its_signs_are_dependent() -> None:
    # 2,000 windows at mu = 0: nominal 95 %, the share is discrete (steps of .05): 93-99 %.
    g = np.random.default_rng(8).standard_normal((2000, 20, 200))
    estimates = [alignment(m) for m in g @ g.swapaxes(1, 2)]
    inside = np.mean([e.null[0] <= e.value <= e.null[1] for e in estimates if e.null])
    assert 0.93 < inside < 0.99
    binomial = 1.96 / math.sqrt(80)  # the naive half width lets far too many out
    assert np.mean([abs(e.value - 0.5) <= binomial for e in estimates]) < 0.92


@pytest.mark.parametrize("n", [5, 20])
def test_the_naive_ratio_has_a_bias_of_one_over_n(n: int) -> None:
    # |m|^2/V at mu = 0: mean 1/n = .2 at n = 5, .05 at n = 20 (V is nearly constant at d = 300:
    # relative order 2/((n-1) d) < .002). 4 standard errors of 2,000 draws.
    g = np.random.default_rng(9).standard_normal((2000, n, 300))
    noise = g.var(1, ddof=1).sum(1)
    naive = (g.mean(1) ** 2).sum(1) / noise
    assert abs(naive.mean() - 1 / n) < 4 * naive.std() / math.sqrt(2000) + 0.002 / n
    ours = np.array([signal_noise(m)["grad/snr"].value for m in (g @ g.swapaxes(1, 2))[:500]])
    assert abs(ours.mean()) < 4 * ours.std() / math.sqrt(500)


@pytest.mark.parametrize(
    ("sampling", "n"), [("replacement", 6), ("independent", 6), ("disjoint", 6), ("disjoint", 12)]
)
def test_finite_population_corrections_are_unbiased_for_the_training_set(
    sampling: str, n: int
) -> None:
    # 60 examples, batches of 5. Truth: |mean|^2 and tr(S1)/B of these very 60.
    rng = np.random.default_rng(10)
    pool = rng.standard_normal((60, 8)) + 0.2
    signal, noise = (pool.mean(0) ** 2).sum(), pool.var(0).sum() / 5
    found, raw = [], []
    for _ in range(3000):
        if sampling == "replacement":
            rows = rng.integers(60, size=(n, 5))
        elif sampling == "independent":
            rows = np.stack([rng.permutation(60)[:5] for _ in range(n)])
        else:
            rows = rng.permutation(60)[: n * 5].reshape(n, 5)
        g = pool[rows].mean(1)
        offset, stretch = finite_population(n, 5, sampling, 60)
        u, v = (float(x) for x in (gram_moments(g @ g.T).signal, gram_moments(g @ g.T).noise))
        found.append((u + offset * v, stretch * v))
        raw.append((u, v))
    found_mean, spread = np.mean(found, 0), np.std(found, 0) / math.sqrt(3000)
    # 4 standard errors of 3,000 draws; rounding where the whole set was seen, so |m|^2 is exact
    assert np.all(np.abs(found_mean - (signal, noise)) < 4 * spread + 1e-12)
    if sampling == "disjoint" and n == 12:
        assert np.std(found, 0)[0] < 1e-12
    if sampling != "replacement":  # the correction matters: (N-B)/(N-1) = .93, 1/(N-1)
        assert abs(np.mean(raw, 0)[1] - noise) > 4 * spread[1] / stretch


def test_the_correction_reaches_every_series() -> None:
    matrix = gram(5, shift=1.0)
    plain = signal_noise(matrix, batch_size=4)
    same = signal_noise(matrix, batch_size=4, sampling="replacement", population=50)
    assert same == plain
    fixed = signal_noise(matrix, batch_size=4, sampling="disjoint", population=50)
    noise = plain["grad/noise"].value
    assert fixed["grad/noise"].value == pytest.approx(noise * 49 / 50)
    assert fixed["grad/signal"].value == pytest.approx(plain["grad/signal"].value + noise * 4 / 50)
    ratio = fixed["grad/signal"].value / fixed["grad/noise"].value
    assert fixed["grad/snr"].value == pytest.approx(ratio)
    assert fixed["grad/noise_scale"].value == pytest.approx(4 / ratio)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling": "magic"}, "must be 'replacement', 'independent' or 'disjoint'. Got 'magic'"),
        ({"population": 100}, "needs `batch_size` too"),
        ({"population": 79, "batch_size": 8, "sampling": "disjoint"}, "80 examples. Got 79"),
        ({"population": 8, "batch_size": 8, "sampling": "independent"}, "8 examples. Got 8"),
    ],
)
def test_impossible_populations_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        signal_noise(gram(0), **options)
