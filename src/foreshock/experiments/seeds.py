"""What runs of several seeds come to: when each got there, how many did, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.experiments.setup import Check
from foreshock.stats.intervals import clopper_pearson
from foreshock.stats.sample import mean_interval
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Seeds below which a check says nothing for an experiment; a failure is said at once.
LEAST = 10


def reached(run: Run, name: str, level: float, *, below: bool = False) -> int | None:
    """First evaluation whose centred 3-point median reaches a level; the ends as they are.

    Args:
        run: A run.
        name: The series.
        level: The level.
        below: Whether to be below the level instead.

    Returns:
        The step, or ``None`` if it never does or was not recorded.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/a", kind="toy") as record:
        ...     for step, value in enumerate([0.0, 0.9, 0.1, 0.6, 0.7, 0.8]):
        ...         record.append(step, {"acc": value})
        ...     reached(record, "acc", 0.5)
        3
    """
    if name not in run.names():
        return None
    series = run.series(name)
    value = np.array(series.value)
    if len(value) > 2:
        triples = np.stack([value[:-2], value[1:-1], value[2:]])
        value[1:-1] = np.median(triples, axis=0)
    there = value < level if below else value >= level
    return int(series.step[there.argmax()]) if there.any() else None


def all_of(name: str, expected: str, there: Sequence[bool]) -> Check:
    """A check that every seed must pass.

    Args:
        name: What it is.
        expected: What should be true.
        there: One answer a run.

    Returns:
        The check; undecided while fewer than `LEAST` runs have all passed.

    Examples:
        >>> all_of("learns", "all", [True] * 10).measured
        '10 of 10 runs (95 %: 0.69 to 1.00)'
        >>> all_of("learns", "all", [True]).holds is None, all_of("learns", "all", [False]).holds
        (True, False)
    """
    n, hits = len(there), sum(there)
    if not n:
        return Check(name, expected, f"no run; {LEAST} are needed", None)
    low, high = clopper_pearson(hits, n)
    measured = f"{hits} of {n} runs (95 %: {low:.2f} to {high:.2f})"
    if hits < n:
        return Check(name, expected, measured, False)
    if n < LEAST:
        return Check(name, expected, f"{measured}; {LEAST} are needed", None)
    return Check(name, expected, measured, True)


def spread(values: Sequence[float | None], digits: int = 0) -> str:
    """Numbers of several runs as a sentence: median, range, mean with its Student interval.

    Args:
        values: One a run; ``None`` where it did not happen, which is counted and left out.
        digits: After the point.

    Returns:
        The sentence.

    Examples:
        >>> spread([100, 110, None])
        'median 105 (100 to 110), mean 105 (95 %: 41 to 169), not in 1 of 3 runs'
    """
    there = [float(value) for value in values if value is not None]
    if not there:
        return f"in none of {len(values)} runs"
    f = f",.{digits}f"
    text = f"median {np.median(there):{f}} ({min(there):{f}} to {max(there):{f}})"
    if len(there) > 1:
        mean = mean_interval(there)
        text += f", mean {mean.value:{f}} (95 %: {mean.low:{f}} to {mean.high:{f}})"
    missing = len(values) - len(there)
    return text + (f", not in {missing} of {len(values)} runs" if missing else "")


def draw_spread(axes: Axes, runs: Sequence[Run], name: str, colour: str, **line: Any) -> bool:
    """Median over runs of a series, in a band from the lowest to the highest.

    Runs are drawn up to where the shortest ends; steps must be those of the first.

    Args:
        axes: Where.
        runs: The seeds of one variant.
        name: The series.
        colour: Of line and band.
        line: For `Axes.plot`.

    Returns:
        Whether there was anything to draw.
    """
    found = [run.series(name) for run in runs if name in run.names()]
    found = [series for series in found if len(series.step)]
    if not found:
        return False
    length = min(len(series.step) for series in found)
    steps = found[0].step[:length]
    values = np.stack([series.value[:length] for series in found])
    axes.plot(steps, np.median(values, axis=0), color=colour, **{"lw": 1.5, **line})
    if len(found) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, lw=0)
    return True
