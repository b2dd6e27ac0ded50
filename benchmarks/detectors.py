"""Hits, delays and false alarms of the detectors, per 10,000 steps, with the field's rules beside.

Five tables. *Healthy*: synthetic losses in which nothing goes wrong (two families took no part in
tuning). *Events*: spikes, divergences early and late, losses that end as no number, and sudden
improvements, which nobody should call a spike. *Real*: training losses of real runs, as they are
and with something planted (one task unseen). *Limits*: where the promise does not hold, and losses
that are logged every k steps. *Signals*: the rules that read observables, where nothing happens.

`detectors_parts/frozen.json` holds the parameters and a hash of the code of every rule as they were
before the seeds of this benchmark, `FIRST` and up, were drawn for the first time: it refuses to
run with others. Rules were developed on seeds 0 to 99 (``--development``). "height 0" is a control:
the rule without its noise scale, a fixed threshold. Steps at which a rule cannot alarm yet do not
count.
Alarms cluster within runs, so a rate comes with the wider of two 95 % intervals, exact Poisson and
bootstrap over runs. ``foreshock bench detectors``; about six minutes on one core, ``--quick`` a
half.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

from benchmarks.detectors_parts import freeze, streams
from benchmarks.detectors_parts.peers import PEERS
from foreshock.detectors import (
    CUSUM,
    EWMA,
    ChangePoint,
    CriticalSlowing,
    Divergence,
    HeldoutSignalRule,
    Judge,
    LossSpike,
    PageHinkley,
    PCrossesHalf,
    PhaseTransition,
    Turnover,
)
from foreshock.types import Detector, Estimate

Array = NDArray[np.float64]
Rule = Callable[[Array], list[int]]

#: Smallest seed; 10,000 and up belonged to the rules before these.
FIRST = 30_000

#: Rules on one loss: those that promise something; others, for which, as for the field's, a quarter
#: of the runs is enough; and costly ones: a tenth of the healthy runs, a twentieth of the events.
FAST: dict[str, Detector] = {
    "LossSpike": LossSpike(),
    "Divergence": Divergence(),
}
OTHERS: dict[str, Detector] = {
    "LossSpike, height 0": LossSpike(height=1e-9),
    "Divergence, height 0": Divergence(height=1e-9),
    "CUSUM": CUSUM(),
    "EWMA": EWMA(),
    "PageHinkley": PageHinkley(),
}
SLOW: dict[str, Detector] = {
    "ChangePoint": ChangePoint(),
    "CriticalSlowing variance": CriticalSlowing(),
    "CriticalSlowing memory": CriticalSlowing(indicator="memory"),
}

#: Values after which a rule can alarm for the first time, and again after an alarm.
BLIND = {
    "LossSpike": (42, 119),
    "LossSpike, height 0": (42, 119),
    "Divergence": (169, 169),
    "Divergence, height 0": (169, 169),
    "CUSUM": (50, 50),
    "EWMA": (50, 50),
    "PageHinkley": (50, 50),
    "ChangePoint": (50, 0),
    "CriticalSlowing variance": (200, 0),
    "CriticalSlowing memory": (200, 0),
    "two-sided CUSUM": (30, 0),
    "z-score 3.5": (30, 0),
    "3 x running mean": (1, 0),
    "2 x window mean": (100, 0),
}

TABLES = ("healthy", "events", "real", "limits", "signals")

#: Rules that read observables: x, y and z are independent draws of the same null, and -x is the
#: worst partner that a drop of x can have.
SIGNALS: dict[str, Detector] = {
    "cusum up": CUSUM("x", "up"),
    "cusum down": CUSUM("x", "down"),
    "heldout_signal": HeldoutSignalRule("x", after=""),
    "turnover": Turnover("x", after=""),
    "p_crosses_half": PCrossesHalf("x"),
    "phase_transition": PhaseTransition("x", "y", "z"),
    "phase_transition, y = -x": PhaseTransition("x", "-x", "z"),
}
SIGNAL_NULLS: dict[str, Callable[[np.random.Generator], Array]] = {
    "white noise": lambda rng: streams.ar1(rng, 0.0),
    "AR(1) .5": lambda rng: streams.ar1(rng, 0.5),
    "AR(1) .9": lambda rng: streams.ar1(rng, 0.9),
    "decay + white": lambda rng: np.exp(-streams.TIME / 1000) * (1 + 0.05 * streams.ar1(rng, 0.0)),
    "decay + AR(1) .9": lambda rng: (
        np.exp(-streams.TIME / 1000) * (1 + 0.05 * streams.ar1(rng, 0.9))
    ),
}


class Number(NamedTuple):
    """All that a rule reads of an estimate; an `Estimate` takes longer to make than to judge."""

    value: float
    resolved: bool


def fed(detector: Detector) -> Rule:
    """The rule as a function of a whole loss."""

    def alarms(x: Array) -> list[int]:
        (name,) = detector.reads
        update, state, found = detector.update, detector.init(), []
        for t, one in enumerate(x.tolist()):
            state, alarm = update(state, t, {name: Number(one, math.isfinite(one))})  # type: ignore[dict-item]
            if alarm is not None:
                found.append(t)
        return found

    return alarms


def rules(slow: bool, others: bool = True) -> dict[str, Rule]:
    """Our rules and the field's."""
    chosen = {**FAST, **(OTHERS if others else {}), **(SLOW if slow else {})}
    return {**{name: fed(d) for name, d in chosen.items()}, **(PEERS if others else {})}


def interval(counts: Sequence[int], exposures: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a rate: the wider of exact Poisson and bootstrap over runs."""
    from scipy.stats import chi2

    count, exposure = sum(counts), sum(exposures)
    low = chi2.ppf(0.025, 2 * count) / 2 / exposure if count else 0.0
    high = chi2.ppf(0.975, 2 * count + 2) / 2 / exposure
    if not count:
        return 0.0, float(high)
    chosen = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
    rates = np.asarray(counts)[chosen].sum(1) / np.asarray(exposures)[chosen].sum(1)
    ends = np.quantile(rates, [0.025, 0.975])
    return float(min(low, ends[0])), float(max(high, ends[1]))


class Count:
    """Alarms of a rule over many series, and the steps at which it could have alarmed."""

    def __init__(self, rule: str) -> None:
        self.blind = BLIND.get(rule, (0, 0))
        self.alarms: list[int] = []
        self.steps: list[int] = []

    def add(self, alarms: int, steps: int) -> None:
        self.alarms.append(alarms)
        self.steps.append(max(steps - self.blind[0] - alarms * self.blind[1], 1))

    def row(self, **more: str) -> dict[str, Any]:
        exposures = [steps / 10_000 for steps in self.steps]
        low, high = interval(self.alarms, exposures)
        alarms = sum(self.alarms)
        counted = {"alarms": alarms, "steps": sum(self.steps), "runs": sum(map(bool, self.alarms))}
        return {**more, **counted, "rate": alarms / sum(exposures), "low": low, "high": high}


def healthy_rows(
    count: int, first: int, families: Iterable[str], table: str = "healthy"
) -> list[dict[str, Any]]:
    """Alarms where nothing goes wrong: each family, and all of them."""
    rows, every = [], {name: Count(name) for name in rules(slow=True)}
    for family in families:
        found = {name: Count(name) for name in every}
        for place in range(count):
            x = streams.healthy(family, first + place)
            for name, rule in rules(place < math.ceil(count / 10), place % 4 == 0).items():
                alarms = len(rule(x))
                found[name].add(alarms, len(x))
                every[name].add(alarms, len(x))
        unseen = " (unseen)" if family in streams.UNSEEN else ""
        rows += [c.row(table=table, family=family + unseen, rule=n) for n, c in found.items()]
    return rows + [c.row(table=table, family="all", rule=n) for n, c in every.items()]


def hit_row(alarms: Iterable[tuple[list[int], int]], within: int, **more: str) -> dict[str, Any]:
    """Runs with an alarm in time, its delay, and runs with one in as long a time before."""
    pairs = list(alarms)
    first = [next((a - at for a in found if at <= a < at + within), None) for found, at in pairs]
    delays = [delay for delay in first if delay is not None]
    chance = sum(any(at - within <= a < at for a in found) for found, at in pairs)
    return {
        **more,
        "hits": len(delays),
        "runs": len(pairs),
        "median": statistics.median(delays) if delays else None,
        "late": float(np.quantile(delays, 0.9)) if delays else None,
        "before": chance,
    }


def event_rows(event: str, count: int, first: int) -> list[dict[str, Any]]:
    """Alarms after something was planted at a known step."""
    within = streams.EVENTS[event][1]
    found: dict[str, list[tuple[list[int], int]]] = {name: [] for name in rules(slow=True)}
    for place in range(count):
        x, at = streams.planted(event, first + place)
        for name, rule in rules(place < math.ceil(count / 20), place % 4 == 0).items():
            found[name].append((rule(x), at))
    return [
        hit_row(alarms, within, table="events", family=event, rule=name)
        for name, alarms in found.items()
    ]


def thinned_rows(count: int, first: int) -> list[dict[str, Any]]:
    """What becomes of events when a loss is logged every k steps."""
    rows = []
    for event in ("spike", "divergence"):
        for every in (1, 5, 10, 20):
            found: dict[str, list[tuple[list[int], int]]] = {}
            asked = {
                name: fed(rule)
                for name, rule in {
                    **FAST,
                    "CUSUM": CUSUM(),
                    "LossSpike, confirm 1": replace(LossSpike(), confirm=1),
                }.items()
            }
            for place in range(count):
                x, at = streams.thinned(event, every, first + place)
                for name, rule in asked.items():
                    found.setdefault(name, []).append((rule(x), at))
            what = "spike x3 of 30 steps" if event == "spike" else "divergence, e-fold 1,000"
            rows += [
                hit_row(
                    alarms,
                    30 if event == "spike" else 1500,
                    table="limits",
                    family=f"{what}, logged every {every}",
                    rule=name,
                )
                for name, alarms in found.items()
            ]
    return rows


def real_rows(most: int, first: int) -> list[dict[str, Any]]:
    """Alarms on real losses, as they are and with something planted."""
    from benchmarks.detectors_parts import real

    asked = rules(slow=True)
    counts: dict[tuple[str, str], Count] = {}
    planted: dict[tuple[str, str], list[tuple[list[int], int]]] = {}
    for family, x in real.real_runs(most, first):
        for name, rule in asked.items():
            alarms = len(rule(x))
            for group in (family, "all"):
                counts.setdefault((group, name), Count(name)).add(alarms, len(x))
        for event, (changed, at) in real.planted_in(x).items():
            for name, rule in rules(slow=False).items():
                planted.setdefault((f"{family}: {event}", name), []).append((rule(changed), at))
    rows = [c.row(table="real", family=f, rule=n) for (f, n), c in counts.items()]
    return rows + [
        hit_row(alarms, 30 if "spike" in family else 400, table="real", family=family, rule=name)
        for (family, name), alarms in planted.items()
    ]


def signal_rows(count: int, first: int) -> list[dict[str, Any]]:
    """Alarms of the rules that read observables."""
    rows = []
    for null, draw in SIGNAL_NULLS.items():
        counts = {name: Count("") for name in SIGNALS}
        for seed in range(first, first + count):
            x, y, z = (draw(np.random.default_rng(k)) for k in ([seed], [seed, 1], [seed, 2]))
            columns = {"x": x, "-x": -x, "y": y, "z": z}
            for name, rule in SIGNALS.items():
                judge = Judge([rule])
                alarms = sum(
                    len(judge.feed(t, {k: Estimate(float(columns[k][t])) for k in rule.reads}))
                    for t in range(len(x))
                )
                counts[name].add(alarms, len(x))
        rows += [c.row(table="signals", family=null, rule=n) for n, c in counts.items()]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The tables, a block a family."""
    last = None
    for row in rows:
        if (row["table"], row["family"]) != last:
            last = (row["table"], row["family"])
            print(f"\n[{row['table']}] {row['family']}")
        if "rate" in row:
            text = f"{row['rate']:8.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            found = f"{row['alarms']:>6} in {row['steps']:,}, in {row['runs']} runs"
            print(f"  {row['rule']:<26}{text:<28}{found}")
        else:
            delay = (
                "" if row["median"] is None else f"delay {row['median']:g}, 90 % {row['late']:.0f}"
            )
            hits = f"{row['hits']}/{row['runs']}"
            print(f"  {row['rule']:<26}{hits:<10}{delay:<26}before: {row['before']}")


def main() -> None:
    """Parse arguments, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="healthy runs of 5,000 a family")
    parser.add_argument("--events", type=int, default=200, help="runs an event")
    parser.add_argument("--real", type=int, default=10, help="most real runs a family")
    parser.add_argument("--signals", type=int, default=2, help="runs a null of the last table")
    parser.add_argument("--quick", action="store_true", help="2 runs, 20 events, no real ones")
    parser.add_argument("--development", action="store_true", help="seeds 0 and up, any rules")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.events, arguments.real, arguments.signals = 2, 20, 0, 1
    first = 0 if arguments.development else FIRST
    if not arguments.development:
        freeze.check("losses", {**FAST, **OTHERS, **SLOW, **SIGNALS}, FIRST)
    rows: list[dict[str, Any]] = []
    if "healthy" in arguments.tables:
        rows += healthy_rows(arguments.runs, first, (*streams.HEALTHY, *streams.UNSEEN))
    if "events" in arguments.tables:
        for event in streams.EVENTS:
            rows += event_rows(event, arguments.events, first)
    if "real" in arguments.tables and arguments.real:
        rows += real_rows(arguments.real, first)
    if "limits" in arguments.tables:
        rows += healthy_rows(arguments.runs, first, streams.LIMITS, "limits")
        rows += thinned_rows(arguments.events // 5, first)
    if "signals" in arguments.tables:
        rows += signal_rows(arguments.signals, first)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("False alarms per 10,000 steps [95 % interval]; hits of runs, with delays.")
    print("`before`: runs that alarm in as long a time before the event.")
    show(rows)


if __name__ == "__main__":
    main()
