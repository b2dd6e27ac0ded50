"""``foreshock calibrate``: an alarm from known-safe runs, at a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from foreshock.cli.console import console, emit
from foreshock.detectors import ConformalAlarm
from foreshock.detectors.calibration import Side
from foreshock.store import Run

Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]


def calibrate(
    runs: Folders,
    series: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    alpha: float = 0.05,
    side: Literal["above", "below", "both"] = "above",
    out: Path = Path("calibration.json"),
    force: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Calibrate an alarm on known-safe runs, for `attach(detectors=["conformal:FILE"])`.

    The runs must share their set-up and their logged steps and differ in the seed; the first third,
    as given, locates, the others give the threshold. 30 runs are needed for a false-alarm rate of
    5 % a run, on average over sets of safe runs.

    Args:
        runs: Folders of known-safe runs, or of a folder that holds them.
        series: Series to watch, such as reward/kl, or with its side, such as reward/entropy:below;
            may be repeated, then the largest z counts.
        alpha: Probability that a safe run ever alarms.
        side: Which side of the safe runs is dangerous, for series that do not say it.
        out: File to write.
        force: Take runs of different configurations, and runs that were over-optimised, mixed by
            their identities so that the first third is no group of its own.
        overwrite: Replace a file that exists.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If no run or no series is named, or the file cannot be written or exists.
    """
    from foreshock.evaluation import calibrate as fit
    from foreshock.evaluation import false_alarm_bound

    if not runs:
        raise ValueError(
            "`foreshock calibrate` needs the folders of known-safe runs. Type: foreshock calibrate "
            "runs/safe --series reward/kl"
        )
    if not series:
        raise ValueError("`foreshock calibrate` needs the series to watch. Add: --series reward/kl")
    writable(out, overwrite=overwrite)
    pairs = [_side(text, side) for text in series]
    with ExitStack() as stack:
        opened = [stack.enter_context(Run.open(path)) for path in folders(runs)]
        if force:
            opened.sort(key=lambda run: sha256(run.id.encode()).hexdigest())
        names, sides = ([pair[i] for pair in pairs] for i in (0, 1))
        found = fit(opened, names, alpha=alpha, side=sides, force=force)  # type: ignore[arg-type]
    found.save(out)
    name = ConformalAlarm(found).name
    bound = false_alarm_bound(len(found.calibrated), alpha)
    if json:
        emit(
            {
                "calibration": str(out),
                "detector": f"conformal:{out}",
                "name": name,
                "series": found.series,
                "threshold": found.threshold,
                "alpha": found.alpha,
                "alpha_of_this_file_below": bound,
                "steps": [found.grid[0], found.grid[-1], len(found.grid)],
                "located": len(found.located),
                "calibrated": len(found.calibrated),
                "notes": found.notes,
            }
        )
        return 0
    text = (
        f"Wrote {out}: {name} alarms above {found.threshold:.3g} scales, at steps {found.grid[0]:,}"
        f" to {found.grid[-1]:,} ({len(found.grid):,} of them). {len(found.located)} runs gave "
        f"location and scale, {len(found.calibrated)} the threshold. A safe run alarms with "
        f"probability {found.alpha:g} at most, on average over sets of safe runs; for this file "
        f"the probability is below {bound:.2g} with 95 % confidence."
    )
    for sentence in (text, *found.notes):
        console().print(sentence, soft_wrap=True)
    console().print(f"foreshock replay RUN --detector conformal:{out}", soft_wrap=True)
    return 0


def _side(text: str, otherwise: Side) -> tuple[str, Side]:
    """``NAME`` or ``NAME:SIDE``."""
    name, _, side = text.rpartition(":")
    return next(((name, one) for one in get_args(Side) if name and one == side), (text, otherwise))


def writable(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before the work.

    Args:
        out: File to write.
        overwrite: Whether one that exists may be replaced.

    Raises:
        ValueError: If it exists, or its folder does not.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists. Name another file by --out, or add --overwrite.")
    if not out.parent.is_dir():
        raise ValueError(f"There is no folder {out.parent} for --out {out}. Make it first.")


def folders(paths: Sequence[Path]) -> list[Path]:
    """The runs themselves, and the runs in folders that are none, by name."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"There is no folder {path}. `foreshock ls` shows the runs.")
        below = sorted(p.parent for p in path.glob("*/run.json")) if path.is_dir() else []
        found += [path] if (path / "run.json").exists() or not below else below
    return found
