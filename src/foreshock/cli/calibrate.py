"""``foreshock calibrate``: an alarm from known-safe runs, at a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import tyro

from foreshock.cli.console import console, emit
from foreshock.detectors import ConformalAlarm
from foreshock.store import Run

Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]


def calibrate(
    runs: Folders,
    series: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    alpha: float = 0.05,
    side: Literal["above", "below", "both"] = "above",
    out: Path = Path("calibration.json"),
    json: bool = False,
) -> int:
    """Calibrate an alarm on known-safe runs, for `attach(detectors=["conformal:FILE"])`.

    The runs must share their set-up and their logged steps and differ in the seed; the first third,
    as given, locates, the others give the threshold. 30 runs are needed for a false-alarm rate of
    5 % a run.

    Args:
        runs: Folders of known-safe runs, or of a folder that holds them.
        series: Series to watch, such as reward/kl; may be repeated, then the largest z counts.
        alpha: Probability that a safe run ever alarms.
        side: Which side of the safe runs is dangerous.
        out: File to write.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If no series is named.
    """
    from foreshock.evaluation import calibrate as fit

    if not series:
        raise ValueError("`foreshock calibrate` needs the series to watch. Add: --series reward/kl")
    with ExitStack() as stack:
        opened = [stack.enter_context(Run.open(path)) for path in folders(runs)]
        found = fit(opened, series, alpha=alpha, side=side)
    found.save(out)
    name = ConformalAlarm(found).name
    if json:
        emit(
            {
                "calibration": str(out),
                "detector": f"conformal:{out}",
                "name": name,
                "series": found.series,
                "threshold": found.threshold,
                "alpha": found.alpha,
                "steps": [found.grid[0], found.grid[-1], len(found.grid)],
                "located": len(found.located),
                "calibrated": len(found.calibrated),
            }
        )
        return 0
    text = (
        f"Wrote {out}: {name} alarms above {found.threshold:.3g} scales, at steps {found.grid[0]:,}"
        f" to {found.grid[-1]:,} ({len(found.grid):,} of them). {len(found.located)} runs gave "
        f"location and scale, {len(found.calibrated)} the threshold; a safe run alarms with "
        f"probability {found.alpha:g} at most."
    )
    console().print(text, soft_wrap=True)
    console().print(f"foreshock replay RUN --detector conformal:{out}", soft_wrap=True)
    return 0


def folders(paths: Sequence[Path]) -> list[Path]:
    """The runs themselves, and the runs in folders that are none, by name."""
    found: list[Path] = []
    for path in paths:
        below = sorted(p.parent for p in path.glob("*/run.json")) if path.is_dir() else []
        found += [path] if (path / "run.json").exists() or not below else below
    return found
