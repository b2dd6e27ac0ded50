"""Penalised logistic regression against a general optimiser; its covariance against loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from foreshock.stats.logistic import clustered_covariance, fit_logistic


def drawn(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    y = rng.random(n) < 1 / (1 + np.exp(-x @ [-0.5, 1.0, -2.0]))
    return x, y.astype(float)


@pytest.mark.parametrize("ridge", [0.0, 1.0, 30.0])
def test_a_general_optimiser_finds_the_same(ridge: float) -> None:
    x, y = drawn(0)
    w = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)

    def loss(b: np.ndarray) -> float:
        logit = x @ b
        return float(w @ (np.logaddexp(0, logit) - y * logit) + ridge / 2 * (b[1:] ** 2).sum())

    expected = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7}).x
    # Central differences of BFGS leave some 1e-6.
    np.testing.assert_allclose(fit_logistic(x, y, ridge=ridge, weights=w), expected, atol=2e-5)


def test_the_covariance_over_clusters_by_loops() -> None:
    x, y = drawn(2, n=60)
    cluster, ridge = np.arange(60) // 5, 0.7
    b = fit_logistic(x, y, ridge=ridge)
    p = 1 / (1 + np.exp(-x @ b))
    hessian = np.diag([0, ridge, ridge]) + sum(
        q * (1 - q) * np.outer(row, row) for q, row in zip(p, x, strict=True)
    )
    scores = [sum((y[i] - p[i]) * x[i] for i in range(60) if cluster[i] == r) for r in range(12)]
    centred = np.array(scores) - np.mean(scores, axis=0)
    meat = sum(np.outer(s, s) for s in centred) * 12 / 11
    expected = np.linalg.inv(hessian) @ meat @ np.linalg.inv(hessian)
    found = clustered_covariance(x, y, b, cluster, ridge=ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="at least two of them"):
        clustered_covariance(x, y, b, np.zeros(60))


def test_without_a_maximum_it_refuses() -> None:
    x, y = drawn(3)
    for design, outcome, sentence in (
        (x, np.zeros(300), "with the event and rows without. Got 0"),
        (x, np.ones(300), "Got 300 with it of 300"),
        (x, (x[:, 1] > 0).astype(float), "separate the outcomes"),
        (x[:, [0, 1, 1]], y, "two of them are the same"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fit_logistic(design, outcome)
    # A penalty makes the separated one finite, and the sum of equal ones what one of them is.
    assert np.isfinite(fit_logistic(x, x[:, 1] > 0, ridge=1.0)).all()
    two = fit_logistic(x[:, [0, 1, 1]], y, ridge=2.0)
    one = fit_logistic(x[:, :2], y, ridge=1.0)
    np.testing.assert_allclose([two[0], two[1] + two[2]], one, rtol=1e-9)
