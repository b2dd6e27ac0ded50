"""Runs for the tests of the report: grokking-like curves, written as the monitor writes them.

All written with the real store, so that what the report reads is what the monitor leaves behind.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.report.data import Column
from foreshock.store import Run
from foreshock.types import Estimate, Flag

#: Payload that must stay text wherever a run can put it.
HOSTILE = '<img src=x onerror="window.hacked=1"></script><!--\u2028\'&'

#: name, title, unit, null, of the series the observables of the generated runs promise.
OBSERVABLES = {
    "baselines": [
        ("grad/norm", "Gradient norm", "loss / parameter", ""),
        ("weight/norm", "Weight norm", "parameter", ""),
        ("optim/lr", "Learning rate", "1", ""),
        ("clock/seconds", "Wall time", "s", ""),
        ("update/step_norm", "Norm of an update", "parameter", ""),
    ],
    "gradient_noise": [
        ("grad/signal", "Squared norm of the mean gradient", "loss² / parameter²", "0"),
        ("grad/noise", "Variance of a batch gradient", "loss² / parameter²", ""),
        ("grad/snr", "Consolidation ratio C", "1", "0 in expectation"),
        ("grad/snr_per_example", "C of one example", "1", "0 in expectation"),
        ("grad/noise_scale", "Gradient noise scale", "examples", ""),
        ("grad/p_published", "p = C / (1 + C)", "1", ""),
        ("grad/p_align", "Share of aligned gradients", "1", "0.5"),
        ("probe/loss", "Loss on the probe", "nats", ""),
    ],
    "curvature": [
        ("hessian/lambda_max", "Largest Hessian eigenvalue", "loss / parameter²", ""),
        ("hessian/eta_lambda_half", "Learning rate times half of it", "1", "edge at 1"),
    ],
    "ntk": [
        ("ntk/log_det", "Log-determinant of the tangent kernel", "nats", ""),
        ("ntk/log_scale", "Log of its mean eigenvalue", "nats", ""),
        ("ntk/log_det_rate", "Rate of the log-determinant", "nats / step", "0"),
        ("ntk/effective_rank", "Effective rank of the kernel", "directions", ""),
    ],
    "update_window": [
        ("update/sigma_1", "First singular value", "parameter", ""),
        ("update/sigma_2", "Second singular value", "parameter", ""),
        ("update/gap_1", "First gap", "parameter", "Tracy-Widom band"),
        ("update/k_star", "Largest gap", "index", "no edge"),
        ("update/ratio", "Ratio at the gap", "1", "Tracy-Widom band"),
        ("update/rho_1", "First autocorrelation", "1", "white noise"),
        ("update/effective_rank", "Effective rank of the updates", "directions", ""),
    ],
    "tails": [("tails/hill", "Hill index of gradient norms", "1", "2 for Gaussian tails")],
    "readout": [
        ("readout/heldout_signal", "Held-out signal z", "standard deviations", "standard normal"),
        ("readout/probe_accuracy", "Probe accuracy", "share correct", "1 / classes"),
        (
            "readout/ridge_signal",
            "Signal of a ridge readout z",
            "standard deviations",
            "standard normal",
        ),
    ],
}


def column(value: np.ndarray, **changes: Any) -> Column:
    rows = len(value)
    blank = np.full(rows, np.nan)
    fields: dict[str, Any] = {
        "name": "x",
        "title": "",
        "unit": "1",
        "taken_at": "",
        "null": "",
        "step": np.arange(rows),
        "value": np.asarray(value, float),
        "low": blank,
        "high": blank,
        "null_low": blank,
        "null_high": blank,
        "n": np.ones(rows, np.int64),
        "flags": np.zeros(rows, np.int64),
        "reason": [""] * rows,
    }
    return Column(**(fields | changes))


def _logistic(t: np.ndarray, middle: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip((t - middle) / width, -60, 60)))


def curves(steps: int, *, twin: bool, seed: int) -> dict[str, np.ndarray]:
    """Values at every step of a run that memorises by 160 and generalises from 600 to 1000."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps) * (2000 / steps)
    noise = lambda scale: scale * rng.standard_normal(steps)  # noqa: E731
    rise = np.zeros(steps) if twin else _logistic(t, 790, 62)
    early = np.zeros(steps) if twin else _logistic(t, 330, 70)
    train = np.clip(1 / 97 + (1 - 1 / 97) * _logistic(t, 95, 16) + noise(0.008), 0, 1)
    validation = np.clip(1 / 97 + (1 - 1 / 97) * rise + noise(0.006), 0, 1)
    loss = np.exp(np.log(4.6) - 7.5 * _logistic(t, 150, 60) - 1.6 * t / 2000 + noise(0.08))
    held = (4.6 + 9 * _logistic(t, 120, 40) - 13.4 * rise) * np.exp(noise(0.04))
    z = noise(1) + (0 if twin else 1) * (14 * early + 40 * rise)
    snr = 0.9 * np.exp(-t / 90) + 0.02 + 0.25 * rise * np.exp(-((t - 850) ** 2) / 9e4) + noise(0.02)
    weight = 38 + 14 * _logistic(t, 120, 50) - 22 * rise * _logistic(t, 900, 120) + noise(0.02)
    noise_power = np.exp(-1 - 5 * _logistic(t, 160, 60) + noise(0.1))
    out = {
        "loss": loss,
        "train_acc": train,
        "val_loss": np.maximum(held, 0.02),
        "val_acc": validation,
        "grad/norm": np.sqrt(noise_power) * 1.7,
        "weight/norm": weight,
        "optim/lr": np.minimum(1, t / 20 + 0.05) * 1e-3,
        "clock/seconds": 0.0031 * np.arange(steps),
        "update/step_norm": 0.02 + 0.3 * np.exp(-t / 60),
        "grad/signal": snr * noise_power,
        "grad/noise": noise_power,
        "grad/snr": snr,
        "grad/snr_per_example": snr / 512,
        "grad/noise_scale": 512 / snr,
        "grad/p_published": snr / (1 + snr),
        "grad/p_align": np.clip(0.5 + snr / 2, 0, 1),
        "probe/loss": loss * 1.1,
        "hessian/lambda_max": 120 * np.exp(-t / 300) + 30 + 60 * rise + noise(3),
        "ntk/log_det": 60 + 25 * early + noise(1),
        "ntk/log_scale": 2 + 0.5 * early + noise(0.05),
        "ntk/log_det_rate": np.gradient(60 + 25 * early) + noise(0.01),
        "ntk/effective_rank": 20 + 12 * early + noise(0.4),
        "update/sigma_1": 1.2 * np.exp(-t / 400) + 0.2 + np.abs(noise(0.02)),
        "update/sigma_2": 0.7 * np.exp(-t / 400) + 0.15 + np.abs(noise(0.02)),
        "update/gap_1": 0.5 * np.exp(-t / 400) + 0.05 + noise(0.02),
        "update/k_star": 1.0 + (rng.random(steps) > 0.7),
        "update/ratio": 1.6 + noise(0.15),
        "update/rho_1": 0.4 * np.exp(-t / 500) + noise(0.05),
        "update/effective_rank": 6 + noise(0.3),
        "tails/hill": 2.6 + noise(0.3),
        "readout/heldout_signal": z,
        "readout/ridge_signal": noise(1) + 20 * early,
        "readout/probe_accuracy": np.clip(1 / 97 + 0.6 * early + noise(0.01), 0, 1),
    }
    out["hessian/eta_lambda_half"] = out["hessian/lambda_max"] * out["optim/lr"] / 2
    return out


def estimate(name: str, value: float, scale: float) -> Estimate | float:
    """The value as the monitor would write it: with interval, flags and null where it has them."""
    if name in {"loss", "train_acc", "val_loss", "val_acc"}:
        return float(value)
    if name in {"grad/norm", "weight/norm", "optim/lr", "clock/seconds", "update/step_norm"}:
        return Estimate.exact(float(value))
    if name == "readout/heldout_signal":
        return Estimate(value, value - 1.96, value + 1.96, n=300, null=(-1.96, 1.96))
    if name == "grad/noise_scale" and not 0 < value < 3e5:
        return Estimate(
            value,
            0.0 if value < 0 else value / 3,
            math.inf,
            n=16,
            flags=Flag.UNRESOLVED,
            reason="The interval of the signal contains 0.",
        )
    if name == "grad/snr":
        open_ = value - 0.05 < 0
        return Estimate(
            value,
            value - 0.05,
            value + 0.06,
            n=16,
            null=(-0.05, 0.05),
            flags=Flag.UNRESOLVED if open_ else Flag.NONE,
            reason="The interval of the signal contains 0." if open_ else "",
        )
    if name == "update/ratio":
        edge = value < 1.7
        return Estimate(
            value,
            value - 0.1,
            value + 0.1,
            n=10,
            null=(1.3, 1.7),
            flags=Flag.NO_EDGE if edge else Flag.NONE,
            reason="The gap lies inside the band that noise produces." if edge else "",
        )
    width = 0.15 * value if name == "grad/noise" else 0.08 * scale
    return Estimate(float(value), float(value - width), float(value + 1.3 * width), n=16)


def write_pair(
    root: Path, *, steps: int = 2000, every: int = 10, seed: int = 0
) -> tuple[Path, Path]:
    """A run that generalises at 600 with an alarm at 210, and a twin in which nothing happens."""
    return (
        _write(root / "grok", steps=steps, every=every, seed=seed, twin=False),
        _write(root / "twin", steps=steps, every=every, seed=seed + 1, twin=True),
    )


def _write(path: Path, *, steps: int, every: int, seed: int, twin: bool) -> Path:
    values = curves(steps, twin=twin, seed=seed)
    scales = {name: float(np.nanstd(column)) or 1.0 for name, column in values.items()}
    at = steps / 2000
    config = {
        "name": "Modular addition, p = 97",
        "labels": "random" if twin else "true",
        "optimizer": {"name": "AdamW", "lr": 1e-3, "weight_decay": 1.0},
        "width": 256,
        "batch": 512,
    }
    with Run.create(path, kind="grokking", config=config, seed=seed) as run:
        for family in OBSERVABLES.values():
            for name, title, unit, null in family:
                taken = "averaged gradient, before clipping, batch of 512, float32"
                run.declare(name, title=title, unit=unit, taken_at=taken, null=null)
        run.declare("loss", title="Training loss", unit="nats", taken_at="training batch")
        run.event(
            "observables",
            "monitor",
            {
                "observables": [
                    {
                        "name": family,
                        "series": [
                            dict(zip(("name", "title", "unit", "null"), s, strict=True))
                            for s in listed
                        ],
                        "needs": ["gradients"],
                        "price": 1.0,
                    }
                    for family, listed in OBSERVABLES.items()
                ],
                "left_out": [
                    {"name": "llc", "reason": "It is a sampler and needs a budget of 0.3."}
                ],
            },
        )
        for step in range(steps):
            if step % every and step != steps - 1:
                continue
            run.append(
                step,
                {
                    name: estimate(name, column[step], scales[name])
                    for name, column in values.items()
                },
            )
        run.event(
            "milestone",
            "grokking",
            {"name": "memorised", "rule": "train_acc >= 0.99"},
            step=round(160 * at),
        )
        if not twin:
            run.event(
                "alarm",
                "heldout_signal",
                {
                    "series": "readout/heldout_signal",
                    "value": 3.4,
                    "threshold": 3.0,
                    "reason": "z was above 3 at two consecutive measurements after memorisation.",
                    "forecast": {
                        "event": "onset",
                        "step": 560,
                        "low": 380,
                        "high": 840,
                        "basis": "Exploratory: 2.7 times the step of the alarm.",
                    },
                },
                step=round(210 * at),
            )
            for name, step, rule in (
                ("onset", 600, "val_acc >= 0.1 at two consecutive evaluations"),
                ("T50", 790, "val_acc >= 0.5"),
                ("T90", 930, "val_acc >= 0.9"),
            ):
                run.event(
                    "milestone", "grokking", {"name": name, "rule": rule}, step=round(step * at)
                )
        run.event(
            "alarm",
            "turnover",
            {
                "series": "val_loss",
                "value": 12.1,
                "threshold": 12.3,
                "reason": "Validation loss fell 10 % below its running maximum.",
                "forecast": None,
            },
            step=round((1540 if twin else 660) * at),
        )
        run.event("note", "monitor", {"text": "Parameters without gradient: none."})
        run.event(
            "schedule",
            "monitor",
            {
                "mode": "every",
                "every": dict.fromkeys(OBSERVABLES, every),
                "budget": None,
                "steps": steps,
                "train_seconds": 6.2 * at,
                "watch_seconds": 1.3 * at,
                "share": 0.173,
                "observables": [
                    {
                        "name": family,
                        "values": steps // every,
                        "due": steps // every,
                        "median_ms": 0.4 * (i + 1) ** 2,
                        "total_ms": 9.0,
                        "share": 0.004 * (i + 1) ** 2,
                        "verdict": "Ran 12 of 200 times; a budget of 0.3 affords every 10 steps."
                        if family == "ntk"
                        else "",
                    }
                    for i, family in enumerate(OBSERVABLES)
                ],
            },
        )
    return path
