"""Naive twins of the estimators: slow, plain, written from the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np


def gram_moments(gradients: np.ndarray) -> dict[str, object]:
    """U, V, tr(S^2)^ and delete-one U, V from the gradients themselves, by loops."""
    n = len(gradients)

    def signal_and_noise(g: np.ndarray) -> tuple[float, float]:
        k = len(g)
        signal = sum(float(g[i] @ g[j]) for i in range(k) for j in range(k) if i != j)
        return signal / (k * (k - 1)), float(g.var(0, ddof=1).sum())

    without = [signal_and_noise(np.delete(gradients, i, 0)) for i in range(n)]
    gram = gradients @ gradients.T
    total = 0.0
    for i, j, k, m in itertools.permutations(range(n), 4):
        total += gram[i, j] ** 2 - 2 * gram[i, j] * gram[j, k] + gram[i, j] * gram[k, m]
    signal, noise = signal_and_noise(gradients)
    return {
        "signal": signal,
        "noise": noise,
        "trace_square": total / math.perm(n, 4),
        "signal_without": np.array([s for s, _ in without]),
        "noise_without": np.array([v for _, v in without]),
    }


def jackknife_se(without: np.ndarray) -> float:
    """Efron's delete-one standard error, by a loop."""
    n, mean = len(without), float(np.mean(without))
    return math.sqrt((n - 1) / n * sum((float(x) - mean) ** 2 for x in without))


def snr_variance(
    n: int, snr: float, covariance_eigenvalues: np.ndarray, mean_direction: np.ndarray
) -> float:
    """First-order Gaussian variance of U/V in the eigenbasis of S, with the cross term."""
    values = covariance_eigenvalues
    trace, d_eff = values.sum(), values.sum() ** 2 / (values**2).sum()
    along = float(values @ mean_direction**2) * snr * trace  # mu'S mu, |mu|^2 = C tr S
    degenerate = (2 / (n * (n - 1)) + 4 * snr / (n * (n - 1)) + 2 * snr**2 / (n - 1)) / d_eff
    return degenerate + 4 * along / (n * trace**2)


def p_align(gradients: np.ndarray) -> float:
    """Share of gradients with a positive product with the mean of the others."""
    n = len(gradients)
    return float(np.mean([gradients[i] @ np.delete(gradients, i, 0).mean(0) > 0 for i in range(n)]))


def hill(samples: np.ndarray, k: int) -> float:
    """Hill's estimator as it is written in every textbook."""
    ordered = sorted(samples, reverse=True)
    return k / sum(math.log(ordered[i] / ordered[k]) for i in range(k))


def window_spectrum(updates: np.ndarray) -> dict[str, float]:
    """Everything the update window reports, from the updates by a full SVD."""
    sigma = np.linalg.svd(updates, compute_uv=False)
    values = sigma**2
    total = values.sum()
    ratios = sigma[:-1] / sigma[1:]
    out = {
        "sigma_1": sigma[0],
        "sigma_2": sigma[1],
        "k_star": float(np.argmax(ratios) + 1),
        "ratio": ratios.max(),
        "k_star_weighted": float(np.argmax(sigma[:-1] / sigma.sum() * ratios) + 1),
        "effective_rank": total**2 / (values**2).sum(),
        "norm": math.sqrt((updates**2).sum() / len(updates)),
    }
    for j in (1, 2, 3):
        out[f"gap_{j}"] = (values[j - 1] - values[j]) / total
    for lag in (1, 2, 3):
        out[f"rho_{lag}"] = float(
            np.mean(
                [
                    a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                    for a, b in zip(updates[:-lag], updates[lag:], strict=True)
                ]
            )
        )
    return {name: float(value) for name, value in out.items()}


def true_label_rank_p(logits: np.ndarray, labels: np.ndarray) -> float:
    """Exact permutation p-value of the mean rank, by listing every permutation."""

    def mean_rank(order: tuple[int, ...]) -> float:
        total = 0.0
        for row, label in zip(logits, order, strict=True):
            above = np.sum(row > row[label])
            ties = np.sum(row == row[label]) - 1
            total += above + ties / 2
        return total

    observed = mean_rank(tuple(labels))
    everything = [mean_rank(order) for order in itertools.permutations(labels)]
    return float(np.mean(np.array(everything) <= observed))


def heldout_z(logits: np.ndarray, labels: np.ndarray) -> float:
    """sqrt(n) times the mean centred true logit over the rms of all centred logits."""
    centred = logits - logits.mean(1, keepdims=True)
    hit = [centred[i, label] for i, label in enumerate(labels)]
    return float(math.sqrt(len(labels)) * np.mean(hit) / math.sqrt(np.mean(centred**2)))


def heldout_se(logits: np.ndarray, labels: np.ndarray) -> float:
    """Delete-one standard error of the ratio mean/rms, scaled by sqrt(n)."""
    n = len(labels)
    without = [
        heldout_z(np.delete(logits, i, 0), np.delete(labels, i)) / math.sqrt(n - 1)
        for i in range(n)
    ]
    return math.sqrt(n) * jackknife_se(np.array(without))


def ridge_fit(
    features: np.ndarray, labels: np.ndarray, heldout: np.ndarray, classes: int, strength: float
) -> np.ndarray:
    """Ridge to one-hot with a free intercept: solve the normal equations once."""
    target = np.eye(classes)[labels]
    centre, mean = features.mean(0), target.mean(0)
    x = features - centre
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (target - mean))
    return (heldout - centre) @ weights + mean


def ridge_loo_error(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float
) -> float:
    """Leave-one-out squared error by n refits."""
    error = 0.0
    for i, label in enumerate(labels):
        x, y = np.delete(features, i, 0), np.delete(labels, i)
        prediction = ridge_fit(x, y, features[i : i + 1], classes, strength)[0]
        error += float(((np.eye(classes)[label] - prediction) ** 2).sum())
    return error


def ntk_log_det(kernel: np.ndarray, epsilon: float) -> float:
    """log det(K/(tr K/n) + eps I) by LU."""
    n = len(kernel)
    return float(np.linalg.slogdet(kernel / (np.trace(kernel) / n) + epsilon * np.eye(n))[1])


def ntk_log_det_se(kernel: np.ndarray, epsilon: float, groups: int) -> float:
    """Delete-a-group standard error of the log-determinant."""
    n = len(kernel)
    without = []
    for block in np.array_split(np.arange(n), groups):
        kept = np.setdiff1d(np.arange(n), block)
        part = kernel[np.ix_(kept, kept)]
        without.append(ntk_log_det(part, epsilon) * n / len(kept))
    return jackknife_se(np.array(without))
