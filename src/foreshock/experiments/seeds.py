"""What runs of several seeds come to: when each got there, how many did, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.experiments.setup import Check, outcome
from foreshock.stats.intervals import clopper_pearson
from foreshock.stats.sample import mean_interval
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Seeds below which a check says nothing for an experiment; a failure is said at once.
LEAST = 10


def reached(run: Run, name: str, level: float, *, below: bool = False) -> int | None:
    """First evaluation whose centred 3-point median reaches a level; at the ends, two values do.

    One high value, wherever it is, is no event. The first two evaluations count for the first, and
    the last two for the last; a series of one or two values must be there throughout.

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
        2
    """
    if name not in run.names():
        return None
    series = run.series(name)
    raw = np.array(series.value)
    if not len(raw):
        return None
    worse = np.maximum if below else np.minimum
    around = np.pad(raw, 1, mode="edge")
    value = np.median(np.stack([around[:-2], raw, around[2:]]), axis=0)
    value[0], value[-1] = worse(raw[0], raw[:2][-1]), worse(raw[-1], raw[-2:][0])
    there = value < level if below else value >= level
    return int(series.step[there.argmax()]) if there.any() else None


def full_size(
    runs: Sequence[Run], config: Any, names: Sequence[str], of: Sequence[str] = ("variant",)
) -> list[Run]:
    """The runs that were finished at full size, which alone can say yes or no.

    A null that was cut short, or never evaluated, shows nothing as well, and proves nothing.

    Args:
        runs: Runs of one experiment.
        config: Its configuration at full size.
        names: Fields and properties that must be as in ``config``.
        of: Fields that may differ from it, and what must be as there may depend on them.

    Returns:
        Those with an outcome and these values.

    Examples:
        >>> import tempfile
        >>> from foreshock.experiments.induction import Induction
        >>> told = {"variant": "frozen", "seed": 0, "steps": 20}
        >>> with Run.create(tempfile.mkdtemp() + "/a", kind="toy", config=told) as record:
        ...     record.event("outcome", "toy", {"accuracy": 0.03})
        ...     full_size([record], Induction(), ["steps"])
        []
    """
    known = {field.name for field in fields(config)}
    kept = []
    for run in runs:
        told = {name: v for name, v in run.info["config"].items() if name in known}
        made = replace(config, **told)
        like = replace(config, **{name: getattr(made, name) for name in of})
        if outcome(run) and all(getattr(made, n) == getattr(like, n) for n in names):
            kept.append(run)
    return kept


def all_of(name: str, expected: str, there: Sequence[bool], *, left_out: int = 0) -> Check:
    """A check that every seed must pass.

    Args:
        name: What it is.
        expected: What should be true.
        there: One answer a run.
        left_out: Runs that were given and cannot say, because they are unfinished or of another
            size (`full_size`).

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
        return Check(name, expected, f"no run; {LEAST} are needed{apart(left_out)}", None)
    low, high = clopper_pearson(hits, n)
    measured = f"{hits} of {n} runs (95 %: {low:.2f} to {high:.2f}){apart(left_out)}"
    if hits < n:
        return Check(name, expected, measured, False)
    if n < LEAST:
        return Check(name, expected, f"{measured}; {LEAST} are needed", None)
    return Check(name, expected, measured, True)


def apart(left_out: int) -> str:
    """How many runs a check leaves out, as the end of a sentence; nothing for none.

    Args:
        left_out: Their number.

    Returns:
        The words.

    Examples:
        >>> apart(0), apart(2)
        ('', '; 2 unfinished or of another size left out')
    """
    return f"; {left_out} unfinished or of another size left out" if left_out else ""


def middle_within(
    name: str, expected: str, values: Sequence[float | None], low: float, high: float, digits: int
) -> Check:
    """A check that the median over seeds lies in a range.

    Args:
        name: What it is.
        expected: What should be true; the range is added.
        values: One a run; ``None`` where it did not happen, which counts as beyond every range.
        low: Start of the range.
        high: Its end, included.
        digits: After the point.

    Returns:
        The check; undecided below `LEAST` runs.

    Examples:
        >>> middle_within("T90", "about 250", [200.0] * 10, 170, 375, 0).holds
        True
        >>> middle_within("T90", "about 250", [200.0] * 4 + [None] * 6, 170, 375, 0).holds
        False
    """
    f = f",.{digits}f"
    expected = f"{expected}, median between {low:{f}} and {high:{f}}"
    middle = np.median([np.inf if value is None else value for value in values] or [np.inf])
    holds = bool(low <= middle <= high) if len(values) >= LEAST else None
    return Check(name, expected, f"{spread(values, digits)} (n = {len(values)})", holds)


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
    style: dict[str, Any] = {"lw": 1.5, **line}
    axes.plot(steps, np.median(values, axis=0), color=colour, **style)
    if len(found) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, lw=0)
    return True
