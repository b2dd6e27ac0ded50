"""``foreshock results FOLDER``: the numbers that experiments are held to, from recorded runs."""

from __future__ import annotations

import contextlib
import functools
import json as jsons
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from foreshock import experiments
from foreshock.cli.console import console, emit
from foreshock.experiments import kept, trial
from foreshock.experiments.setup import Check, Experiment
from foreshock.store import Run, list_runs

#: What a check says, for a person.
ANSWERS = {True: "yes", False: "NO", None: "too few runs"}
#: What there is to say of a run.
REASONS = {
    "unfinished": "not finished: left out.",
    "small": "of the small size: left out (`--small` takes them alone).",
    "full": "not of the small size: left out.",
    "copies": "of a configuration that a newer run has: left out.",
    "other_code": "made by other code than this: they count (`foreshock sweep --again`).",
}
# Run files, the interpreter's own and the libraries'.
_FILES_BESIDE = 256


def results(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),),
    figure: str = "",
    small: bool = False,
    json: bool = False,
) -> int:
    """Print the numbers that experiments are held to, from the finished runs below some folders.

    A configuration counts once, by its newest run. What is left out is said.

    Args:
        folders: Folders of runs.
        figure: Also draw, into this file (.png, .svg, .pdf); for several experiments a folder, or
            a name with {name} in it.
        small: Take what sweeps made of the small size, and nothing else.
        json: Print JSON.

    Returns:
        1 if a check failed, else 0.

    Raises:
        ValueError: If there is no finished run of an experiment, or the figures have one name.
    """
    found, notes = gather(folders, small=small)
    if not found:
        where = ", ".join(map(str, folders))
        told = "".join(f" {sentence}" for sentence in _sentences(notes))
        raise ValueError(
            f"There is no finished run of an experiment below {where}.{told} `foreshock sweep "
            "NAME` makes some."
        )
    targets = _targets(figure, list(found)) if figure else {}
    judged = {name: judge(name, paths, targets.get(name)) for name, paths in found.items()}
    if json:
        emit(plain(found, judged, targets, notes))
    else:
        show(found, judged, notes)
        for path in targets.values():
            console().print(str(path), soft_wrap=True)
    return 1 if any(c.holds is False for checks in judged.values() for c in checks) else 0


def gather(
    folders: Iterable[Path], *, small: bool = False
) -> tuple[dict[str, list[Path]], dict[str, Counter[str]]]:
    """Find the finished runs of experiments, of each configuration the newest.

    Args:
        folders: Where to look.
        small: Whether to take what sweeps made of the small size, and nothing else.

    Returns:
        Paths by name of the experiment, in the order of `NAMES`, oldest first; and by name, how
        many runs there is something to say of (`REASONS`), under ``""`` what cannot be read.
    """
    kinds = {name.replace("-", "_"): name for name in experiments.NAMES}
    summaries = {run.path.resolve(): run for folder in folders for run in list_runs(folder)}
    found: dict[str, dict[str, Path]] = {name: {} for name in experiments.NAMES}
    notes: dict[str, Counter[str]] = {}
    for path, summary in sorted(summaries.items(), key=lambda item: item[1].created, reverse=True):
        name = kinds.get(summary.kind, "")
        if not name and summary.state != "damaged":
            continue
        reason = "unfinished"
        if name and summary.state == "closed":
            with Run.open(path) as run:
                config, asked = jsons.dumps(run.info["config"], sort_keys=True), kept.read(run)
            if (asked is not None and asked.small) != small:
                reason = "full" if small else "small"
            elif config in found[name]:
                reason = "copies"
            else:
                found[name][config] = path
                reason = "other_code" if asked is not None and asked.code != _code(name) else ""
        if reason:
            notes.setdefault(name, Counter())[reason] += 1
    paths = {name: list(reversed(runs.values())) for name, runs in found.items() if runs}
    return paths, notes


@functools.cache
def _code(name: str) -> dict[str, str]:
    return trial.code_of(experiments.experiment(name).run.__module__)


def _sentences(notes: Mapping[str, Counter[str]]) -> list[str]:
    """What there is to say of runs, of all experiments together."""
    total = sum(notes.values(), Counter[str]())
    return [f"{count(total[why], 'run')} {text}" for why, text in REASONS.items() if total[why]]


def judge(name: str, paths: Sequence[Path], figure: Path | None = None) -> list[Check]:
    """Read the runs of one experiment and compare them with what it is held to.

    Args:
        name: Of the experiment.
        paths: Its runs.
        figure: File to draw them into.

    Returns:
        The checks. One that could not be carried out fails and says why, so that it does not hide
        those of other experiments.
    """
    about = experiments.experiment(name)
    with opened(paths) as runs:
        checks = _checks(about, runs)
        if figure is not None:
            from foreshock.report import save_figure

            save_figure(about.figure(runs), figure)
    return checks


def _checks(about: Experiment, runs: Sequence[Run]) -> list[Check]:
    try:
        return about.check(runs)
    except Exception as error:  # of any experiment's own arithmetic
        said = f"{type(error).__name__}: {error}"
        return [Check("check", "can be carried out on these runs", said, False)]


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Run]]:
    """Runs open for reading, however many.

    Args:
        paths: Their folders.

    Yields:
        The runs.
    """
    _allow_files(len(paths) + _FILES_BESIDE)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Run.open(path)) for path in paths]


def _allow_files(count: int) -> None:
    """Raise the soft limit of open files, which is often 1,024, towards the hard one."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def show(
    found: Mapping[str, Sequence[Path]],
    judged: Mapping[str, Sequence[Check]],
    notes: Mapping[str, Counter[str]] | None = None,
) -> None:
    """Print a table for each experiment, and what there is to say of runs."""
    out = console()
    for name, checks in judged.items():
        title = f"{name}: {count(len(found[name]), 'run')}"
        table = Table(title=title, box=None, pad_edge=False, title_justify="left")
        for column in ("number", "expected", "measured", "holds"):
            table.add_column(column, no_wrap=column == "holds")
        for check in checks:
            words = check.name, check.expected, check.measured, ANSWERS[check.holds]
            table.add_row(*map(Text, words))  # as they are: a bracket is no markup
        out.print(table if checks else f"{title}, held to nothing", "")
    for sentence in _sentences(notes or {}):
        out.print(sentence, soft_wrap=True)


def plain(
    found: Mapping[str, Sequence[Path]],
    judged: Mapping[str, Sequence[Check]],
    figures: Mapping[str, Path] | None = None,
    notes: Mapping[str, Counter[str]] | None = None,
) -> dict[str, Any]:
    """The tables as plain values."""
    drawn = {name: str(path) for name, path in (figures or {}).items()}
    return {
        name: {
            "runs": len(found[name]),
            "checks": [asdict(check) for check in checks],
            "figure": drawn.get(name),
            "notes": dict((notes or {}).get(name, {})),
        }
        for name, checks in judged.items()
    }


def _targets(figure: str, names: Sequence[str]) -> dict[str, Path]:
    """Where the figure of each experiment goes."""
    if "{name}" in figure:
        return {name: Path(figure.replace("{name}", name)) for name in names}
    if not Path(figure).suffix:
        return {name: Path(figure) / f"{name}.png" for name in names}
    if len(names) > 1:
        raise ValueError(
            f"These are runs of {len(names)} experiments, and {figure} is one file. Give a folder, "
            "or a name such as figures/{name}.svg."
        )
    return {names[0]: Path(figure)}


def count(number: int, noun: str) -> str:
    """A number of things, for a person."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
