"""``foreshock sweep``: experiments over variants, seeds and settings, one process a trial."""

from __future__ import annotations

import dataclasses
import difflib
import json as jsons
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from foreshock import experiments
from foreshock.cli import results
from foreshock.cli.console import console, emit
from foreshock.experiments import duration, experiment, trial
from foreshock.experiments import sweep as sweeps
from foreshock.experiments.planning import Trial, left_out, plan
from foreshock.experiments.setup import Experiment
from foreshock.experiments.sweep import Crash, Forecast, Outcome, Status

Names = Annotated[tuple[str, ...], tyro.conf.Positional]
Fields = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set")]


def sweep(
    names: Names,
    seed: str = "0",
    variant: str = "",
    fields: Fields = (),
    jobs: int = 0,
    threads: int = 1,
    small: bool = False,
    out: Path | None = None,
    again: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Run experiments over variants, seeds and settings; start it again to go on.

    One process a trial. What is finished in the folder is kept, whatever was killed; a trial that
    crashes is reported and does not end the sweep.

    Args:
        names: Experiments, or all.
        seed: Seeds, such as 0..29 or 0,3,5.
        variant: Variants, with commas; all of an experiment if not given.
        fields: Another field of the configuration, FIELD=VALUE; values with commas make a grid, and
            the option may be repeated.
        jobs: Trials at a time; as many as the cores bear if not given.
        threads: Threads of a trial, at most its share of the cores. More than one can change the
            last bits of a result.
        small: Take the size that shows the machinery within seconds, and not the numbers.
        out: Folder of the runs; runs/sweep if not given, runs/sweep-small for the small size.
        again: Repeat what other code than this has finished.
        dry_run: Only list the trials and say how long they will take.
        json: Print JSON.

    Returns:
        1 if a trial crashed, 130 if interrupted, else 0.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if jobs < 0 or threads < 1:
        raise ValueError(f"`--jobs` and `--threads` must be at least 1. Got {jobs} and {threads}.")
    about = {name: experiment(name) for name in _chosen(names)}
    grid = _grid(fields, about)
    trials = plan(about, seeds_of(seed), _words(variant), grid, small=small)
    for told in [] if variant else left_out(about, grid, small=small):
        print(f"foreshock: {told}: left out.", file=sys.stderr)
    folder = out or Path("runs") / ("sweep-small" if small else "sweep")
    jobs, allowed = _shared(_cores(), jobs, threads, len(trials))
    if allowed < threads:
        share = f"{results.count(allowed, 'thread')} each, which is the share of the cores"
        print(f"foreshock: {results.count(jobs, 'job')} get {share}.", file=sys.stderr)
    threads = allowed

    def pace(waiting: Sequence[Trial], jobs: int) -> duration.Pace:
        modules = sorted({one.about.run.__module__ for one in waiting})
        return duration.measure_pace(jobs, modules, trial.environment(threads))

    try:
        forecast = sweeps.foresee(trials, folder, jobs=jobs, pace=pace, again=again)
        if not json:
            _announce(trials, forecast, again=again, dry_run=dry_run)
        if dry_run:
            if json:
                emit(_plain(trials, folder, forecast, None))
            return 0
        with _watching(silent=json) as watch:
            outcome = sweeps.carry_out(
                trials, folder, forecast, jobs=jobs, threads=threads, watch=watch
            )
    except KeyboardInterrupt:
        finished = sum((folder / one.name).exists() for one in trials)
        told = f"{finished} of {len(trials)} trials are finished and kept in {folder}"
        print(f"foreshock: interrupted; {told}; the same command goes on.", file=sys.stderr)
        return 130
    paths: dict[str, list[Path]] = {name: [] for name in about}
    for one in trials:
        if (folder / one.name).exists():
            paths[one.experiment].append(folder / one.name)
    paths = {name: found for name, found in paths.items() if found}
    judged = {name: results.judge(name, found) for name, found in paths.items()}
    if json:
        told = _plain(trials, folder, forecast, outcome)
        emit(told | {"results": results.plain(paths, judged)})
    else:
        _conclude(trials, folder, forecast, outcome, small=small)
        results.show(paths, judged)
    return 1 if outcome.crashed else 0


# ------------------------------------------------------------------ what was asked for


def _chosen(names: Sequence[str]) -> tuple[str, ...]:
    known = experiments.NAMES
    if not names or "all" in names:
        if len(names) == 1:
            return known
        raise ValueError(f"Name the experiments, or type `all`. They are {', '.join(known)}.")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"There is no experiment {name!r}. {hint}The names are {', '.join(known)}."
            )
    return tuple(dict.fromkeys(names))


def seeds_of(text: str) -> list[int]:
    """Seeds as they are typed.

    Args:
        text: Numbers and ranges with commas; a range holds both of its ends.

    Returns:
        The seeds, each once.

    Raises:
        ValueError: If it is something else.

    Examples:
        >>> seeds_of("0..3"), seeds_of("0,3,5"), seeds_of("7,0..1,1")
        ([0, 1, 2, 3], [0, 3, 5], [7, 0, 1])
    """
    found: dict[int, None] = {}
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", word.strip())
        last = int(match[2] or match[1]) if match else -1
        if not match or last < int(match[1]):
            raise ValueError(
                f"`--seed` takes numbers and ranges, as in 0..29 or 0,3,5. Got {text!r}."
            )
        found |= dict.fromkeys(range(int(match[1]), last + 1))
    return list(found)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _grid(fields: Sequence[str], about: Mapping[str, Experiment]) -> dict[str, list[Any]]:
    """Fields and their values, in the types of the configurations."""
    grid: dict[str, list[Any]] = {}
    for text in fields:
        name, equals, values = text.partition("=")
        if name in grid:
            raise ValueError(f"Set `{name}` once, its values with commas. Got {text!r} as well.")
        if not equals or name in ("seed", "variant"):
            raise ValueError(
                "`--set` takes FIELD=VALUE, as in steps=500, and seeds and variants have their "
                f"own options. Got {text!r}."
            )
        for owner, found in about.items():
            hints = typing.get_type_hints(found.config)
            known = [f.name for f in dataclasses.fields(found.config)]
            if name not in known:
                raise ValueError(
                    f"{owner} has no field {name!r}. Its fields are {', '.join(known)}."
                )
            # Commas within brackets belong to a value.
            typed = [_value(name, hints[name], v) for v in re.split(r",(?![^\[]*\])", values)]
            if grid.setdefault(name, typed) != typed:
                raise ValueError(f"`{name}` is not the same kind of field in these experiments.")
    return grid


def _value(name: str, hint: Any, text: str) -> Any:
    """One value in the type of its field."""
    choices: dict[str, Any] = {}
    try:
        if hint is str:
            return text
        if choices := _choices(hint):
            return choices[text]
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        if hint in (int, float):
            return hint(text)
        value = jsons.loads(text)
        return tuple(value) if isinstance(value, list) else value
    except (ValueError, KeyError) as error:
        kind = f"of the type {getattr(hint, '__name__', str(hint).replace('typing.', ''))}"
        must = f"one of {', '.join(choices)}" if choices else kind
        raise ValueError(f"The `{name}` must be {must}. Got {text!r}.") from error


def _choices(hint: Any) -> dict[str, Any]:
    """What a field of literals may be, by how it is typed; nothing for other fields."""
    if typing.get_origin(hint) is typing.Literal:
        return {str(value): value for value in typing.get_args(hint)}
    found = [_choices(part) for part in typing.get_args(hint)]
    return {text: value for part in found for text, value in part.items()} if all(found) else {}


def _shared(cores: int, jobs: int, threads: int, trials: int) -> tuple[int, int]:
    """How many jobs there are, and how many of the threads that were asked for each may have."""
    jobs = min(jobs or max(1, cores // threads), trials)
    return jobs, max(1, min(threads, cores // jobs))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ------------------------------------------------------------------ what is said


def _announce(trials: Sequence[Trial], forecast: Forecast, *, again: bool, dry_run: bool) -> None:
    out = console()
    if dry_run:
        for one in trials:
            seconds = forecast.each.get(one.name)
            told = "finished" if seconds is None else duration.human(seconds)
            out.print(f"{told:>10}  {one.name}", soft_wrap=True)
    kept = f", {len(forecast.kept)} of them finished" if forecast.kept else ""
    if forecast.older:
        done = "to be repeated" if again else "kept; `--again` repeats them"
        kept += f", {len(forecast.older)} finished by other code than this ({done})"
    out.print(
        f"{results.count(len(trials), 'trial')}{kept}: {_foretold(forecast)}.", soft_wrap=True
    )


def _foretold(forecast: Forecast) -> str:
    if not forecast.each:
        return "nothing to do"
    text = f"about {duration.human(forecast.seconds)} on {results.count(forecast.jobs, 'job')}"
    return text if forecast.timed else f"{text}, a guess until some have finished"


@contextmanager
def _watching(*, silent: bool) -> Iterator[Callable[[Status], None]]:
    """A bar for the sweep and one for each trial in work; lines where there is no terminal."""
    errors = Console(stderr=True, highlight=False)
    told: list[int] = []

    def crashes(status: Status, say: Console) -> None:
        for crash in status.crashed[len(told) :]:
            told.append(1)
            say.print(_crashed(crash), soft_wrap=True, markup=False)

    if silent or not errors.is_terminal:
        last = [0]

        def line(status: Status) -> None:
            crashes(status, errors)
            tenth = 10 * status.done // status.total
            if not silent and tenth > last[0] and status.done < status.total:
                last[0] = tenth
                left = duration.human(status.left)
                errors.print(f"{status.done} of {status.total} trials, about {left} left")

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=errors) as bars:
        whole = bars.add_task("trials", total=None, left="")
        each: dict[str, Any] = {}

        def move(status: Status) -> None:
            crashes(status, bars.console)
            left = f"about {duration.human(status.left)} left" if status.left else ""
            bars.update(whole, completed=status.done, total=status.total, left=left)
            for name in [name for name in each if name not in status.running]:
                bars.remove_task(each.pop(name))
            for name, share in status.running.items():
                if name not in each:
                    each[name] = bars.add_task(f"  {name}", total=100, left="")
                bars.update(each[name], completed=round(100 * share))

        yield move


def _crashed(crash: Crash) -> str:
    how = f"signal {-crash.code}" if crash.code < 0 else f"exit code {crash.code}"
    lines = "".join(f"\n    {line}" for line in crash.lines)
    said = f"{crash.log} ends with:{lines}" if lines else "it printed nothing"
    if crash.code == -9:
        said += "\n    Killed from outside, often for want of memory: try fewer `--jobs`."
    if crash.run is not None:
        said += f"\n    What it recorded is in {crash.run}."
    return f"{crash.name} crashed ({how}); {said}"


def _conclude(
    trials: Sequence[Trial], folder: Path, forecast: Forecast, outcome: Outcome, *, small: bool
) -> None:
    out = console()
    ended = len(trials) - len(outcome.crashed)
    said = f"{ended} of {results.count(len(trials), 'trial')} finished in {folder}"
    if forecast.each:
        said = f"{said}; {duration.took(outcome.seconds, forecast.seconds)}"
    out.print(f"{said}.", soft_wrap=True)
    for crash in outcome.crashed:
        out.print(f"crashed: {crash.name} ({crash.run or crash.log})", soft_wrap=True)
    if small:
        out.print("The small size shows the machinery; the numbers need the full one.")
    out.print("")


def _plain(
    trials: Sequence[Trial], folder: Path, forecast: Forecast, outcome: Outcome | None
) -> dict[str, Any]:
    crashed = {crash.name: crash for crash in outcome.crashed} if outcome else {}
    rows = []
    for one in trials:
        state = (
            "crashed"
            if one.name in crashed
            else "kept"
            if one.name in forecast.kept
            else "finished"
            if outcome
            else "waiting"
        )
        row: dict[str, Any] = {"name": one.name, "experiment": one.experiment, "state": state}
        row["forecast"] = forecast.each.get(one.name)
        row["seconds"] = outcome.took.get(one.name) if outcome else None
        row["other_code"] = state == "kept" and one.name in forecast.older
        if one.name in crashed:
            crash = crashed[one.name]
            row |= {"code": crash.code, "log": str(crash.log), "lines": crash.lines}
            row["run"] = str(crash.run) if crash.run else None
        rows.append(row)
    told = {"out": str(folder), "trials": rows, "forecast": forecast.seconds}
    return told | {"timed": forecast.timed, "seconds": outcome.seconds if outcome else None}
