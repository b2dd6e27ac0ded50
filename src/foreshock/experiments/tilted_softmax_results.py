"""The tilted softmax: the numbers its runs are held to, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreshock.experiments.seeds import LEAST, all_of
from foreshock.experiments.setup import Check, having, milestones_of, outcome
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.store import Run, comparisons

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Laws of the error: the phenomenon and its null.
VARIANTS = ("student", "gaussian")


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether optimisers arrive at the sums, and which law of errors is over-optimised.

    Args:
        runs: Any runs of this experiment.

    Returns:
        The comparisons, the event by law, and where gold ends.
    """
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
    null = [not milestones_of(run) for run in having(runs, variant="gaussian")]
    found.append(all_of("gaussian is not over-optimised", "no table", null))
    hacked = [bool(milestones_of(run)) for run in having(runs, variant="student")]
    found.append(
        Check(
            "student is over-optimised",
            "in some tables: 15 of seeds 0 to 59",
            f"{sum(hacked)} of {len(hacked)}",
            any(hacked) if len(hacked) >= LEAST else None,
        )
    )
    ends = {v: [outcome(r)["gold"] for r in having(runs, variant=v)] for v in VARIANTS}
    told = ", ".join(f"{v} {np.mean(e):.2f} (n = {len(e)})" for v, e in ends.items() if e)
    holds = np.mean(ends["student"]) < np.mean(ends["gaussian"]) if all(ends.values()) else None
    expected = "gold ends higher with the Gaussian error at the same distance"
    found.append(
        Check(
            "gold at the end", expected, told or "no runs", None if holds is None else bool(holds)
        )
    )
    return found


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
            mine = having(runs, variant=variant)
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
        if runs:
            axis.legend(frameon=False, fontsize=7)
        else:
            axis.text(0.5, 0.5, "no runs", ha="center", transform=axis.transAxes, color=GREY)
    return drawn
