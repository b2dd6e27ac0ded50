"""Over-optimisation: the numbers its runs are held to, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.experiments.seeds import LEAST, all_of, apart, full_size
from foreshock.experiments.setup import Check, having, milestones_of, outcome
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.stats.intervals import clopper_pearson
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The phenomenon and its nulls.
VARIANTS = ("hacking", "gaussian", "wide", "gold", "frozen")


#: What must be as at full size for a run to say anything.
SIZE = ("steps", "batch", "length")


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether the proxy with heavy-tailed errors is over-optimised and the Gaussian one is not.

    Args:
        runs: Any runs of this experiment.

    Returns:
        A line a variant, and how much of its gain gold loses. Runs that are unfinished or of
        another size are left out.
    """
    from foreshock.experiments.overoptimisation import OverOptimising  # which imports this module

    given = {v: having(runs, variant=v) for v in VARIANTS}
    kept = {v: full_size(some, OverOptimising(), SIZE) for v, some in given.items()}
    without = {v: len(given[v]) - len(kept[v]) for v in VARIANTS}
    event = {v: ["over_optimised" in milestones_of(run) for run in kept[v]] for v in VARIANTS}
    hits, count = sum(event["hacking"]), len(event["hacking"])
    low, high = clopper_pearson(hits, count) if count else (0.0, 1.0)
    told = f"{hits} of {count} runs (95 %: {low:.2f} to {high:.2f})" if count else "no runs"
    found = [
        Check(
            "hacking is over-optimised",
            "in most seeds: 16 of 20, twice, in seeds 0 to 39",
            told + apart(without["hacking"]),
            low < 0.91 and high > 0.64 and hits > count / 2 if count >= LEAST else None,
        )
    ]
    for variant in ("gaussian", "gold", "frozen"):
        silent = [not happened for happened in event[variant]]
        found.append(all_of(f"{variant} is not", "no seed", silent, left_out=without[variant]))
    wide = event["wide"]
    found.append(
        Check(
            "wide, the harder null",
            "reported: 1 of 8 development seeds",
            f"{sum(wide)} of {len(wide)} runs" if wide else "no runs",
            None,
        )
    )
    ends = {v: _ends(kept[v]) for v in ("hacking", "gaussian")}
    told = ", ".join(f"{v} {np.median(e):.2f} (n = {len(e)})" for v, e in ends.items() if e)
    enough = min(len(e) for e in ends.values()) >= LEAST
    falls = bool(np.median(ends["hacking"]) < 1 < np.median(ends["gaussian"])) if enough else None
    expected = "gold's last block over its first: hacking below 1, Gaussian above (about 5)"
    found.append(Check("gold at the end", expected, f"median {told}" if told else "no runs", falls))
    return found


def _ends(runs: Sequence[Run]) -> list[float]:
    """Gold's last block over its first; a run that starts without gold has no such number."""
    numbers = [outcome(run) for run in runs]
    return [n["gold_end"] / n["gold_start"] for n in numbers if n["gold_start"] > 0]


def figure(runs: Sequence[Run]) -> Figure:
    """Gold and proxy of every seed under heavy-tailed and Gaussian errors, and gold of all nulls.

    Args:
        runs: Any runs of this experiment.

    Returns:
        Three panels.
    """
    drawn, axes = paper_figure(1, 3, size=(10.0, 3.0))
    for axis, variant in zip(axes[0], ("hacking", "gaussian"), strict=False):
        mine = having(runs, variant=variant)
        for name, colour in (("proxy", PALETTE[1]), ("gold", PALETTE[0])):
            _curves(axis, mine, f"reward/{name}", colour, name)
        axis.set_title(f"{variant}, {len(mine)} seeds", loc="left", fontsize=9.5)
    last = axes[0, 2]
    shades = (PALETTE[0], PALETTE[2], PALETTE[3], PALETTE[4], GREY)
    for variant, colour in zip(VARIANTS, shades, strict=True):
        _curves(last, having(runs, variant=variant), "reward/gold", colour, variant, thin=False)
    last.set_title("gold, median over seeds", loc="left", fontsize=9.5)
    for axis in axes[0]:
        axis.set_xlabel("update")
        axis.set_ylabel("reward a text")
        if axis.get_lines():
            axis.legend(frameon=False, fontsize=7)
        else:
            axis.text(0.5, 0.5, "no runs", ha="center", transform=axis.transAxes, color=GREY)
    return drawn


def _curves(
    axis: Any, runs: Sequence[Run], name: str, colour: str, label: str, *, thin: bool = True
) -> None:
    """Every seed thin and clipped to what the median needs, the median thick."""
    series = [run.series(name) for run in runs if name in run.names()]
    for one in series if thin else ():
        axis.plot(one.step, one.value, color=colour, lw=0.5, alpha=0.35)
    if series:
        length = min(len(one.step) for one in series)
        median = np.median([one.value[:length] for one in series], axis=0)
        axis.plot(series[0].step[:length], median, color=colour, lw=1.8, label=label)
