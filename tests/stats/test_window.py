"""Update window: full-SVD twin, the published tables on noise and AR(1), the level of the null."""

import math

import numpy as np
import pytest

from foreshock.stats.window import (
    SERIES,
    effective_dimension,
    null_cosines,
    window_pending,
    window_spectrum,
)
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


def test_iid_histogram_of_k_star() -> None:
    # Published: {1: .22, 2: .11, 3: .07, 4-6: ~.06, 7: .08, 8: .11, 9: .22} at any p. 2,000 Wishart
    # draws: sd of a share .22 is .009, of .11 .007; 4 sd of the difference to a table of two digits
    # (rounding .005, its own Monte-Carlo error alike): .04.
    cosines = null_cosines(10, round(math.log(1e5) / 0.05), 2000, 1)
    sigma = np.sqrt(np.linalg.eigvalsh(cosines)[:, ::-1])
    best = 1 + np.argmax(sigma[:, :-1] / sigma[:, 1:], axis=1)
    shares = np.bincount(best, minlength=10)[1:] / 2000
    published = [0.22, 0.11, 0.07, 0.06, 0.06, 0.06, 0.08, 0.11, 0.22]
    np.testing.assert_allclose(shares, published, atol=0.04)


@pytest.mark.parametrize(
    ("rho", "k", "ratio"), [(0.3, 3, 1.10), (0.5, 2, 1.19), (0.7, 2, 1.38), (0.9, 1, 2.25)]
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
    windows = null_cosines(10, 180, 400, 77)
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


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_effective_dimension_of_a_power_law(exponent: float) -> None:
    values = np.arange(1, 2001.0) ** -exponent
    truth = values.sum() ** 2 / (values**2).sum()
    rng = np.random.default_rng(4)
    logs = []
    for _ in range(60):
        updates = rng.standard_normal((10, 2000)) * np.sqrt(values)
        updates /= np.linalg.norm(updates, axis=1, keepdims=True)
        logs.append(math.log(effective_dimension(updates @ updates.T) / truth))
    # sd of log p^ is sqrt(2/36) = .24 per window, .031 for the mean: 4 sd = .12, and .05 for
    # the skewness of cosines at finite p.
    assert abs(np.mean(logs)) < 0.17


def test_effective_dimension_is_not_fooled_by_drift() -> None:
    # cosines rho^l: their mean square says p = 4, their scatter within a lag says p = infinity.
    lags = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    assert effective_dimension(0.9**lags) > 1e9


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
    with pytest.raises(ValueError, match="W x W with W >= 3"):
        window_spectrum(np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        window_spectrum(np.tril(np.ones((4, 4))))
    with pytest.raises(ValueError, match="at least 19"):
        window_spectrum(np.eye(4), draws=5)


def test_null_is_private_and_reproducible() -> None:
    before = np.random.get_state()[1].copy()
    gram = (u := walk(0.2, 50, np.random.default_rng(8))) @ u.T
    assert window_spectrum(gram).scalars == window_spectrum(gram).scalars
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    assert not null_cosines(5, 100, 19, 0).flags.writeable
