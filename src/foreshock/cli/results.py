"""``foreshock results FOLDER``: the numbers that experiments are held to, from recorded runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from foreshock import experiments
from foreshock.cli.console import console, emit
from foreshock.experiments.setup import Check, Experiment
from foreshock.store import Run, list_runs

#: What a check says, for a person.
ANSWERS = {True: "yes", False: "NO", None: "too few runs"}
# Run files, the interpreter's own and the libraries'.
_FILES_BESIDE = 256


def results(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),),
    figure: str = "",
    json: bool = False,
) -> int:
    """Print the numbers that experiments are held to, from all finished runs below some folders.

    Args:
        folders: Folders of runs.
        figure: Also draw, into this file (.png, .svg, .pdf); for several experiments a folder, or
            a name with {name} in it.
        json: Print JSON.

    Returns:
        1 if a check failed, else 0.

    Raises:
        ValueError: If there is no finished run of an experiment, or the figures have one name.
    """
    found, passed_over = gather(folders)
    if not found:
        where = ", ".join(map(str, folders))
        raise ValueError(
            f"There is no finished run of an experiment below {where}. `foreshock sweep NAME` "
            "makes some."
        )
    targets = _targets(figure, list(found)) if figure else {}
    judged = {name: judge(name, paths, targets.get(name)) for name, paths in found.items()}
    if json:
        emit(plain(found, judged, targets))
    else:
        show(found, judged)
        for path in targets.values():
            console().print(str(path), soft_wrap=True)
        if passed_over:
            console().print(f"{count(passed_over, 'run')} not finished: left out.")
    return 1 if any(c.holds is False for checks in judged.values() for c in checks) else 0


def gather(folders: Iterable[Path]) -> tuple[dict[str, list[Path]], int]:
    """Find the finished runs of experiments.

    Args:
        folders: Where to look.

    Returns:
        Paths by name of the experiment, in the order of `NAMES`; and how many are not finished.
    """
    kinds = {name.replace("-", "_"): name for name in experiments.NAMES}
    found: dict[str, dict[Path, None]] = {name: {} for name in experiments.NAMES}
    others: set[Path] = set()
    for folder in folders:
        for summary in list_runs(folder):
            if summary.kind in kinds and summary.state == "closed":
                found[kinds[summary.kind]][summary.path.resolve()] = None
            elif summary.kind in kinds or summary.state == "damaged":
                others.add(summary.path.resolve())
    return {name: list(paths) for name, paths in found.items() if paths}, len(others)


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


def show(found: Mapping[str, Sequence[Path]], judged: Mapping[str, Sequence[Check]]) -> None:
    """Print a table for each experiment."""
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


def plain(
    found: Mapping[str, Sequence[Path]],
    judged: Mapping[str, Sequence[Check]],
    figures: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """The tables as plain values."""
    drawn = {name: str(path) for name, path in (figures or {}).items()}
    return {
        name: {
            "runs": len(found[name]),
            "checks": [asdict(check) for check in checks],
            "figure": drawn.get(name),
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
