"""Update window: full-SVD twin, the published tables on noise and AR(1), the level of the null."""

import math

import numpy as np
import pytest

from foreshock.stats.window import SERIES, window_pending, window_spectrum
from foreshock.stats.window_null import null_cosines
from foreshock.types import Flag
from tests import oracles


def walk(rho: float, p: int, rng: np.random.Generator, width: int = 10) -> np.ndarray:
    """(W, p) AR(1) updates of unit variance."""
    updates = rng.standard_normal((width, p))
    for i in range(1, width):
        updates[i] = rho * updates[i - 1] + math.sqrt(1 - rho**2) * updates[i]
    return updates


def k_star(updates: np.ndarray) -> tuple[float, float, bool]:
    out = window_spectrum(updates @ updates.T, draws=99).scalars
    edge = Flag.NO_EDGE not in out["update/k_star"].flags
    return out["update/k_star"].value, out["update/ratio"].value, edge


def test_everything_is_what_a_full_svd_says() -> None:
    updates = walk(0.4, 300, np.random.default_rng(0)) * np.linspace(0.5, 2, 10)[:, None]
    readings = window_spectrum(updates @ updates.T)
    assert tuple(readings.scalars) == SERIES
    for name, value in oracles.window_spectrum(updates).items():
        assert readings.scalars[f"update/{name}"].value == pytest.approx(value, rel=1e-9), name
    np.testing.assert_allclose(
        readings.arrays["update/spectrum"], np.linalg.svd(updates, compute_uv=False), rtol=1e-9
    )
    gram = updates @ updates.T  # trace identity
    assert (readings.arrays["update/spectrum"] ** 2).sum() == pytest.approx(np.trace(gram))


@pytest.mark.parametrize("factor", [1e-140, 1e-6, 1e120])
def test_scale_free_outputs_ignore_the_scale(factor: float) -> None:
    gram = (u := walk(0.5, 100, np.random.default_rng(1))) @ u.T
    one, other = window_spectrum(gram).scalars, window_spectrum(gram * factor**2).scalars
    for name in SERIES:
        unit = factor if name in ("update/sigma_1", "update/sigma_2", "update/norm") else 1.0
        assert other[name].value == pytest.approx(unit * one[name].value, rel=1e-9)
        assert other[name].flags == one[name].flags


@pytest.mark.parametrize(
    ("rho", "k", "ratio"),
    [
        (0.02, 5, 1.01),
        (0.1, 4, 1.03),
        (0.3, 3, 1.10),
        (0.5, 2, 1.19),
        (0.7, 2, 1.38),
        (0.9, 1, 2.25),
        (0.97, 1, 4.05),
    ],
)
def test_k_star_of_an_autocorrelated_walk_without_learning(
    rho: float, k: int, ratio: float
) -> None:
    # In the limit p -> inf the cosines are rho^|i-j| exactly: no Monte Carlo, three printed digits.
    lags = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    out = window_spectrum(rho**lags).scalars
    assert out["update/k_star"].value == k
    assert out["update/ratio"].value == pytest.approx(ratio, abs=0.006)
    assert not out["update/k_star"].flags
    assert out["update/rho_2"].value == pytest.approx(rho**2)


def test_level_on_isotropic_noise_and_power_on_a_weakly_correlated_walk() -> None:
    # Level 5 % nominal, 3 % measured; 100 windows: over 11 edges has probability < .005 at 5 %.
    rng = np.random.default_rng(2)
    assert sum(k_star(walk(0.0, 1000, rng))[2] for _ in range(100)) <= 11
    assert all(k_star(walk(0.3, 2000, rng))[2] for _ in range(20))


def test_level_is_the_nominal_one_under_the_law_the_null_assumes() -> None:
    # Observed windows from the null itself with p known: the p-value is exact, so 400 windows give
    # 20 edges; sd 4.4, bound at +4 sd = 38. p^ is estimated: measured 3 %.
    windows = null_cosines(10, 180, 400, 77, 36.0)
    edges = sum(
        Flag.NO_EDGE not in window_spectrum(w, draws=99).scalars["update/ratio"].flags
        for w in windows
    )
    assert edges <= 38


def test_rho_lies_in_its_null_and_its_interval_covers_zero_for_independent_updates() -> None:
    rng = np.random.default_rng(3)
    inside = covered = 0
    for _ in range(300):
        updates = walk(0.0, 500, rng)
        rho = window_spectrum(updates @ updates.T, draws=19).scalars["update/rho_1"]
        assert rho.null is not None
        inside += rho.null[0] <= rho.value <= rho.null[1]
        covered += rho.low <= 0 <= rho.high
    # 300 windows at .95: sd .0126; p^ is noisy in the null, so allow 4 sd below: .90.
    assert inside / 300 > 0.90
    assert covered / 300 > 0.90


def test_singular_values_below_rounding_are_left_out() -> None:
    updates = np.random.default_rng(5).standard_normal((10, 3)) @ np.random.default_rng(
        6
    ).standard_normal((3, 200))
    out = window_spectrum(updates @ updates.T).scalars
    assert Flag.BELOW_PRECISION in out["update/k_star"].flags
    assert out["update/k_star"].value <= 2  # the third ratio, 3rd over rounding, is not counted
    assert "below the rounding" in out["update/ratio"].reason
    line = np.ones((4, 4))  # rank 1
    out = window_spectrum(line).scalars
    assert math.isnan(out["update/k_star"].value)
    assert out["update/effective_rank"].value == pytest.approx(1)
    assert out["update/rho_1"].value == pytest.approx(1)


def test_smallest_windows_say_what_they_cannot() -> None:
    out = window_spectrum(np.diag([3.0, 2.0, 1.0])).scalars
    assert "no eigenvalue 4" in out["update/gap_3"].reason
    assert "fewer than 2 pairs at lag 2" in out["update/rho_2"].reason
    assert out["update/gap_1"].value == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("gram", "sentence"),
    [
        pytest.param(np.full((4, 4), np.nan), "nan or inf", id="nan"),
        pytest.param(np.diag([1.0, 0.0, 2.0, 3.0]), "Update 2 of the window is exactly", id="zero"),
    ],
)
def test_nothing_to_compute_is_missing(gram: np.ndarray, sentence: str) -> None:
    readings = window_spectrum(gram)
    assert tuple(readings.scalars) == SERIES and not readings.arrays
    assert all(sentence in e.reason and math.isnan(e.value) for e in readings.scalars.values())


def test_pending_window_and_the_door() -> None:
    assert tuple(window_pending(2, 10)) == SERIES
    one = window_pending(3, 10, spacing=20, note="Why.")["update/ratio"].reason
    assert one.startswith("Why. ") and "3 of 10 updates so far, in 60 steps; 140 to go." in one
    with pytest.raises(ValueError, match="W x W with W >= 3"):
        window_spectrum(np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        window_spectrum(np.tril(np.ones((4, 4))))
    with pytest.raises(ValueError, match="at least 19"):
        window_spectrum(np.eye(4), draws=5)


def test_measuring_is_private_and_reproducible() -> None:
    before = np.random.get_state()[1].copy()
    gram = (u := walk(0.2, 50, np.random.default_rng(8))) @ u.T
    assert window_spectrum(gram).scalars == window_spectrum(gram).scalars
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def power_law(exponent: float, p: int = 2000) -> np.ndarray:
    """Standard deviations of noise whose covariance has the eigenvalues j^-exponent."""
    return np.arange(1, p + 1.0) ** (-exponent / 2)


def edges(scale: np.ndarray, null: str, windows: int, seed: int) -> list[str]:
    """What is said of every window that is called an edge."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(windows):
        updates = rng.standard_normal((10, len(scale))) * scale
        out = window_spectrum(updates @ updates.T, draws=39, null=null, parameters=len(scale))
        if Flag.NO_EDGE not in out.scalars["update/ratio"].flags:
            found.append(out.scalars["update/ratio"].reason)
    return found


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_level_of_the_default_null_whatever_the_spectrum_of_the_noise(exponent: float) -> None:
    # The sign test is exact for any covariance: at most 5 % of 150 windows, 7.5 +- 2.7. Bound at
    # +4 sd: 18. Without it the spectrum j^-1 gives 25 %, that is 37.
    assert len(edges(power_law(exponent), "effective", 150, 3)) <= 18


def test_signs_decide_where_the_ratio_of_noise_is_large() -> None:
    # A share .05 of every update along one direction, with a sign: cosines +-.05. Signs without
    # order are noise with a dominating direction, whose ratio beats the Wishart null all the same;
    # one sign is a drift.
    rng = np.random.default_rng(11)
    direction = math.sqrt(0.05 / 0.95) * math.sqrt(2000) * np.eye(1, 2000)[0]
    found = []
    for signs in ([1, -1, -1, 1, -1, 1, 1, 1, -1, -1], [1] * 10):
        updates = rng.standard_normal((10, 2000)) + np.outer(signs, direction)
        found.append(window_spectrum(updates @ updates.T).scalars["update/ratio"])
    one, other = found
    assert one.value > one.null[1] and Flag.NO_EDGE in one.flags and "no order" in one.reason
    assert Flag.NO_EDGE not in other.flags


def test_the_other_nulls_are_as_liberal_as_they_say() -> None:
    # Stated: nearly every window of noise with the spectrum j^-1 is an edge over "norms", up to
    # 20 % over "toeplitz"; 60 windows at .97 and at .2 +- .05. Each edge says so.
    found = edges(power_law(1.0), "norms", 60, 4)
    assert len(found) >= 50 and all("Any anisotropy" in one for one in found)
    found = edges(power_law(1.0), "toeplitz", 60, 4)
    assert 1 <= len(found) <= 24 and all("with so few, up to 20 %" in one for one in found)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_autocorrelation_alone_is_no_edge_over_its_own_null(rho: float) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        gram = (u := walk(rho, 2000, rng)) @ u.T
        one = window_spectrum(gram, null="toeplitz").scalars["update/ratio"]
        assert "autocorrelation" in one.reason and Flag.NO_EDGE in one.flags
        assert Flag.NO_EDGE not in window_spectrum(gram).scalars["update/ratio"].flags


def test_a_planted_gap_is_an_edge_over_every_null() -> None:
    # Ten updates along one plane of two directions, four times the noise: k* = 2 whatever the null.
    rng = np.random.default_rng(7)
    time = np.arange(10)
    plane = np.stack([np.cos(time), np.sin(time)], 1) @ rng.standard_normal((2, 2000))
    updates = 4 * plane + rng.standard_normal((10, 2000))
    for null in ("effective", "norms"):
        out = window_spectrum(updates @ updates.T, null=null, parameters=2000).scalars
        assert out["update/k_star"].value == 2
        assert Flag.NO_EDGE not in out["update/k_star"].flags, null


def test_all_ratios() -> None:
    updates = walk(0.4, 300, np.random.default_rng(0))
    sigma = np.linalg.svd(updates, compute_uv=False)
    found = window_spectrum(updates @ updates.T).arrays["update/ratios"]
    np.testing.assert_allclose(found, sigma[:-1] / sigma[1:], rtol=1e-9)


def test_a_centred_window_is_guarded() -> None:
    # Centring makes the last singular value 0: an argmax would always be W - 1, with ratio 1e14.
    updates = walk(0.5, 400, np.random.default_rng(9))
    centred = updates - updates.mean(0)
    out = window_spectrum(centred @ centred.T)
    assert out.scalars["update/k_star"].value < 9
    assert Flag.BELOW_PRECISION in out.scalars["update/k_star"].flags
    assert np.isnan(out.arrays["update/ratios"][-1]) and out.arrays["update/ratios"][0] > 1


def test_interval_of_a_sketched_spectrum_is_the_first_order_error() -> None:
    # Diagonal Gram: σ_1 errs by 1/sqrt(2 m) of itself, R by 1/sqrt(m), the norm by
    # sqrt(2/m Σλ²)/(2 Σλ) of itself. By hand at m = 5000.
    values = np.array([16.0, 4.0, 1.0])
    out = window_spectrum(np.diag(values), sketch=5000).scalars
    z = 1.959963984540054
    for name, half in (
        ("sigma_1", 4 * z / math.sqrt(10_000)),
        ("ratio", 2 * z / math.sqrt(5000)),
        ("norm", math.sqrt(7) * z * math.sqrt(2 / 5000 * 273) / 42),
    ):
        one = out[f"update/{name}"]
        assert one.high - one.value == pytest.approx(half), name
        assert one.value - one.low == pytest.approx(half), name
    # The gaps by the difference quotient of their formula.
    exact = window_spectrum(np.diag(values)).scalars["update/gap_1"]
    assert exact.low == exact.value == exact.high
    slopes = []
    for k in range(3):
        moved = values.copy()
        moved[k] += 1e-6
        slopes.append(((moved[0] - moved[1]) / moved.sum() - exact.value) / 1e-6)
    half = z * math.sqrt(2 / 5000) * float(np.linalg.norm(slopes * values))
    assert out["update/gap_1"].high - exact.value == pytest.approx(half, rel=1e-4)
    ranks = []
    for k in range(3):
        moved = values.copy()
        moved[k] += 1e-6
        ranks.append((moved.sum() ** 2 / (moved**2).sum() - 441 / 273) / 1e-6)
    half = z * math.sqrt(2 / 5000) * float(np.linalg.norm(ranks * values))
    one = out["update/effective_rank"]
    assert one.high - one.value == pytest.approx(half, rel=1e-4)


def test_every_number_of_a_sketch_says_so_and_how_well() -> None:
    gram = (u := walk(0.5, 400, np.random.default_rng(15))) @ u.T
    for sketch, share in ((4096, "2.2 %"), (1 << 16, "0.54 %")):  # 196/sqrt(2m)
        for name, one in window_spectrum(gram, sketch=sketch).scalars.items():
            assert f"{sketch:,} dimensions" in one.reason and share in one.reason, name
    assert not any("sketch" in one.reason for one in window_spectrum(gram).scalars.values())


def test_a_ratio_within_the_error_of_the_sketch_is_no_edge() -> None:
    lags = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    gram = 0.1**lags  # R = 1.03, an edge if exact
    assert not window_spectrum(gram).scalars["update/ratio"].flags
    rough = window_spectrum(gram, sketch=4096).scalars["update/ratio"]  # error 3.06 %
    assert Flag.NO_EDGE in rough.flags and "down to a ratio of 1" in rough.reason
    assert not window_spectrum(gram, sketch=1 << 16).scalars["update/ratio"].flags
    many = window_spectrum(gram, sketch=4096).scalars["update/k_star"]
    assert many.low < many.value < many.high  # the position is not resolved, and says so


def test_the_law_of_rho_under_autocorrelation() -> None:
    # Standard deviation of the mean cosine against its own half-width: 400 walks of ρ = .6, half
    # over sd has the mean t = 2.1 within 10 % (sd known to 1/sqrt(800) = 3.5 %).
    rng = np.random.default_rng(10)
    values, halves = [], []
    for _ in range(400):
        one = window_spectrum((u := walk(0.6, 500, rng)) @ u.T, draws=19).scalars["update/rho_1"]
        values.append(one.value)
        halves.append((one.high - one.low) / 2)
    assert np.median(halves) / np.std(values) == pytest.approx(2.1, rel=0.2)


def test_the_null_must_be_known() -> None:
    with pytest.raises(ValueError, match="`null` of `window_spectrum` must be one of"):
        window_spectrum(np.eye(4), null="iid")
    with pytest.raises(ValueError, match="needs the number of `parameters`"):
        window_spectrum(np.eye(4), null="norms")


def test_level_of_the_bands_where_few_directions_carry_the_noise() -> None:
    # Spectrum j^-1, p = 67. Measured with 300 windows: at most 3 % outside; a Wishart band alone
    # has 34 to 58 % for σ and gap_1. 80 windows at 5 %: 4 +- 2, bound at +4 sd.
    rng = np.random.default_rng(12)
    outside = dict.fromkeys(("sigma_1", "sigma_2", "gap_1", "gap_2", "gap_3", "effective_rank"), 0)
    for _ in range(80):
        updates = rng.standard_normal((10, 20_000)) * power_law(1.0, 20_000)
        out = window_spectrum(updates @ updates.T).scalars
        for name in outside:
            one = out[f"update/{name}"]
            outside[name] += not one.null[0] <= one.value <= one.null[1]
    assert max(outside.values()) <= 12, outside


def test_too_few_dimensions_for_a_band_are_named() -> None:
    # p = 6 dimensions at most: p^ below 15, and every band says so. In 2,000 none does.
    rng = np.random.default_rng(13)
    for p, few in ((6, True), (2000, False)):
        out = window_spectrum((u := rng.standard_normal((10, p))) @ u.T).scalars
        for name in ("sigma_1", "gap_1", "effective_rank"):
            assert ("outside the band" in out[f"update/{name}"].reason) == few


def test_a_sketch_of_isotropic_noise_keeps_the_level_of_the_null_by_norms() -> None:
    # 4,096 sums of noise of 10^8 weights: cosines err by 1/sqrt(4096). With 1/10^8 in the null all
    # of 40 windows are outside the band of the rank; at 5 %, 2 +- 1.4, bound at +4 sd.
    rng = np.random.default_rng(14)
    outside = 0
    for _ in range(40):
        gram = (u := rng.standard_normal((10, 4096))) @ u.T
        out = window_spectrum(gram, null="norms", parameters=10**8, sketch=4096).scalars
        one = out["update/effective_rank"]
        outside += not one.null[0] <= one.value <= one.null[1]
    assert outside <= 8
