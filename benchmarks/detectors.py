"""Hits, delays and false alarms of the detectors, per 10,000 steps, with the field's rules beside.

Four tables. *Healthy*: synthetic losses in which nothing goes wrong (two families took no part in
tuning). *Events*: spikes, divergences, and sudden improvements, which nobody should call a spike.
*Real*: training losses of real runs, as they are and with something planted (one task unseen).
*Signals*: the rules that read observables, on series where nothing happens.

All parameters are the defaults, and `detectors_parts/frozen.json` holds them as they were before
the seeds of this benchmark, 10,000 and up, were drawn for the first time: the benchmark refuses to
run with others. Rates come with exact 95 % Poisson intervals, shares of runs with exact binomial
ones. ``foreshock bench detectors``; about four minutes on one core, ``--quick`` half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

from benchmarks.detectors_parts import streams
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

FIRST = 10_000
FROZEN = Path(__file__).parent / "detectors_parts" / "frozen.json"

#: Rules on one loss, cheap and costly: a tenth of the healthy runs and a twentieth of the events
#: are enough for the latter.
FAST = (LossSpike(), Divergence(), CUSUM(), EWMA(), PageHinkley())
SLOW = (ChangePoint(), CriticalSlowing(), CriticalSlowing(indicator="memory"))

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


def check_frozen() -> None:
    """Refuse to measure parameters that were chosen after the seeds were seen."""
    frozen = json.loads(FROZEN.read_text())["parameters"]
    for rule in (*FAST, *SLOW[:2]):
        here = {k: v for k, v in asdict(rule).items() if k not in ("name", "series")}  # type: ignore[call-overload]
        if here != frozen[type(rule).__name__]:
            raise SystemExit(
                f"The defaults of {type(rule).__name__} are {here}, frozen.json holds "
                f"{frozen[type(rule).__name__]}. New defaults need new seeds: set FIRST beyond all "
                "that were used, and freeze them again."
            )


def fed(detector: Detector) -> Rule:
    """The rule as a function of a whole loss."""

    def alarms(x: Array) -> list[int]:
        (name,) = detector.reads
        update, state, found = detector.update, detector.init(), []
        for t, one in enumerate(x.tolist()):
            state, alarm = update(state, t, {name: Number(one)})  # type: ignore[dict-item]
            if alarm is not None:
                found.append(t)
        return found

    return alarms


def label(detector: Detector) -> str:
    """Class and what tells two of a class apart."""
    return type(detector).__name__ + (
        f" {detector.indicator}" if isinstance(detector, CriticalSlowing) else ""
    )


def rules(slow: bool) -> dict[str, Rule]:
    """Our rules and the field's."""
    ours = {label(d): fed(d) for d in (*FAST, *(SLOW if slow else ()))}
    return {**ours, **PEERS}


def poisson(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of a Poisson rate."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low / exposure), float(chi2.ppf(0.975, 2 * count + 2) / 2 / exposure)


class Count:
    """Alarms of a rule over many series."""

    def __init__(self) -> None:
        self.alarms, self.steps = 0, 0

    def add(self, alarms: int, steps: int) -> None:
        self.alarms, self.steps = self.alarms + alarms, self.steps + steps

    def row(self, **more: str) -> dict[str, Any]:
        exposure = self.steps / 10_000
        low, high = poisson(self.alarms, exposure)
        counted = {"alarms": self.alarms, "steps": self.steps}
        return {**more, **counted, "rate": self.alarms / exposure, "low": low, "high": high}


def healthy_rows(count: int) -> list[dict[str, Any]]:
    """Alarms where nothing goes wrong: each family, and all of them."""
    rows, every = [], {name: Count() for name in rules(slow=True)}
    for family in (*streams.HEALTHY, *streams.UNSEEN):
        found = {name: Count() for name in every}
        for place in range(count):
            x = streams.healthy(family, FIRST + place)
            for name, rule in rules(slow=place < math.ceil(count / 10)).items():
                alarms = len(rule(x))
                found[name].add(alarms, len(x))
                every[name].add(alarms, len(x))
        unseen = " (unseen)" if family in streams.UNSEEN else ""
        rows += [c.row(table="healthy", family=family + unseen, rule=n) for n, c in found.items()]
    return rows + [c.row(table="healthy", family="all", rule=n) for n, c in every.items()]


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


def event_rows(event: str, count: int) -> list[dict[str, Any]]:
    """Alarms after something was planted at a known step."""
    within = streams.EVENTS[event][1]
    found: dict[str, list[tuple[list[int], int]]] = {name: [] for name in rules(slow=True)}
    for place in range(count):
        x = streams.planted(event, FIRST + place)
        for name, rule in rules(slow=place < math.ceil(count / 20)).items():
            found[name].append((rule(x), streams.ONSET))
    return [
        hit_row(alarms, within, table="events", family=event, rule=name)
        for name, alarms in found.items()
    ]


def real_rows(most: int) -> list[dict[str, Any]]:
    """Alarms on real losses, as they are and with something planted."""
    from benchmarks.detectors_parts import real

    asked = rules(slow=True)
    counts: dict[tuple[str, str], Count] = {}
    planted: dict[tuple[str, str], list[tuple[list[int], int]]] = {}
    for family, x in real.real_runs(most, FIRST):
        for name, rule in asked.items():
            alarms = len(rule(x))
            for group in (family, "all"):
                counts.setdefault((group, name), Count()).add(alarms, len(x))
        for event, (changed, at) in real.planted_in(x).items():
            for name, rule in rules(slow=False).items():
                planted.setdefault((f"{family}: {event}", name), []).append((rule(changed), at))
    rows = [c.row(table="real", family=f, rule=n) for (f, n), c in counts.items()]
    return rows + [
        hit_row(alarms, 30 if "spike" in family else 400, table="real", family=family, rule=name)
        for (family, name), alarms in planted.items()
    ]


def signal_rows(count: int) -> list[dict[str, Any]]:
    """Alarms of the rules that read observables."""
    rows = []
    for null, draw in SIGNAL_NULLS.items():
        counts = {name: Count() for name in SIGNALS}
        for seed in range(count):
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
            print(f"  {row['rule']:<26}{text:<28}{row['alarms']:>6} in {row['steps']:,}")
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
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.events, arguments.real, arguments.signals = 2, 20, 0, 1
    check_frozen()
    rows = healthy_rows(arguments.runs)
    for event in streams.EVENTS:
        rows += event_rows(event, arguments.events)
    if arguments.real:
        rows += real_rows(arguments.real)
    rows += signal_rows(arguments.signals)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("False alarms per 10,000 steps [exact 95 % Poisson interval]; hits of runs, with delays.")
    print("`before`: runs that alarm in as long a time before the event.")
    show(rows)


if __name__ == "__main__":
    main()
