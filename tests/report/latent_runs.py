"""Runs with a cloud of latents for the tests of the report: a driven Ornstein-Uhlenbeck process.

dz = -(k + w R) z dt + sqrt(2 D) dW in the plane, started away from rest: Gaussian at every time.
Written with the real store, under the names that the observables write.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.store import Run
from foreshock.types import Estimate, Flag

K, OMEGA, DIFFUSION, GRID = 0.004, 0.01, 0.002, 25
TURN = np.array([[0.0, -1.0], [1.0, 0.0]])
REASON = "The interval of the drift contains 0."


def moments(step: float) -> tuple[np.ndarray, float]:
    """Mean and variance of either coordinate."""
    angle = -OMEGA * step
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rest = DIFFUSION / K
    variance = rest + (0.04 - rest) * math.exp(-2 * K * step)
    return math.exp(-K * step) * turn @ np.array([1.6, 0.4]), variance


def plane(step: float) -> tuple[np.ndarray, np.ndarray]:
    """(5, g, g) density, J and div J, and (2, g) nodes, in closed form."""
    mean, variance = moments(step)
    axes = np.linspace(mean - 3.5 * math.sqrt(variance), mean + 3.5 * math.sqrt(variance), GRID).T
    z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    density = np.exp(-np.square(z - mean).sum(-1) / (2 * variance)) / (2 * math.pi * variance)
    speed = -K * z - OMEGA * z @ TURN.T + DIFFUSION * (z - mean) / variance
    flux = np.moveaxis(density[..., None] * speed, -1, 0)
    spare = np.full_like(density, np.nan)
    return np.stack([density, *flux, np.zeros_like(density), spare]).astype("f4"), axes


def write_latent(
    path: Path,
    *,
    records: int = 40,
    every: int = 50,
    seed: int = 0,
    classes: int = 6,
    frozen: bool = False,
    particles: int = 600,
    **changes: Any,
) -> Path:
    """A run with a flow, or its twin at learning rate 0, in which everything is unresolved."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((particles, 2))
    labels = np.arange(particles) % max(classes, 1)
    shift = 0.6 * np.stack([np.cos(labels), np.sin(labels)], axis=1)
    config = {"name": "Driven Ornstein-Uhlenbeck process", "lr": 0.0 if frozen else 0.1}
    with Run.create(path, config=config | changes, seed=seed) as run:
        for name, title, unit in (
            ("entropy_production", "Entropy production", "nats / step"),
            ("entropy_production_bound", "Lower bound of it", "nats / step"),
            ("c", "Consolidation ratio of the latents", "1"),
            ("kernel_ess", "Effective particles under the kernel", "1"),
            ("common_noise", "Share of the noise that particles share", "1"),
            ("w2_start", "W2 to the first cloud", "latent"),
        ):
            taken = "output of hidden, 600 held-out examples, after the update"
            run.declare(f"latent/{name}", title=title, unit=unit, taken_at=taken)
        for index in range(records):
            step = index * every
            mean, variance = moments(0 if frozen else step)
            scale = math.sqrt(variance)
            run.append(step, {"loss": 2 * math.exp(-step / 700), **_scalars(step, frozen, rng)})
            z = mean + scale * (noise + shift - shift.mean(0))
            run.append_array(step, "latent/z", z.astype("f4"))
            if index == 0:
                run.append_array(step, "latent/labels", labels)
                run.append_array(step, "latent/basis", np.zeros((3, 64), "f4"))
            if not frozen:
                stack, axes = plane(step)
                run.append_array(step, "latent/plane", stack)
                run.append_array(step, "latent/plane_axes", axes.astype("f4"))
        if not frozen:
            run.event(
                "milestone", "test", {"name": "onset", "rule": "r"}, step=records * every // 3
            )
        for step, applied in ((4 * every, False), (6 * every, True), (8 * every, True)):
            payload = {
                "step": step,
                "policy": "latent_reset",
                "kind": "reset_latents",
                "arguments": {"layer": "body.1", "fraction": 0.25, "value": math.nan},
                "reason": "C fell below 1 and stayed there.",
                "applied": applied,
            }
            if not frozen:
                run.event("action", "latent_reset", payload, step=step)
    return path


def _scalars(step: int, frozen: bool, rng: np.random.Generator) -> dict[str, Estimate]:
    if frozen:
        names = ["entropy_production", "entropy_production_bound", "c"]
        return {f"latent/{name}": Estimate.missing(REASON) for name in names}
    mean, variance = moments(step)
    second = float(mean @ mean) + 2 * variance
    # v = -w R z - k z + D (z - m)/s, in D^-1 norm; parts with m and with z - m do not mix.
    production = (OMEGA**2 * second + K**2 * float(mean @ mean)) / DIFFUSION
    production += 2 * variance * (DIFFUSION / variance - K) ** 2 / DIFFUSION
    wide = 0.15 * production
    value = production + 0.07 * production * rng.standard_normal()
    drift, fisher = (K**2 + OMEGA**2) * second / DIFFUSION, 2 * DIFFUSION / variance
    c = math.sqrt(drift / fisher)
    found = {
        "entropy_production": Estimate(value, value - wide, value + wide, n=25),
        "entropy_production_bound": Estimate(
            0.9 * value, 0.9 * value - wide, math.inf, n=25, null=(0.0, 0.0)
        ),
        "c": Estimate(c, 0.9 * c, 1.1 * c, n=25, null=(0.0, 0.3)),
        "kernel_ess": Estimate.plain(412.5),
        "common_noise": Estimate(0.81, 0.78, 0.84, n=25),
        "w2_start": Estimate.plain(float(np.linalg.norm(mean - moments(0)[0]))),
    }
    if step % 300 == 200:
        why = "The kernel sees 31 particles; take more or fewer dimensions."
        found["entropy_production"] = Estimate.missing(why, flags=Flag.INVALID_DENSITY)
    for part, factor in (("class0", 0.5), ("class1", 1.5), ("cluster0", 1.1)):
        found[f"c@{part}"] = Estimate(factor * c, 0.8 * factor * c, 1.2 * factor * c, n=9)
        late = Estimate.missing("Fewer than 40 particles.")
        part_value = factor * value
        kept = Estimate(part_value, part_value - wide, part_value + wide, n=9)
        found[f"entropy_production@{part}"] = late if step > 900 or part == "class1" else kept
    out = {f"latent/{name}": one for name, one in found.items()}
    return out | {
        "published/c_fp": Estimate.plain(1e-4 * (step + 1)),
        "published/s_dot_fp": Estimate.plain(3.25),
    }
