"""How long trials will take: seconds on the reference machine, this machine's pace, and packing.

A trial takes the reference seconds of its label, times this machine's pace, and the start of a
process; where trials with the same settings have finished, the median of what they took at the pace
of their time counts as reference. The pace is that of a fixed piece of training on as many
processes as jobs, at the same time, so what jobs take from each other, and others from them, is in
it.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from statistics import median
from typing import Any, NamedTuple

#: Seconds of one step of the workload on the machine whose seconds `Experiment.seconds` are.
REFERENCE_STEP = 1.7e-3
#: Seconds of the workload, each process.
WORKLOAD = 1.0
#: Without a reference: at most 3 s by the law of `Experiment.small`, and most are far below.
SMALL_SECONDS = 1.0


class Pace(NamedTuple):
    """What this machine does at the moment, with all jobs at work.

    Attributes:
        factor: Seconds here for one second of the reference.
        startup: Seconds from asking for a process to its first step.
    """

    factor: float
    startup: float


class Seconds(NamedTuple):
    """Expected seconds of a trial, and what they rest on.

    Attributes:
        value: Wall seconds of its process.
        timed: Whether somebody timed these settings; a guess otherwise.
    """

    value: float
    timed: bool


def expected(
    experiment: Any, config: Any, pace: Pace, finished: Sequence[float] = (), *, small: bool = False
) -> Seconds:
    """Expected wall seconds of one trial.

    Args:
        experiment: With ``seconds``, ``label`` and ``config``; its seconds may name a label
            ``small``.
        config: Of the trial.
        pace: Of this machine.
        finished: Reference seconds (wall seconds by the pace of their time) of finished trials that
            differ in their seed alone.
        small: Whether the trial has the small size.

    Returns:
        The seconds.

    Examples:
        >>> from dataclasses import dataclass
        >>> from types import SimpleNamespace
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     steps: int = 10
        >>> toy = SimpleNamespace(config=Config, label=lambda config: "a", seconds={"a": 4.0})
        >>> expected(toy, Config(), Pace(factor=2.0, startup=1.0))
        Seconds(value=9.0, timed=True)
        >>> expected(toy, Config(steps=20), Pace(2.0, 1.0), finished=[7.0, 8.0, 40.0])
        Seconds(value=17.0, timed=True)
    """
    label = experiment.label(config)
    told = experiment.seconds.get("small" if small else label)
    timed = told is not None and (small or not _untold(experiment, config, label))
    if told is None and not small:
        told = experiment.seconds.get("")
        timed = told is not None and config == replace(experiment.config(), seed=config.seed)
    base = median(finished) if finished else SMALL_SECONDS if told is None else told
    return Seconds(base * pace.factor + pace.startup, timed or bool(finished))


def _untold(experiment: Any, config: Any, label: str) -> bool:
    """Whether a field is not as in the reference although its label does not tell."""
    plain = experiment.config()
    for name in (f.name for f in fields(plain) if f.name != "seed"):
        if getattr(config, name) == getattr(plain, name):
            continue
        with contextlib.suppress(ValueError):  # no such configuration, so none of this label
            if experiment.label(replace(config, **{name: getattr(plain, name)})) == label:
                return True
    return False


def makespan(seconds: Iterable[float], jobs: int, busy: Sequence[float] = ()) -> float:
    """Seconds until all is done, when whoever is free takes the next.

    Args:
        seconds: Of the trials that wait, in the order in which they will be started.
        jobs: How many run at a time.
        busy: What the trials in work still need.

    Returns:
        The end of the last one.

    Examples:
        >>> makespan([3, 2, 2, 1], jobs=2), makespan([1, 2, 2, 3], jobs=2), makespan([1], 2, [5])
        (4.0, 5.0, 5.0)
    """
    free = sorted([*busy, *[0.0] * max(jobs - len(busy), 0)])
    heapq.heapify(free)
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return float(max(free, default=0.0))


def refined(
    before: Mapping[str, float], kinds: Mapping[str, str], took: Mapping[str, float]
) -> dict[str, float]:
    """Expected seconds after some trials have finished.

    Args:
        before: Expected seconds by trial, before the sweep.
        kinds: What trials have in common that differ in their seed alone, by trial.
        took: Seconds of those that have finished in this sweep.

    Returns:
        By trial: the median of its kind where one has finished, else what was expected times the
        median of took/expected over the kinds that have.

    Examples:
        >>> before = {"a0": 10.0, "a1": 10.0, "b0": 4.0}
        >>> refined(before, {"a0": "a", "a1": "a", "b0": "b"}, {"a0": 20.0})
        {'a0': 20.0, 'a1': 20.0, 'b0': 8.0}
    """
    seen: dict[str, list[float]] = {}
    for name, seconds in took.items():
        seen.setdefault(kinds[name], []).append(seconds)
    medians = {kind: median(values) for kind, values in seen.items()}
    ratios: dict[str, float] = {
        kinds[name]: medians[kinds[name]] / max(before[name], 1e-9) for name in took
    }
    ratio = median(ratios.values()) if ratios else 1.0
    return {name: medians.get(kinds[name], value * ratio) for name, value in before.items()}


def human(seconds: float) -> str:
    """A duration for a person.

    Args:
        seconds: How long.

    Returns:
        Seconds, minutes or hours.

    Examples:
        >>> human(42.3), human(684), human(9000), human(0.4)
        ('42 s', '11.4 min', '2.5 h', '0.4 s')
    """
    size, unit = unit_of(seconds)
    return f"{_digits(seconds / size, unit)} {unit}"


def took(seconds: float, forecast: float) -> str:
    """What a sweep says at its end.

    Args:
        seconds: How long it took.
        forecast: How long it should have taken.

    Returns:
        Both in one unit.

    Examples:
        >>> took(684, 720)
        'took 11.4 min (forecast 12.0)'
    """
    size, unit = unit_of(seconds)
    return f"took {human(seconds)} (forecast {_digits(forecast / size, unit)})"


def unit_of(seconds: float) -> tuple[float, str]:
    """The unit a duration is said in, and its seconds."""
    return (1.0, "s") if seconds < 90 else (60.0, "min") if seconds < 5400 else (3600.0, "h")


def _digits(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit == "s" and value >= 10 else f"{value:.1f}"


# ------------------------------------------------------------------ the pace of this machine


def measure_pace(jobs: int, modules: Sequence[str], environment: Mapping[str, str]) -> Pace:
    """Train a fixed small network for a second in as many processes as jobs, all at once.

    An ``OSError`` says that a process died instead.

    Args:
        jobs: How many.
        modules: What trials import, one a process, for the time that a start takes.
        environment: Of the processes, as trials get it.

    Returns:
        The means over the processes.
    """

    def line(child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        if not (said := child.stdout.readline()):
            raise OSError("A process that measures this machine's pace died; its error is above.")
        return said

    command = [sys.executable, "-P", "-m", __name__]
    pipe, start = subprocess.PIPE, time.perf_counter()
    children = [
        subprocess.Popen(
            [*command, modules[index % len(modules)]],
            stdin=pipe,
            stdout=pipe,
            env=dict(environment),
            text=True,
            start_new_session=True,  # Ctrl-C is for the sweep, which ends them
        )
        for index in range(jobs)
    ]
    try:
        startups = []
        for child in children:
            line(child)  # it has imported what a trial imports
            startups.append(time.perf_counter() - start)
        for child in children:
            line(child)  # warm, so that all of them work at the same time
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        steps = [json.loads(line(child)) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return Pace(sum(steps) / len(steps) / REFERENCE_STEP, sum(startups) / len(startups))


def workload(seconds: float = WORKLOAD, clock: Callable[[], float] = time.perf_counter) -> float:
    """Train a small network for so long.

    Args:
        seconds: How long, at least.
        clock: What tells seconds; by default of the wall.

    Returns:
        Mean seconds a step.

    Examples:
        >>> 0 < workload(0.01) < 1
        True
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no other device's
        layers = torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 59)
        model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(512, 128, generator=generator)
    y = torch.randint(59, (512,), generator=generator)
    start, steps = 0.0, -3
    while steps < 1 or clock() - start < seconds:
        if steps == 0:
            start = clock()  # the first steps allocate
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return (clock() - start) / steps


if __name__ == "__main__":
    import importlib

    importlib.import_module(sys.argv[1])  # with torch or without, as a trial
    print("ready", flush=True)
    workload(0.0)
    print("warm", flush=True)
    if sys.stdin.readline():
        print(json.dumps(workload()), flush=True)
