"""Induction: the numbers its runs are held to, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foreshock.experiments.seeds import all_of, draw_spread, full_size, middle_within, spread
from foreshock.experiments.setup import Check, having, milestones_of, outcome
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The phenomenon, its nulls, and a warning.
VARIANTS = ("two_layers", "one_layer", "shuffled", "frozen", "fixed_period")
#: What must be as at full size for a run to say anything.
SIZE = ("steps", "batch", "heldout", "evaluate_every")


def check(runs: Sequence[Run]) -> list[Check]:
    """The numbers that induction is held to.

    Args:
        runs: Finished runs of any variants and seeds.

    Returns:
        Whether two layers learn and the nulls, as long as they, do not; when and how well, in a
        range around the reference. Runs that are unfinished or of another size are left out.
    """
    from foreshock.experiments.induction import Induction  # which imports this module

    given = {v: having(runs, variant=v) for v in VARIANTS}
    kept = {v: full_size(some, Induction(), SIZE) for v, some in given.items()}
    without = {v: len(given[v]) - len(kept[v]) for v in VARIANTS}

    def whether(name: str, expected: str, variant: str, event: str, *, there: bool) -> Check:
        answers = [(event in milestones_of(run)) is there for run in kept[variant]]
        return all_of(name, expected, answers, left_out=without[variant])

    position = (
        "T50 in every run of `fixed_period`: position is enough, so accuracy alone is no sign of "
        "induction"
    )
    checks = [
        whether(
            "two layers learn", "T90 in every run (Olsson 2022)", "two_layers", "T90", there=True
        ),
        whether("one layer does not", "T50 in no run", "one_layer", "T50", there=False),
        whether(
            "nothing to copy, nothing learnt",
            "T50 in no run of `shuffled`",
            "shuffled",
            "T50",
            there=False,
        ),
        whether("frozen", "T50 in no run of `frozen`", "frozen", "T50", there=False),
        whether("one layer, one period", position, "fixed_period", "T50", there=True),
    ]
    found = [outcome(run) for run in kept["two_layers"]]
    for level, steps in {"10": "50", "50": "100", "98": "550 to 700"}.items():
        values = [numbers["steps_to_" + level] for numbers in found]
        checks.append(
            Check(f"steps to {level} %", f"about {steps} (reference)", spread(values), None)
        )
    final = {v: [outcome(run)["accuracy"] for run in kept[v]] for v in VARIANTS}
    return [
        *checks,
        middle_within(
            "steps to 90 %",
            "about 250 (reference, within a factor of 1.5)",
            [numbers["steps_to_90"] for numbers in found],
            *(250 / 1.5, 250 * 1.5),
            0,
        ),
        middle_within(
            "final accuracy, two_layers", "0.98 (reference)", final["two_layers"], 0.97, 1.0, 3
        ),
        middle_within(
            "final accuracy, one_layer", "0.23 (reference)", final["one_layer"], 0.18, 0.28, 3
        ),
    ]


def figure(runs: Sequence[Run]) -> Figure:
    """Accuracy of the variants, and the two heads as they form.

    Args:
        runs: Finished runs of any variants and seeds.

    Returns:
        The figure: medians over seeds in the band from lowest to highest.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawing, axes = paper_figure(1, 2, size=(7.6, 3.0))
    left, right = axes[0].tolist()
    looks = {
        "two_layers": (PALETTE[0], "-"),
        "fixed_period": (PALETTE[4], "-."),
        "one_layer": (PALETTE[1], "--"),
        "shuffled": (GREY, "--"),
        "frozen": (GREY, ":"),
    }
    for variant, (colour, style) in looks.items():
        some = having(runs, variant=variant)
        label = f"{variant.replace('_', ' ')} (n = {len(some)})"
        draw_spread(left, some, "val_acc", colour, ls=style, label=label)
    left.set(ylabel="held-out accuracy, repeated tokens", ylim=(-0.03, 1.03))
    two = having(runs, variant="two_layers")
    draw_spread(right, two, "attention/previous", PALETTE[2], label="layer 1: the token before")
    draw_spread(right, two, "attention/induction", PALETTE[3], label="layer 2: the token to copy")
    right.set(ylabel="attention weight, best head", ylim=(-0.03, 1.03))
    for one in (left, right):
        one.set_xlabel("optimizer step")
        if one.lines:
            one.legend(frameon=False, fontsize=7.5, loc="best")
        else:
            one.text(0.5, 0.5, "no run", ha="center", transform=one.transAxes, color=GREY)
    left.set_title("Accuracy", loc="left", fontsize=9.5)
    right.set_title("Two layers: their heads", loc="left", fontsize=9.5)
    return drawing
