"""Alarms of the published rules and their causal forms on series where nothing happens.

Per 10,000 values, with the wider of two 95 % intervals, exact Poisson and bootstrap over runs.
Every series lies where its rule looks: C about 1 with a standard deviation of .2 (the edge .5 for
the resets), S and p about their edges with .1, the rate of the log-determinant about 0 with .5, the
gap about 1 with .2; and a decay that crosses the band, top exp(-t/1000) with 5 % of white noise.
Rules that use intervals are given them, of the true width. The last rows plant an alignment of 20
records into series that are far from it, and count the runs in which it is found: a rule that never
alarms on nulls may never alarm at all.

The rules are frozen like those of ``foreshock bench detectors`` before the seeds, `FIRST` and up,
were drawn; the constants of `CFalling` were chosen on seeds 0 to 9. ``foreshock bench
published_detectors``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

from benchmarks.detectors import interval
from benchmarks.detectors_parts import freeze
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

LENGTH, FIRST = 5_000, 20_000
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


def aligned(rule: Detector, phi: float, seed: int) -> tuple[bool, int]:
    """Whether a planted alignment is found, and how many alarms come elsewhere.

    C, S and the rate are 2, .5 and 0 but for 20 records in the middle, where they are 1, 1 and 5.
    """
    far, near = (2.0, 0.5, 0.0), (1.0, 1.0, 5.0)
    scales, at = (0.05, 0.025, 0.5), LENGTH // 2
    judge, inside, outside = Judge([rule]), 0, 0
    noise = [drawn((0.0, scale, 0.0), phi, [seed, k]) for k, scale in enumerate(scales)]
    for t in range(LENGTH):
        here = near if at <= t < at + 20 else far
        found = {}
        for k, name in enumerate(rule.reads):
            x, half = here[k] + float(noise[k][t]), 1.96 * scales[k]
            found[name] = Estimate(x, x - half, x + half)
        alarms = len(judge.feed(t, found))
        inside, outside = (inside + alarms, outside) if here is near else (inside, outside + alarms)
    return inside > 0, outside


def main() -> None:
    """Parse arguments, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--development", action="store_true", help="seeds 0 and up, any rules")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    first = 0 if arguments.development else FIRST
    if not arguments.development:
        freeze.check("published", {rule.name: rule for rule, _, _ in RULES}, FIRST)
    seeds = range(first, first + arguments.runs)
    rows = []
    for rule, where, intervals in RULES:
        for null, phi in NULLS.items():
            counts = [count(rule, where, intervals, phi, seed) for seed in seeds]
            exposures = [LENGTH / 10_000] * len(counts)
            low, high = interval(counts, exposures)
            rows.append(
                {
                    "rule": rule.name,
                    "null": null,
                    "rate": sum(counts) / sum(exposures),
                    "low": low,
                    "high": high,
                    "runs": sum(map(bool, counts)),
                }
            )
    planted = []
    for rule in (TripleAlignment(), PublishedTripleAlignment()):
        for null in ("white", "AR .5", "AR .9"):
            found = [aligned(rule, NULLS[null] or 0.0, seed) for seed in seeds]
            planted.append(
                {
                    "rule": rule.name,
                    "null": null,
                    "found": sum(hit for hit, _ in found),
                    "elsewhere": sum(other for _, other in found),
                }
            )
    if arguments.json:
        print(json.dumps([*rows, *planted], indent=2))
        return
    print(f"alarms per 10,000 values ({arguments.runs} runs of {LENGTH:,} a null), runs with any")
    for row in rows:
        print(
            f"{row['rule']:<36} {row['null']:<7} {row['rate']:>8.1f} [{row['low']:.1f}, "
            f"{row['high']:.1f}]  {row['runs']}"
        )
    print("planted alignments: runs in which one is found, alarms elsewhere")
    for row in planted:
        print(f"{row['rule']:<36} {row['null']:<7} {row['found']:>8}  {row['elsewhere']}")


if __name__ == "__main__":
    main()
