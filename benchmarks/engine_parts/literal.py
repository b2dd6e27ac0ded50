"""The algorithm of "fokker_planck", section 12.1, word for word in NumPy, for the benchmark only.

Its results are wrong in ways the tests of the engine name; only its cost is of interest here. The
decoder's vmapped gradients are written as one batched backward pass, which flatters it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
BANDWIDTH = np.float32(0.1)
EPS = np.float32(1e-4)


@dataclass(frozen=True)
class Decoder:
    """d-128-128-64 with tanh: weights (out, in) and biases."""

    weights: list[Array]
    biases: list[Array]

    def pull(self, z: Array, target: Array) -> tuple[Array, Array]:
        """Residuals dec(z) - x, and their gradients 2 J'r."""
        a1 = np.tanh(z @ self.weights[0].T + self.biases[0])
        a2 = np.tanh(a1 @ self.weights[1].T + self.biases[1])
        residual = a2 @ self.weights[2].T + self.biases[2] - target
        g = 2 * residual @ self.weights[2]
        g = (g * (1 - a2**2)) @ self.weights[1]
        g = (g * (1 - a1**2)) @ self.weights[0]
        return residual, g


def density(z: Array, rows: int, h: np.float32 = BANDWIDTH) -> Array:
    """rho_hat at the first rows, self-kernel included, by an (n, n, d) array of differences."""
    n, d = z.shape
    norm = n * (2 * np.pi * h**2) ** (d / 2)
    z_diff = z[:rows, None, :] - z[None, :, :]
    kernel = np.exp(-(z_diff**2).sum(-1) / (2 * h**2))
    with np.errstate(all="ignore"):
        return kernel.sum(1) / np.float32(norm)


def entropy_gradient(z: Array, rows: int, h: np.float32 = BANDWIDTH) -> Array:
    """-grad rho (1 + log rho) at the first rows."""
    n, d = z.shape
    norm = n * (2 * np.pi * h**2) ** (d / 2)
    z_diff = z[:rows, None, :] - z[None, :, :]
    kernel = np.exp(-(z_diff**2).sum(-1) / (2 * h**2))
    with np.errstate(all="ignore"):
        rho_grad = -(kernel[:, :, None] * z_diff).sum(1) / np.float32(h**2 * norm)
        rho = kernel.sum(1, keepdims=True) / np.float32(norm)
        return -rho_grad * (1 + np.log(rho + 1e-10))


def diffusion(z: Array, decoder: Decoder, target: Array, base: float, gamma: float) -> Array:
    """base (I + gamma F), one equal (d, d) per particle."""
    n, d = z.shape
    _, scores = decoder.pull(z, target)
    fisher = scores.T @ scores / n
    matrix = base * (np.eye(d, dtype=np.float32) + gamma * fisher)
    return np.tile(matrix[None], (n, 1, 1))


@dataclass(frozen=True)
class Cost:
    """Seconds of one step and of one C, and what share of them was run."""

    step: float
    consolidation: float
    rows: int
    columns: int


def cost(z: Array, decoder: Decoder, target: Array, columns: int, memory: float) -> Cost:
    """Time one step and one C.

    Every row of the differences and every column of the finite difference costs the same, so only
    as many rows as fit `memory` and as many columns as asked for are run; the rest is extrapolated.

    Args:
        z: Particles.
        decoder: Decoder.
        target: The one target.
        columns: How many of the d columns to run.
        memory: Bytes for one array of differences.

    Returns:
        The cost.
    """
    n, d = z.shape
    rows = max(1, min(n, int(memory / (4 * n * d))))
    columns = min(columns, d)
    rng = np.random.default_rng(0)

    start = time.perf_counter()
    gradient = np.zeros_like(z)
    gradient[:rows] = entropy_gradient(z, rows)
    entropy = (time.perf_counter() - start) * n / rows

    start = time.perf_counter()
    _, pulled = decoder.pull(z, target)
    mu = np.float32(-0.01) * (pulled / np.float32(len(target)) + np.float32(0.001) * gradient)
    drift = time.perf_counter() - start

    start = time.perf_counter()
    tensor = diffusion(z, decoder, target, 1.0, 0.05)
    spread = time.perf_counter() - start

    start = time.perf_counter()
    noise = rng.standard_normal(z.shape, dtype=np.float32)
    root = np.linalg.cholesky(tensor + np.float32(1e-6) * np.eye(d, dtype=np.float32)[None])
    z + mu * np.float32(0.01) + np.float32(0.02**0.5) * np.einsum("bij,bj->bi", root, noise)
    moved = time.perf_counter() - start

    start = time.perf_counter()
    base = density(z, rows)
    first = (time.perf_counter() - start) * n / rows
    start = time.perf_counter()
    for i in range(columns):
        shifted = z.copy()
        shifted[:, i] += EPS
        gradient[:rows, i] = (density(shifted, rows) - base) / EPS
    each = (time.perf_counter() - start) * n / rows / columns
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        np.linalg.norm(mu) / np.linalg.norm(np.einsum("bij,bj->bi", tensor, gradient))
    ratio = time.perf_counter() - start
    step = entropy + drift + spread + moved
    return Cost(step, entropy + drift + spread + first + each * d + ratio, rows, columns)
