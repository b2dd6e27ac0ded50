"""Seconds of every experiment: beside the reference, and with the monitor at a budget of 5 %.

``foreshock bench experiments`` trains each setting without observables and, in the same process and
alternately, with `standard` at ``budget=0.05``. Limits: 1.5 times the reference figure of the same
set-up elsewhere for the first (`FIGURES`; where that clock stopped at an event, of our run until
then), 1.08 for the ratio of the two; it returns 1 above one. On a machine that others use, wall
seconds say what the others do, so these are processor seconds of one thread, the least of some
rounds; ``--wall`` takes wall seconds.

``--time`` measures `Experiment.seconds` instead: one full-size trial as a sweep runs it, with the
monitor of its default configuration, each in a process of its own whose start does not count, in
seconds of the reference machine (processor seconds by the pace of `duration.workload`). With
``--small`` one number for each experiment, the mean over its labels.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from foreshock.experiments import NAMES, duration, experiment
from foreshock.experiments.setup import outcome

#: Limits of the ratios.
REFERENCE, WATCHED = 1.5, 1.08


class Figure(NamedTuple):
    """Seconds that a reference took for some settings together.

    Attributes:
        experiment: Name.
        settings: Fields of each.
        seconds: All of them, without the monitor.
        source: What was timed.
        until: Number of the outcome that is the step at which the reference's clock stopped.
    """

    experiment: str
    settings: tuple[dict[str, Any], ...]
    seconds: float
    source: str
    until: str | None = None


def _variants(*names: str, **fields: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"variant": name, **fields} for name in names)


_ARMS = _variants("winning", "reinitialised", "random", "dense")
#: Seconds of one run in the set-ups' reference, one thread; a range by its middle. The character
#: language model, MNIST-1D and what is not listed have none.
FIGURES = (
    Figure("grokking", _variants("grok", task="p59"), 4.0, "4 s"),
    Figure("grokking", _variants("grok", task="p23"), 0.95, "0.9 to 1 s"),
    Figure("random-features", _variants("relu"), 2.7 / 20, "2.7 s for 20 repeats"),
    Figure("edge-of-stability", _variants("edge"), 8.0, "8 s, with 400 measurements of curvature"),
    Figure("catapult", _variants("catapult"), 0.03, "0.03 s"),
    Figure("lottery-ticket", _ARMS, 13.0, "13 s, all arms of a seed"),
    Figure("minima", _variants("grid"), 40.0 / 72, "40 s for 72 settings"),
    Figure("induction", _variants("two_layers"), 24.5, "21-28 s"),
    Figure("addition", _variants("reversed", size="large"), 10.0, "10 s to 98 %", "steps_to_98"),
    Figure("addition", _variants("reversed", size="medium"), 8.0, "8 s to 98 %", "steps_to_98"),
    Figure("addition", _variants("reversed", size="small"), 7.5, "7.5 s to 98 %", "steps_to_98"),
    Figure("addition", _variants("plain", size="large"), 34.0, "34 s to 98 %", "steps_to_98"),
    Figure("superposition", _variants("superposition"), 5.0, "5 s"),
    Figure("double-well", _variants("escape"), 13.0, "13 s, all temperatures"),
)
#: What the reference timed with its measurements, which are the experiment.
MEASURED = ("edge-of-stability",)
#: Settings beside the variants of the default configuration that have seconds of their own.
OTHERS: dict[str, tuple[dict[str, Any], ...]] = {
    "grokking": tuple({"task": "p23", "variant": v} for v in experiment("grokking").variants),
    "addition": tuple(
        {"size": size, "variant": v}
        for size in ("medium", "small")
        for v in experiment("addition").variants
    ),
    "architecture": tuple({"depth": 2, "variant": v} for v in experiment("architecture").variants),
    "edge-of-stability": ({"degree": 3}, {"degree": 5}),
    "widths": tuple(
        {"width": width, "variant": v}
        for width in experiment("widths").grid["width"]
        for v in experiment("widths").variants
    ),
}


def settings(name: str) -> Iterator[dict[str, Any]]:
    """Fields of every setting that is timed."""
    yield from ({"variant": variant} for variant in experiment(name).variants)
    yield from OTHERS.get(name, ())


def labelled(name: str, fields: dict[str, Any]) -> str:
    """Label of a setting at full size."""
    about = experiment(name)
    return about.label(about.configured(**fields))


def seconds(
    about: Any, config: Any, folder: Path, clock: Callable[[], float], **more: Any
) -> tuple[float, dict[str, Any]]:
    """Seconds of one run, and what it came to."""
    start = clock()
    with about.run(config, folder / f"{time.perf_counter_ns()}", **more) as run:
        return clock() - start, outcome(run)


def measure(name: str, fields: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Least seconds of one setting, without and with the monitor, taken in turns."""
    small, clock = arguments.small, time.perf_counter if arguments.wall else time.process_time
    about = experiment(name)
    plain = about.configured(small=small, seed=arguments.seed, **fields)
    watched = None
    if hasattr(plain, "observables") and name not in MEASURED:
        plain = replace(plain, observables="none")
        if hasattr(plain, "budget"):
            watched = replace(plain, observables="standard", every=0, budget=0.05)
    bare, under, numbers = [], [], {}
    rules: dict[str, Any] = {"detectors": ()} if arguments.without_rules else {}
    with tempfile.TemporaryDirectory() as folder:
        # What is imported and made once a process, such as a pre-trained network, is in no round.
        warm = about.configured(seed=arguments.seed, **{**fields, **about.small})
        seconds(about, warm, Path(folder), clock)
        for _ in range(arguments.rounds):
            took, numbers = seconds(about, plain, Path(folder), clock)
            bare.append(took)
            if watched is not None:
                under.append(seconds(about, watched, Path(folder), clock, **rules)[0])
    return {
        "experiment": name,
        "label": labelled(name, fields),
        "seconds": min(bare),
        "watched": min(under) / min(bare) if under else None,
        "outcome": numbers,
        "steps": getattr(plain, "horizon", None) or getattr(plain, "steps", None),
    }


def timed(name: str, fields: dict[str, Any], arguments: argparse.Namespace) -> tuple[float, float]:
    """Processor seconds of one trial with the monitor by default, and the pace at the time."""
    about = experiment(name)
    config = about.configured(small=arguments.small, seed=arguments.seed, **fields)
    with tempfile.TemporaryDirectory() as folder:
        took, _ = seconds(about, config, Path(folder), time.process_time)
    return took, duration.workload(0.5, time.process_time) / duration.REFERENCE_STEP


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """A result from a process of its own, which has imported what this one has and no more."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(function(*arguments)))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        child.join()


def time_all(chosen: list[tuple[str, dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Print the seconds of every label, ready for the experiments' files."""
    found: dict[str, dict[str, float]] = {}
    print(f"{'experiment':<18} {'label':<24} {'processor s':>11} {'pace':>5} {'seconds':>8}")
    for name, fields in chosen:
        label = labelled(name, fields)
        try:
            rounds = [alone(timed, name, fields, arguments) for _ in range(arguments.rounds)]
        except EOFError:  # its traceback is above
            print(f"{name:<18} {label:<24} {'failed':>11}", flush=True)
            continue
        took, pace = min(rounds, key=lambda one: one[0] / one[1])
        found.setdefault(name, {})[label] = took / pace
        print(f"{name:<18} {label:<24} {took:>11.2f} {pace:>5.2f} {took / pace:>8.2f}", flush=True)
    print()
    for name, took_by in found.items():
        # One number for all labels of the small size: they are alike, and the start is most of it.
        told = {"small": fmean(took_by.values())} if arguments.small else took_by
        rounded = {label: float(f"{value:.2g}") for label, value in told.items()}
        print(f"{name}: seconds={json.dumps(rounded)},")


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured beside the figures of the reference."""
    took = {(row["experiment"], row["label"]): row for row in rows}
    found = []
    for name, together, reference, source, until in FIGURES:
        labels = [labelled(name, fields) for fields in together]
        if all((name, label) in took for label in labels):
            ours = sum(spent(took[name, label], until) for label in labels)
            row = {"experiment": name, "labels": labels, "source": source, "reference": reference}
            came = math.isfinite(ours)
            ratio = ours / reference if came else None
            found.append({**row, "seconds": ours if came else None, "ratio": ratio})
    return found


def spent(row: dict[str, Any], until: str | None) -> float:
    """Seconds of a run, or its share until a step of its outcome; infinite if it did not come."""
    if until is None:
        return row["seconds"]
    step = row["outcome"].get(until)
    return math.inf if step is None else row["seconds"] * (step + 1) / row["steps"]


def told(ratio: float | None, limit: float) -> str:
    """A ratio, and whether it is above its limit."""
    return "–" if ratio is None else f"{ratio:.2f}{' !' if ratio > limit else ''}"


def main() -> int:
    """Parse arguments, measure, print; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=None, help="experiments; all if not given")
    parser.add_argument("--variant", default="", help="with commas; all if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="no reference holds for it")
    parser.add_argument("--time", action="store_true", help="measure `Experiment.seconds`")
    parser.add_argument(
        "--without-rules", action="store_true", help="`standard` alone, without own detectors"
    )
    parser.add_argument("--wall", action="store_true", help="wall seconds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [word for word in arguments.variant.split(",") if word]
    chosen = [
        (name, fields)
        for name in arguments.names or NAMES
        for fields in settings(name)
        if not wanted or experiment(name).configured(**fields).variant in wanted
    ]
    if arguments.time:
        time_all(chosen, arguments)
        return 0
    rows = []
    if not arguments.json:
        print(f"{'experiment':<18} {'label':<24} {'seconds':>8} {'standard':>9}")
    for name, fields in chosen:
        row = measure(name, fields, arguments)
        rows.append(row)
        if not arguments.json:
            print(f"{name:<18} {row['label']:<24} {row['seconds']:>8.2f} "
                  f"{told(row['watched'], WATCHED):>9}", flush=True)  # fmt: skip
    beside = [] if arguments.small else judged(rows)
    if arguments.json:
        print(json.dumps({"settings": rows, "reference": beside}, indent=2))
    else:
        for row in beside:
            labels, ours = "+".join(row["labels"]), row["seconds"]
            whether = "did not come" if ours is None else f"{ours:.2f} s"
            print(f"{row['experiment']} {labels}: {whether}, "
                  f"{told(row['ratio'], REFERENCE)} of {row['source']}")  # fmt: skip
        print(f"Limits: {REFERENCE} of the reference, {WATCHED} with the monitor; ! is above.")
    above = any(row["ratio"] is None or row["ratio"] > REFERENCE for row in beside)
    return int(above or any((row["watched"] or 0) > WATCHED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
