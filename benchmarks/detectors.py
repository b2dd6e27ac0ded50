"""False alarms of the detectors on series where nothing happens, per 10,000 values.

A rule of one series reads x; y and z are independent draws of the same null, and -x is the worst
partner that a drop of x can have. Each null is drawn from fixed seeds; rates come with their 95 %
Poisson interval.
``foreshock bench detectors``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import numpy as np

from foreshock.detectors import (
    CUSUM,
    HeldoutSignalRule,
    Judge,
    PCrossesHalf,
    PhaseTransition,
    Turnover,
)
from foreshock.types import Detector, Estimate

LENGTH = 5_000


def ar1(rng: np.random.Generator, phi: float) -> np.ndarray:
    """A stationary AR(1) series of unit variance."""
    shocks = rng.standard_normal(LENGTH) * math.sqrt(1 - phi * phi)
    x = np.empty(LENGTH)
    x[0] = rng.standard_normal()
    for t in range(1, LENGTH):
        x[t] = phi * x[t - 1] + shocks[t]
    return x


def decay(rng: np.random.Generator, phi: float) -> np.ndarray:
    """A healthy loss: exponential decay with 5 % noise."""
    return np.exp(-np.arange(LENGTH) / 1000) * (1 + 0.05 * ar1(rng, phi))


NULLS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "white noise": lambda rng: ar1(rng, 0.0),
    "AR(1) .5": lambda rng: ar1(rng, 0.5),
    "AR(1) .9": lambda rng: ar1(rng, 0.9),
    "decay + white": lambda rng: decay(rng, 0.0),
    "decay + AR(1) .9": lambda rng: decay(rng, 0.9),
}

RULES: dict[str, Detector] = {
    "cusum up": CUSUM("x", "up"),
    "cusum down": CUSUM("x", "down"),
    "heldout_signal": HeldoutSignalRule("x", after=""),
    "turnover": Turnover("x", after=""),
    "p_crosses_half": PCrossesHalf("x"),
    "phase_transition": PhaseTransition("x", "y", "z"),
    "phase_transition, y = -x": PhaseTransition("x", "-x", "z"),
}


def drawn(draw: Callable[[np.random.Generator], np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Three independent series of one null, and the first mirrored."""
    x = draw(np.random.default_rng(seed))
    y, z = (draw(np.random.default_rng([seed, k])) for k in (1, 2))
    return {"x": x, "-x": -x, "y": y, "z": z}


def poisson(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of a Poisson rate."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return low / exposure, chi2.ppf(0.975, 2 * count + 2) / 2 / exposure


def main() -> None:
    """Parse arguments, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for null, draw in NULLS.items():
        series = [drawn(draw, seed) for seed in range(arguments.runs)]
        for name, rule in RULES.items():
            count = sum(
                len(judge.feed(t, {name: Estimate(float(run[name][t])) for name in rule.reads}))
                for run in series
                for judge in [Judge([rule])]
                for t in range(LENGTH)
            )
            exposure = arguments.runs * LENGTH / 10_000
            low, high = poisson(count, exposure)
            rows.append(
                {"null": null, "rule": name, "rate": count / exposure, "low": low, "high": high}
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"false alarms per 10,000 values ({arguments.runs} runs of {LENGTH:,} a null)")
    for row in rows:
        print(
            f"{row['null']:<18} {row['rule']:<26} {row['rate']:>8.2f} "
            f"[{row['low']:.2f}, {row['high']:.2f}]"
        )


if __name__ == "__main__":
    main()
