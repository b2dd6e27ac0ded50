"""Distance to the last cloud: Gelbrich's closed form, on clouds with exactly the given moments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from foreshock.evaluation import w2_to_final
from foreshock.store import Run


def cloud(mean: np.ndarray, root: np.ndarray, seed: int, n: int = 300) -> np.ndarray:
    """Points whose mean and covariance are m and R R' to rounding, not only on average."""
    d = len(mean)
    z = np.random.default_rng(seed).standard_normal((n, d))
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False).reshape(d, d)).T)
    return z @ root.T + mean


def record(path: Path, clouds: list[np.ndarray]) -> tuple[tuple[int, float], ...]:
    with Run.create(path) as run:
        for index, one in enumerate(clouds):
            run.append_array(10 * index, "latent/z", one)
    with Run.open(path) as run:
        return w2_to_final(run)


@pytest.mark.parametrize("d", [1, 2, 8])
def test_gaussians_against_the_closed_form(tmp_path: Path, d: int) -> None:
    """Commuting covariances: W2^2 = |m - m'|^2 + sum (sqrt s - sqrt s')^2, no matrix root."""
    rng = np.random.default_rng(d)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    mean, here, there = rng.standard_normal(d), rng.uniform(0.2, 3, d), rng.uniform(0.2, 3, d)
    first = cloud(mean, turn * np.sqrt(here), 1)
    last = cloud(np.zeros(d), turn * np.sqrt(there), 2)
    exact = math.sqrt(mean @ mean + np.square(np.sqrt(here) - np.sqrt(there)).sum())
    (start, measured), (end, itself) = record(tmp_path / "run", [first, last])
    assert (start, end) == (0, 10)
    assert measured == pytest.approx(exact, rel=1e-7)  # moments are exact, so only rounding
    assert itself < 1e-6  # the square root of rounding errors of size 1e-15


def test_covariances_that_do_not_commute(tmp_path: Path) -> None:
    """In the plane tr (S^1/2 S' S^1/2)^1/2 = sqrt(tr SS' + 2 sqrt(det S det S'))."""
    one, other = np.array([[2.0, 0.0], [0.5, 0.3]]), np.array([[0.4, -1.0], [0.0, 1.5]])
    s, t = one @ one.T, other @ other.T
    cross = math.sqrt(np.trace(s @ t) + 2 * math.sqrt(np.linalg.det(s) * np.linalg.det(t)))
    exact = math.sqrt(np.trace(s) + np.trace(t) - 2 * cross)
    found = record(tmp_path / "run", [cloud(np.zeros(2), one, 1), cloud(np.zeros(2), other, 2)])
    assert found[0][1] == pytest.approx(exact, rel=1e-7)


def test_it_is_a_lower_bound_that_sees_two_moments_only(tmp_path: Path) -> None:
    """Two clusters and one Gaussian of the same mean and variance: the docstring's blind spot."""
    two = np.repeat([-1.0, 1.0], 150)[:, None] * math.sqrt(299 / 300)  # sample variance 1
    found = record(tmp_path / "run", [two, cloud(np.zeros(1), np.eye(1), 3)])
    assert found[0][1] < 1e-6


def test_what_cannot_be_compared_is_nan_and_a_lone_cloud_is_nothing(tmp_path: Path) -> None:
    fine = np.random.default_rng(0).standard_normal((20, 2))
    bad = fine.copy()
    bad[3, 1] = np.nan
    found = record(tmp_path / "a", [bad, fine[:, :1], fine[:1], fine])
    assert [math.isnan(value) for _, value in found] == [True, True, True, False]
    assert record(tmp_path / "b", [fine]) == ()
    with Run.create(tmp_path / "c") as run:
        run.append(0, {"loss": 1.0})
        assert w2_to_final(run) == ()
