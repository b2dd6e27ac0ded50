"""Sweeps: the same experiments over variants, seeds and settings, one process a trial.

`plan` lists the trials, `foresee` says how long they will take, `carry_out` runs what is not
finished. Nothing is remembered outside of the run folders, so a sweep that was killed is continued
by starting it again: `foreshock.experiments.trial` says why that loses and repeats nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from foreshock.experiments import duration, trial
from foreshock.experiments.setup import Experiment
from foreshock.store import Run, StoreError

_TICK = 0.1


@dataclass(frozen=True)
class Trial:
    """One configuration of one experiment.

    Args:
        experiment: Its name on the command line.
        about: The experiment.
        config: Its configuration.
        small: Whether it was made from the small size.
    """

    experiment: str
    about: Experiment = field(repr=False)
    config: Any
    small: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """All fields of the configuration, as JSON holds them."""
        return json.loads(json.dumps(asdict(self.config)))

    @property
    def name(self) -> str:
        """Name of its folder: experiment, label, seed, and eight digits of all fields."""
        label = re.sub(r"[^\w.=+-]+", "-", self.about.label(self.config))
        words = (self.experiment, label, str(self.config.seed), _digest(self.fields))
        return "-".join(word for word in words if word)

    @property
    def settings(self) -> str:
        """What it has in common with trials that differ in their seed alone."""
        return _settings(self.experiment, self.fields)


def _settings(experiment: str, fields: Mapping[str, Any]) -> str:
    others = {key: value for key, value in fields.items() if key != "seed"}
    return f"{experiment}-{_digest(others)}"


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plan(
    experiments: Mapping[str, Experiment],
    seeds: Sequence[int] = (0,),
    variants: Sequence[str] = (),
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    small: bool = False,
) -> list[Trial]:
    """List the trials: every experiment, variant, seed and combination of other fields, once.

    Args:
        experiments: By name.
        seeds: Seeds.
        variants: Those of them that an experiment has; all that it has if empty.
        grid: Other fields and their values.
        small: Whether to take the size that shows the machinery within seconds.

    Returns:
        The trials, seed by seed.

    Raises:
        ValueError: If an experiment has none of the variants, or not a field.

    Examples:
        >>> from foreshock.experiments import experiment
        >>> toys = {"grokking": experiment("grokking")}
        >>> trials = plan(toys, range(2), ["grok", "labels"], {"task": ["p23"]})
        >>> [trial.name.rpartition("-")[0] for trial in trials]
        ['grokking-p23-grok-0', 'grokking-p23-labels-0', 'grokking-p23-grok-1',
         'grokking-p23-labels-1']
    """
    grid = dict(grid or {})
    unknown = set(variants).difference(*(about.variants for about in experiments.values()))
    if unknown:
        has = "; ".join(f"{name}: {', '.join(e.variants)}" for name, e in experiments.items())
        raise ValueError(f"There is no variant {', '.join(sorted(unknown))}. There are {has}.")
    found: dict[str, Trial] = {}
    for name, about in experiments.items():
        chosen = [v for v in about.variants if v in variants] if variants else about.variants
        if not chosen:
            raise ValueError(
                f"{name} has none of the variants {', '.join(variants)}. It has "
                f"{', '.join(about.variants)}."
            )
        for seed, variant, *values in itertools.product(seeds, chosen, *grid.values()):
            others = dict(zip(grid, values, strict=True))
            try:
                config = about.configured(small=small, variant=variant, seed=seed, **others)
            except TypeError as error:
                known = ", ".join(asdict(about.config()))
                raise ValueError(f"{name}: {error}. Its fields are {known}.") from error
            one = Trial(name, about, config, small)
            found.setdefault(one.name, one)
    return list(found.values())


class Kept(NamedTuple):
    """A finished trial, as its run tells it.

    Attributes:
        settings: What it has in common with trials that differ in their seed alone.
        fields: All fields of its configuration.
        seconds: Wall seconds of its process.
    """

    settings: str
    fields: dict[str, Any]
    seconds: float


def finished(out: Path) -> dict[str, Kept | None]:
    """Read back what a folder holds.

    Args:
        out: Folder of a sweep; need not exist.

    Returns:
        The finished trials by name; ``None`` for what is no trial or cannot be read.
    """
    if not out.is_dir():
        return {}
    folders = [path for path in sorted(out.iterdir()) if path.is_dir()]
    return {path.name: _read(path) for path in folders if not path.name.startswith(".")}


def _read(path: Path) -> Kept | None:
    try:
        with Run.open(path) as run:
            told, timings = run.events("trial"), run.events("timing")
    except StoreError:
        return None
    if not told or not timings:
        return None
    asked, timing = told[-1].payload, timings[-1].payload
    settings = _settings(asked["experiment"], asked["config"])
    return Kept(settings, asked["config"], timing["seconds"] + timing["startup"])


class Forecast(NamedTuple):
    """How long a sweep will take.

    Attributes:
        seconds: From its start to its end.
        each: Expected seconds of the trials that are not finished, by name.
        timed: Whether somebody timed all their settings; a guess otherwise.
        kept: Names of the trials that are finished.
    """

    seconds: float
    each: dict[str, float]
    timed: bool
    kept: tuple[str, ...]


def foresee(
    trials: Sequence[Trial],
    out: Path,
    *,
    jobs: int,
    pace: Callable[[Sequence[Trial]], duration.Pace],
) -> Forecast:
    """Say how long a sweep will take, from reference seconds, this machine, and finished trials.

    Args:
        trials: The trials.
        out: Folder of the sweep.
        jobs: How many run at a time.
        pace: From the trials to be run to the pace of this machine; called if there is one.

    Returns:
        The forecast.

    Raises:
        ValueError: If the folder of a trial holds something else.
    """
    found = finished(out)
    for one in trials:
        kept = found.get(one.name)
        if one.name in found and (kept is None or kept.fields != one.fields):
            raise ValueError(
                f"{out / one.name} holds something else than this trial. Move it away, or choose "
                "another folder."
            )
    names = [one.name for one in trials if one.name in found]
    waiting = [one for one in trials if one.name not in found]
    if not waiting:
        return Forecast(0.0, {}, True, tuple(names))
    seconds: dict[str, list[float]] = {}
    for kept in filter(None, found.values()):
        seconds.setdefault(kept.settings, []).append(kept.seconds)
    now = pace(waiting)
    told = {
        one.name: duration.expected(
            one.about, one.config, now, seconds.get(one.settings, ()), small=one.small
        )
        for one in waiting
    }
    each = {name: expected.value for name, expected in told.items()}
    total = duration.makespan(sorted(each.values(), reverse=True), jobs)
    return Forecast(total, each, all(s.timed for s in told.values()), tuple(names))


class Crash(NamedTuple):
    """A trial that ended without a run.

    Attributes:
        name: Of the trial.
        code: Exit code of its process, negative for a signal.
        log: File with what it printed.
        lines: The last of that.
    """

    name: str
    code: int
    log: Path
    lines: tuple[str, ...]


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


def start_process(one: Trial, out: Path, threads: int) -> trial.Child:
    """Start the process of a trial, which ends when this process does.

    Args:
        one: The trial.
        out: Folder of the sweep.
        threads: How many threads its numerical libraries may use.

    Returns:
        The process.

    Raises:
        ValueError: If the module of ``run`` is not that of the ``EXPERIMENT``.
    """
    module = one.about.run.__module__
    if getattr(sys.modules[module], "EXPERIMENT", None) is not one.about:
        raise ValueError(
            f"{module} defines `run` and so must define the `EXPERIMENT` of {one.name}."
        )
    return trial.start(
        {
            "module": module,
            "experiment": one.experiment,
            "config": one.fields,
            "out": str(out.resolve()),
            "name": one.name,
            "threads": threads,
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
    start: Callable[[Trial, Path, int], trial.Child] = start_process,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Outcome:
    """Run all trials that are not finished, the longest first, so many at a time.

    A trial that another sweep has in work is left to it, and taken over if that sweep dies. An
    exception, such as of Ctrl-C, ends the processes; what is finished stays.

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
    _tidy(out)
    try:
        while waiting or running:
            for name, (child, since) in list(running.items()):
                code = child.poll()
                if code is None:
                    continue
                del running[name]
                if code == trial.BUSY:
                    waiting.append(name)
                elif code == 0 and (out / name).exists():
                    took[name] = clock() - since
                else:
                    crashed.append(Crash(name, code, trial.log_of(out, name), child.said()))
                    trial.clear(out)
            for name in list(waiting):
                if len(running) >= jobs:
                    break
                if (out / name).exists():  # by another sweep
                    waiting.remove(name)
                elif not trial.in_work(out, name):
                    waiting.remove(name)
                    running[name] = start(known[name], out, threads), clock()
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
        for child, _ in running.values():
            child.end()
        _tidy(out)
    return Outcome(took, clock() - begin, tuple(crashed))


def _tidy(out: Path) -> None:
    """Remove what killed sweeps left: unfinished trials, and logs that say nothing."""
    trial.clear(out)
    for log in out.glob("*.log"):
        if (out / log.stem).exists() and not log.stat().st_size:
            log.unlink(missing_ok=True)


def _left(expected: float, spent: float, share: float) -> float:
    """Seconds that a trial in work still needs: by its steps, once they say more than the plan."""
    planned = expected - spent
    if not share:
        return max(planned, 0.0)
    weight = share if planned > 0 else 1.0  # a plan that is over says nothing
    return weight * spent * (1 - share) / share + (1 - weight) * planned
