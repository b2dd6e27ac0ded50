"""Addition: the numbers its runs are held to, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreshock.experiments.seeds import all_of, draw_spread, full_size, spread
from foreshock.experiments.setup import Check, having, outcome
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What is taken of the answers at every evaluation, and how many digits each has.
MEASURES = ("exact_match", "token_accuracy", "val_loss")
ANSWER = 4
#: Steps to 98 % exact match in the reference, by variant and size.
REFERENCE = {
    ("reversed", "large"): 250,
    ("reversed", "medium"): 750,
    ("reversed", "small"): 850,
    ("plain", "large"): 900,
}
#: What must be as at full size for a run to say anything.
FULL = ("horizon", "batch", "heldout", "evaluate_every")


def check(runs: Sequence[Run]) -> list[Check]:
    """The numbers that addition is held to.

    Args:
        runs: Finished runs of any variants, sizes and seeds.

    Returns:
        Whether exact match reaches 98 %, when, and that the nulls do not; and that one measure of
        the same answers rises abruptly where another does not. Runs that are unfinished or of
        another horizon are left out.
    """
    checks = []
    for (variant, size), steps in REFERENCE.items():
        given = having(runs, variant=variant, size=size)
        found = [outcome(run) for run in _full(given)]
        there = [numbers["steps_to_98"] for numbers in found]
        name = f"exact match, {variant}, {size}"
        held = all_of(
            name,
            "at least 98 % in every run",
            [step is not None for step in there],
            left_out=len(given) - len(found),
        )
        told = Check(
            f"steps to 98 %, {variant}, {size}", f"about {steps} (reference)", spread(there), None
        )
        checks += [held, told]
    for variant in ("labels", "frozen"):
        given = having(runs, variant=variant)
        best = [outcome(run)["best_exact_match"] for run in _full(given)]
        name, expected = f"null {variant}", "exact match below 5 % at every evaluation"
        low = [value < 0.05 for value in best]
        checks.append(all_of(name, expected, low, left_out=len(given) - len(best)))
    main = having(runs, variant="reversed", size="large")
    rises = [outcome(run) for run in _full(main)]
    for measure, title, abrupt in (
        ("exact_match_rise", "exact match", True),
        ("token_accuracy_rise", "share of right digits", False),
    ):
        values = [numbers[measure] for numbers in rises]
        # A rise that did not come to nine tenths has no number, which the spread says.
        there = [(value < 1) is abrupt for value in values if value is not None]
        told = "below 1, abrupt" if abrupt else "1 or above, not abrupt"
        held = all_of(
            f"(T90 - T10) / T50 of {title}",
            f"{told}, in every run that has it (Schaeffer 2023)",
            there,
            left_out=len(main) - len(rises),
        )
        if values:
            held = replace(held, measured=f"{held.measured}; {spread(values, 2)}")
        checks.append(held)
    return checks


def _full(runs: Sequence[Run]) -> list[Run]:
    from foreshock.experiments.addition import Addition  # which imports this module

    return full_size(runs, Addition(), FULL, of=("variant", "size"))


def figure(runs: Sequence[Run]) -> Figure:
    """Exact match of variants and sizes; three measures of the same runs; one over another.

    Args:
        runs: Finished runs of any variants, sizes and seeds.

    Returns:
        The figure: medians over seeds in the band from lowest to highest.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawing, axes = paper_figure(2, 2, size=(7.6, 5.6))
    left, middle, loss, right = axes.flatten().tolist()
    looks = {
        ("reversed", "large"): (PALETTE[0], "-"),
        ("reversed", "medium"): (PALETTE[5], "-"),
        ("reversed", "small"): (PALETTE[3], "-"),
        ("plain", "large"): (PALETTE[1], "--"),
        ("labels", "large"): (GREY, "--"),
        ("frozen", "large"): (GREY, ":"),
    }
    for (variant, size), (colour, style) in looks.items():
        some = having(runs, variant=variant, size=size)
        label = f"{variant}, {size} (n = {len(some)})"
        if some:
            draw_spread(left, some, "exact_match", colour, ls=style, label=label)
    left.set(ylabel="exact match, held-out pairs", ylim=(-0.03, 1.03))
    main = having(runs, variant="reversed", size="large")
    draw_spread(middle, main, "exact_match", PALETTE[0], label="exact match")
    draw_spread(middle, main, "token_accuracy", PALETTE[2], label="right digits")
    middle.set(ylabel="share of held-out answers, digits", ylim=(-0.03, 1.03))
    draw_spread(loss, main, "val_loss", PALETTE[4], label="loss")
    loss.set(ylabel="loss, nat a digit", ylim=(0, None))
    for run_ in main:
        if "exact_match" in run_.names():
            digit, exact = (run_.series(name).value for name in MEASURES[:2][::-1])
            right.plot(digit, exact, ".", ms=2.5, color=PALETTE[0], alpha=0.5)
    at = np.linspace(0, 1, 101)
    right.plot(at, at**ANSWER, color=GREY, ls="--", lw=1.2, label="fourth power")
    right.set(xlabel="share of right digits", ylabel="exact match", ylim=(-0.03, 1.03))
    titles = ("Exact match", "Two measures of one set of answers", "A third", "One over the other")
    for one, title in zip((left, middle, loss, right), titles, strict=True):
        one.set_title(title, loc="left", fontsize=9.5)
        if one is not right:
            one.set_xlabel("optimizer step")
        if one.lines:
            one.legend(frameon=False, fontsize=7.5, loc="best")
        else:
            one.text(0.5, 0.5, "no run", ha="center", transform=one.transAxes, color=GREY)
    return drawing
