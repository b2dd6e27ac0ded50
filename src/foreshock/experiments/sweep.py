"""Sweeps: the same experiments over variants, seeds and settings, one process a trial.

`foreshock.experiments.planning` lists the trials, `foresee` says how long they will take,
`carry_out` runs what is not finished. Nothing is remembered outside of the run folders, so a sweep
that was killed is continued by starting it again: `foreshock.experiments.trial` says why that loses
and repeats nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from foreshock.experiments import duration, kept, trial
from foreshock.experiments.planning import Trial

_TICK = 0.05


class Forecast(NamedTuple):
    """How long a sweep will take.

    Attributes:
        seconds: From its start to its end.
        each: Expected seconds of the trials to be run, by name.
        timed: Whether somebody timed all their settings; a guess otherwise.
        kept: Names of the trials that are finished and not to be run again.
        older: Names of the trials that other code than this has finished.
        jobs: How many will run at a time.
        pace: Seconds here for one of the reference.
    """

    seconds: float
    each: dict[str, float]
    timed: bool
    kept: tuple[str, ...]
    older: tuple[str, ...] = ()
    jobs: int = 1
    pace: float = 1.0


def foresee(
    trials: Sequence[Trial],
    out: Path,
    *,
    jobs: int,
    pace: Callable[[Sequence[Trial], int], duration.Pace],
    again: bool = False,
) -> Forecast:
    """Say how long a sweep will take, from reference seconds, this machine, and finished trials.

    Args:
        trials: The trials.
        out: Folder of the sweep.
        jobs: How many may run at a time.
        pace: From the trials to be run, and how many at a time, to the pace of this machine; called
            if there is one.
        again: Whether to repeat what other code than this has finished.

    Returns:
        The forecast.

    Raises:
        ValueError: If the folder of a trial holds something else.
    """
    found = kept.finished(out)
    codes: dict[str, dict[str, str]] = {}
    older = []
    for one in trials:
        if one.name not in found:
            continue
        there = found[one.name]
        if isinstance(there, str) or there.fields != one.fields:
            why = there if isinstance(there, str) else "its configuration is another"
            raise ValueError(
                f"{out / one.name} holds something else than this trial ({why.rstrip('.')}). Move "
                "it away, or choose another folder."
            )
        module = one.about.run.__module__
        if module not in codes:
            codes[module] = trial.code_of(module)
        if there.code != codes[module]:
            older.append(one.name)
    repeated = set(older) if again else set[str]()
    names = [one.name for one in trials if one.name in found and one.name not in repeated]
    waiting = [one for one in trials if one.name not in found or one.name in repeated]
    if not waiting:
        return Forecast(0.0, {}, True, tuple(names), tuple(older))
    seconds: dict[str, list[float]] = {}
    for there in found.values():
        if isinstance(there, kept.Kept):
            seconds.setdefault(there.settings, []).append(there.seconds)
    jobs = min(jobs, len(waiting))
    now = pace(waiting, jobs)
    told = {
        one.name: duration.expected(
            one.about, one.config, now, seconds.get(one.settings, ()), small=one.small
        )
        for one in waiting
    }
    each = {name: expected.value for name, expected in told.items()}
    total = duration.makespan(sorted(each.values(), reverse=True), jobs)
    timed = all(expected.timed for expected in told.values())
    return Forecast(total, each, timed, tuple(names), tuple(older), jobs, now.factor)


class Crash(NamedTuple):
    """A trial that ended without a run.

    Attributes:
        name: Of the trial.
        code: Exit code of its process, negative for a signal.
        log: File with what it printed.
        lines: The last of that.
        run: What it recorded, if it did.
    """

    name: str
    code: int
    log: Path
    lines: tuple[str, ...]
    run: Path | None = None


class Status(NamedTuple):
    """Where a sweep stands.

    Attributes:
        done: Trials that have ended, those that were finished before and crashes included.
        total: All trials.
        running: Names of those in work, each with the share of its steps.
        left: Expected seconds to the end.
        crashed: What has crashed so far.
    """

    done: int
    total: int
    running: dict[str, float]
    left: float
    crashed: tuple[Crash, ...]


class Outcome(NamedTuple):
    """How a sweep ended.

    Attributes:
        took: Wall seconds of the trials of this sweep, by name.
        seconds: From its start to its end.
        crashed: Trials without a run.
    """

    took: dict[str, float]
    seconds: float
    crashed: tuple[Crash, ...]


def start_process(one: Trial, out: Path, threads: int, pace: float) -> trial.Child:
    """Start the process of a trial, which ends when this process does.

    Args:
        one: The trial.
        out: Folder of the sweep.
        threads: How many threads its numerical libraries may use.
        pace: Seconds here for one of the reference.

    Returns:
        The process.

    Raises:
        ValueError: If its process could not import the experiment.
    """
    module = one.about.run.__module__
    if module == "__main__":
        raise ValueError(
            f"The `run` of {one.experiment} is defined in the script that is run. A trial is a "
            "process of its own and imports it: put the experiment into a module beside the script."
        )
    if getattr(sys.modules[module], "EXPERIMENT", None) is not one.about:
        raise ValueError(
            f"{module} defines `run` and so must define the `EXPERIMENT` of {one.name}."
        )
    return trial.start(
        {
            "module": module,
            "experiment": one.experiment,
            "config": one.fields,
            "small": one.small,
            "out": str(out.resolve()),
            "name": one.name,
            "threads": threads,
            "pace": pace,
        }
    )


def carry_out(
    trials: Iterable[Trial],
    out: Path,
    forecast: Forecast,
    *,
    jobs: int,
    threads: int = 1,
    watch: Callable[[Status], object] = lambda status: None,
    start: Callable[[Trial, Path, int, float], trial.Child] = start_process,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Outcome:
    """Run all trials that are not finished, the longest first, so many at a time.

    A trial that another sweep has in work is left to it, and taken over if that sweep dies. An
    exception, such as of Ctrl-C, ends the processes; what is finished stays. A run that is repeated
    is moved to ``.repeated`` first, what a crashed trial recorded to ``.crashed``.

    Args:
        trials: The trials.
        out: Folder of the sweep.
        forecast: What `foresee` said of them.
        jobs: How many run at a time.
        threads: Of one trial.
        watch: Told where the sweep stands, many times a second.
        start: Starts the process of a trial.
        clock: Seconds.
        sleep: Waits for seconds.

    Returns:
        How it ended.
    """
    known = {one.name: one for one in trials}
    kinds = {name: one.settings for name, one in known.items()}
    expected = dict(forecast.each)
    waiting = sorted(expected, key=lambda name: -expected[name])
    running: dict[str, tuple[trial.Child, float]] = {}
    took: dict[str, float] = {}
    crashed: list[Crash] = []
    begin = clock()
    trial.clear(out)
    for name in forecast.older:
        if name in expected and (out / name).exists():
            trial.set_aside(out / name, out / trial.REPEATED / name)
    try:
        while waiting or running:
            for name, (child, since) in list(running.items()):
                code = child.poll()
                if code is None:
                    continue
                del running[name]
                works = code == 0 and (out / name).exists()
                recorded = trial.discard(out, name, crashed=not works and code != trial.BUSY)
                if code == trial.BUSY:
                    waiting.append(name)
                elif works:
                    took[name] = clock() - since
                    if not child.said():  # this time: of crashes before it nobody need read
                        trial.log_of(out, name).unlink(missing_ok=True)
                else:
                    log = trial.log_of(out, name)
                    crashed.append(Crash(name, code, log, child.said(), recorded))
            for name in list(waiting):
                if len(running) >= jobs:
                    break
                if (out / name).exists():  # by another sweep
                    waiting.remove(name)
                elif not trial.in_work(out, name):
                    waiting.remove(name)
                    running[name] = start(known[name], out, threads, forecast.pace), clock()
            now = clock()
            shares = {name: trial.told(out, name) for name in running}
            after = duration.refined(expected, kinds, took)
            busy = [_left(after[n], now - running[n][1], share) for n, share in shares.items()]
            left = duration.makespan([after[name] for name in waiting], jobs, busy)
            done = len(known) - len(waiting) - len(running)
            watch(Status(done, len(known), shares, left, tuple(crashed)))
            if waiting or running:
                sleep(_TICK)
    finally:
        for name, (child, _) in running.items():
            child.end()
            trial.discard(out, name)
        for name in known:
            if (out / name).exists():
                _remove_empty(trial.log_of(out, name))
    return Outcome(took, clock() - begin, tuple(crashed))


def _remove_empty(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another sweep may end at the same time
        if not log.stat().st_size:
            log.unlink()


def _left(expected: float, spent: float, share: float) -> float:
    """Seconds that a trial in work still needs: by its steps, once they say more than the plan."""
    planned = expected - spent
    if not share:
        return max(planned, 0.0)
    weight = share if planned > 0 else 1.0  # a plan that is over says nothing
    return weight * spent * (1 - share) / share + (1 - weight) * planned
