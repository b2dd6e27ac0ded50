"""The tilted softmax: the numbers its runs are held to, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreshock.experiments.seeds import LEAST, all_of, apart, full_size
from foreshock.experiments.setup import Check, having, milestones_of, outcome
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.stats.intervals import clopper_pearson
from foreshock.store import Run, comparisons

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Laws of the error: the phenomenon and its null.
VARIANTS = ("student", "gaussian")


#: What must be as at full size for a table to be counted.
SIZE = ("actions", "scale", "distance", "points")
#: Tables below which a share is not compared with a quarter: an interval of 40 leaves out 1 in 40.
MANY = 40
#: Gold of one table in the reference, at two roots of the divergence. Longer climbs than the
#: default serve for the second.
REFERENCE = {1.03: 0.12, 2.46: -0.28}


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether optimisers arrive at the sums, and which law of errors is over-optimised.

    Args:
        runs: Any runs of this experiment.

    Returns:
        The comparisons, the event by law, gold at the reference's distances and where it ends.
        Runs that are unfinished or of another size are left out of the counts.
    """
    from foreshock.experiments.tilted_softmax import TiltedSoftmax  # which imports this module

    exact, sampled = [], []
    for run in runs:
        for item in comparisons(run):
            (sampled if "sampled" in item.name else exact).append(item.agrees is True)
    agree = all_of("exact gradients", "agree with the sums over the actions", exact)
    agree = replace(agree, measured=agree.measured.replace(" runs", " comparisons"))
    hits, count = sum(sampled), len(sampled)
    # Intervals of 95 %: of many comparisons one in twenty may miss, and three of one run share
    # their samples. Nine tenths is what an honest interval keeps for certain.
    share = f"{hits} of {count}" if count else "no runs"
    found = [
        agree,
        Check(
            "sampled gradients",
            "95 % intervals hold the sums in nine tenths of the comparisons and more",
            share,
            hits >= 0.9 * count if count >= LEAST else None,
        ),
    ]
    given = {v: having(runs, variant=v) for v in VARIANTS}
    kept = {v: full_size(given[v], TiltedSoftmax(), SIZE) for v in VARIANTS}
    without = {v: len(given[v]) - len(kept[v]) for v in VARIANTS}
    null = [not milestones_of(run) for run in kept["gaussian"]]
    found.append(
        all_of("gaussian is not over-optimised", "no table", null, left_out=without["gaussian"])
    )
    hacked = [bool(milestones_of(run)) for run in kept["student"]]
    low, high = clopper_pearson(sum(hacked), len(hacked)) if hacked else (0.0, 1.0)
    told = f"{sum(hacked)} of {len(hacked)} (95 %: {low:.2f} to {high:.2f})"
    few = "" if len(hacked) >= MANY else f"; {MANY} are needed"
    found.append(
        Check(
            "student is over-optimised",
            "in some tables: an interval around the 15 of seeds 0 to 59, a quarter",
            told + few + apart(without["student"]),
            low <= 0.25 <= high if len(hacked) >= MANY else None,
        )
    )
    finished = [run for run in given["student"] if outcome(run)]
    found += [_beside(finished, distance, gold) for distance, gold in REFERENCE.items()]
    ends = {v: [outcome(r)["gold"] for r in kept[v]] for v in VARIANTS}
    told = ", ".join(f"{v} {np.mean(e):.2f} (n = {len(e)})" for v, e in ends.items() if e)
    enough = min(len(e) for e in ends.values()) >= LEAST
    holds = bool(np.mean(ends["student"]) < np.mean(ends["gaussian"])) if enough else None
    expected = "gold ends higher with the Gaussian error at the same distance"
    found.append(Check("gold at the end", expected, told or "no runs", holds))
    return found


def _beside(runs: Sequence[Run], distance: float, reference: float) -> Check:
    """Whether the gold of the reference's table is one that tables here have."""
    golds = []
    for run in runs:
        away = np.sqrt(np.maximum(run.series("reward/kl").value, 0))
        if away[-1] >= distance:
            golds.append(float(np.interp(distance, away, run.series("reward/gold").value)))
    name = f"gold at a distance of {distance}, student"
    expected = f"{reference} (reference, one table), within the middle 95 % of tables"
    if not golds:
        return Check(name, expected, f"no run climbs so far; set `distance` above {distance}", None)
    low, high = np.quantile(golds, [0.025, 0.975])
    told = f"mean {np.mean(golds):.2f}, {low:.2f} to {high:.2f} (n = {len(golds)})"
    holds = bool(low <= reference <= high) if len(golds) >= MANY else None
    return Check(name, expected, told, holds)


def figure(runs: Sequence[Run]) -> Figure:
    """Gold and proxy against the distance from the start, under both laws of errors.

    Args:
        runs: Any runs of this experiment.

    Returns:
        Two panels.
    """
    drawn, axes = paper_figure(1, 2, size=(7.4, 3.0))
    for axis, name in zip(axes[0], ("gold", "proxy"), strict=True):
        for variant, colour in zip(VARIANTS, (PALETTE[1], PALETTE[0]), strict=True):
            mine = [run for run in having(runs, variant=variant) if outcome(run)]
            away = [np.sqrt(np.maximum(run.series("reward/kl").value, 0)) for run in mine]
            curves = [run.series(f"reward/{name}").value for run in mine]
            for x, y in zip(away, curves, strict=True):
                axis.plot(x, y, color=colour, lw=0.5, alpha=0.4)
            if curves:
                grid = np.linspace(0, min(x[-1] for x in away), 60)
                common = [np.interp(grid, x, y) for x, y in zip(away, curves, strict=True)]
                label = f"{variant} errors, {len(mine)} tables"
                axis.plot(grid, np.median(common, axis=0), color=colour, lw=1.8, label=label)
        axis.set_title(f"{name}, thick: median", loc="left", fontsize=9.5)
        axis.set_xlabel("root of the KL divergence, √nats")
        axis.set_ylabel("expected reward")
        axis.axhline(0, color=GREY, lw=0.6)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=7)
        else:
            axis.text(0.5, 0.5, "no runs", ha="center", transform=axis.transAxes, color=GREY)
    return drawn
