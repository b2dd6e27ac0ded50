"""Alarms of the published rules and their causal forms on series where nothing happens.

Per 10,000 values, with 95 % Poisson intervals. Every series lies where its rule looks: C about 1
with a standard deviation of .2 (the edge .5 for the resets), S and p about their edges with .1, the
rate of the log-determinant about 0 with .5, the gap about 1 with .2; and a decay that crosses the
band, top exp(-t/1000) with 5 % of white noise. Rules that use intervals are given them, of the true
width, ``foreshock bench published_detectors``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.signal import lfilter
from scipy.stats import chi2

from foreshock.detectors import (
    CFalling,
    CWindow,
    GapCollapse,
    GapOpening,
    Judge,
    PublishedCFalling,
    PublishedCWindow,
    PublishedEarlyStop,
    PublishedPhi,
    PublishedReset,
    PublishedTransitions,
    PublishedTripleAlignment,
    RegimeRibbon,
    ResetTime,
    TripleAlignment,
)
from foreshock.types import Detector, Estimate

LENGTH = 5_000
NULLS: Mapping[str, float | None] = {"white": 0.0, "AR .5": 0.5, "AR .9": 0.9, "decay": None}

#: Centre, standard deviation, start of the decay.
C, EDGE, S, R, P = (
    (1.0, 0.2, 4.0),
    (0.5, 0.2, 2.0),
    (0.0, 0.1, 2.0),
    (0.0, 0.5, 1.0),
    (0.5, 0.1, 1.0),
)
I_HERE, UNIT, LOSS = (0.1, 0.1, 1.0), (0.0, 1.0, 1.0), (1.0, 0.01, 1.0)
QUIET_C, QUIET_S = (1.0, 0.05, 4.0), (1.0, 0.025, 2.0)


def of_parts(parts: Sequence[str]) -> tuple[tuple[float, float, float], ...]:
    """Where the series of some parts of the alignment lie."""
    return tuple({"c": C, "s": S, "r": R}[part] for part in parts)


#: Rule, where its series lie, whether they have intervals.
RULES: Sequence[tuple[Detector, tuple[tuple[float, float, float], ...], bool]] = (
    (PublishedCWindow(), (C,), False),
    (CWindow(), (QUIET_C,), True),
    (PublishedTripleAlignment(), (C, S, R), False),
    (PublishedTripleAlignment(threshold=None, name="published_triple(task)"), (C, S, R), False),
    *(
        (PublishedTripleAlignment(parts=parts), of_parts(parts), False)
        for parts in (("c",), ("s",), ("r",), ("c", "s"), ("c", "r"), ("s", "r"))
    ),
    (TripleAlignment(), (QUIET_C, QUIET_S, R), True),
    (TripleAlignment(parts=("c", "s")), (QUIET_C, QUIET_S), True),
    (PublishedPhi(), (C, S, R), False),
    (PublishedCFalling(), (C,), False),
    (CFalling(), (C,), False),
    (CFalling(name="c_falling, intervals"), (C,), True),
    (PublishedTransitions(), (C, UNIT, LOSS), False),
    (PublishedReset(), (EDGE,), False),
    (ResetTime(), (EDGE,), False),
    (ResetTime(name="reset_time, intervals"), (EDGE,), True),
    (GapCollapse(), (C,), False),
    (GapCollapse(confirm=2, name="gap_collapse, intervals"), (C,), True),
    (GapOpening(), (C,), False),
    (GapOpening(confirm=2, name="gap_opening, intervals"), (C,), True),
    (PublishedEarlyStop(), (P, C, I_HERE), False),
    *(
        (RegimeRibbon(table), where, False)
        for table, where in (
            ("signal_p", (P,)), ("signal_c", (C,)), ("signal_phase", (P,)), ("signal_i", (I_HERE,)),
            ("langevin", (C,)), ("fokker_planck", (C,)), ("levy", (C, S, R)), ("levy_s", (S,)),
            ("spectral_edge", (C,)),
        )
    ),
    (RegimeRibbon("signal_p", persist=5, name="regime(signal_p), persist=5"), (P,), False),
)  # fmt: skip


def drawn(where: tuple[float, float, float], phi: float | None, seed: Sequence[int]) -> np.ndarray:
    """One series: stationary AR(1) noise about its centre, or a noisy decay."""
    centre, scale, top = where
    noise = np.random.default_rng(seed).standard_normal(LENGTH)
    if phi is None:
        return top * np.exp(-np.arange(LENGTH) / 1000) * (1 + 0.05 * noise)
    noise[1:] *= math.sqrt(1 - phi * phi)
    return centre + scale * lfilter([1.0], [1.0, -phi], noise)


def count(
    rule: Detector,
    where: Sequence[tuple[float, float, float]],
    intervals: bool,
    phi: float | None,
    seed: int,
) -> int:
    """How many alarms one run gives."""
    judge, found = Judge([rule]), 0
    columns = [drawn(one, phi, [seed, place]) for place, one in enumerate(where)]
    halves = [
        1.96 * (0.05 * np.abs(x) if phi is None else np.full(LENGTH, one[1]))
        for x, one in zip(columns, where, strict=True)
    ]
    for t in range(LENGTH):
        row = {}
        for name, x, half in zip(rule.reads, columns, halves, strict=True):
            ends = (float(x[t] - half[t]), float(x[t] + half[t])) if intervals else (math.nan,) * 2
            row[name] = Estimate(float(x[t]), *ends)
        found += len(judge.feed(t, row))
    return found


def main() -> None:
    """Parse arguments, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    exposure = arguments.runs * LENGTH / 10_000
    rows = []
    for rule, where, intervals in RULES:
        for null, phi in NULLS.items():
            counts = [count(rule, where, intervals, phi, seed) for seed in range(arguments.runs)]
            total = sum(counts)
            low = chi2.ppf(0.025, 2 * total) / 2 / exposure if total else 0.0
            high = chi2.ppf(0.975, 2 * total + 2) / 2 / exposure
            rows.append(
                {
                    "rule": rule.name,
                    "null": null,
                    "rate": total / exposure,
                    "low": low,
                    "high": high,
                    "runs": sum(map(bool, counts)),
                }
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"alarms per 10,000 values ({arguments.runs} runs of {LENGTH:,} a null), runs with any")
    for row in rows:
        print(
            f"{row['rule']:<36} {row['null']:<7} {row['rate']:>8.1f} [{row['low']:.1f}, "
            f"{row['high']:.1f}]  {row['runs']}"
        )


if __name__ == "__main__":
    main()
