"""When a network memorised and when it generalised, by fixed definitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: One sentence a milestone, written into the run with it.
RULES = {
    "memorised": "first evaluation with a training accuracy of at least 0.99",
    "onset": (
        "first of 3 consecutive evaluations whose 3-point median of the held-out accuracy has "
        "covered a tenth of the way from chance to 1"
    ),
    "T50": "first evaluation whose 3-point median of the held-out accuracy is half way to 1",
    "T90": "first evaluation whose 3-point median has covered nine tenths of the way to 1",
}


@dataclass(frozen=True)
class Milestones:
    """Steps of memorisation, onset, half way and nine tenths; ``None`` if not within the run.

    A run without an onset is censored, not negative, unless it was designed as a null.
    """

    memorised: int | None
    onset: int | None
    t50: int | None
    t90: int | None

    def items(self) -> Iterator[tuple[str, int]]:
        """Name and step of those that happened, in order of definition."""
        for name, step in zip(RULES, (self.memorised, self.onset, self.t50, self.t90), strict=True):
            if step is not None:
                yield name, step


def milestones(
    steps: ArrayLike,
    train_accuracy: ArrayLike,
    heldout_accuracy: ArrayLike,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Milestones:
    """Milestones of one run from its accuracies on a common grid of evaluations.

    The held-out accuracy is smoothed by a centred 3-point median (its ends as they are), so that
    one lucky evaluation is no event; the definition may look one evaluation ahead because it labels
    a finished run and is never used to raise an alarm.

    Args:
        steps: Steps of the evaluations, ``(n,)``, increasing.
        train_accuracy: ``(n,)``.
        heldout_accuracy: ``(n,)``.
        low: Chance level.
        high: Level of full generalisation.

    Returns:
        The milestones.

    Raises:
        ValueError: If the three do not have the same length.

    Examples:
        >>> m = milestones(range(6), [0.5, 1, 1, 1, 1, 1], [0, 0, 0.2, 0.3, 0.6, 0.95])
        >>> m.memorised, m.onset, m.t50, m.t90
        (1, 2, 4, 5)
    """
    at = np.asarray(steps, dtype=np.int64)
    train = np.asarray(train_accuracy, dtype=float)
    heldout = np.asarray(heldout_accuracy, dtype=float)
    if not len(at) == len(train) == len(heldout):
        raise ValueError(
            "`milestones` needs one accuracy of each kind a step. Got "
            f"{len(at)} steps, {len(train)} training and {len(heldout)} held-out accuracies."
        )
    covered = (_median3(heldout) - low) / (high - low)
    begun = covered >= 0.1
    lasting = begun.copy()
    lasting[:-1] &= begun[1:]
    lasting[:-2] &= begun[2:]
    lasting[-2:] = False  # three consecutive evaluations do not fit any more

    def first(mask: NDArray[np.bool_]) -> int | None:
        return int(at[mask.argmax()]) if mask.any() else None

    return Milestones(
        memorised=first(train >= 0.99),
        onset=first(lasting),
        t50=first(covered >= 0.5),
        t90=first(covered >= 0.9),
    )


def _median3(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred 3-point median; the two ends stay as they are."""
    if len(values) < 3:
        return values
    middle = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([values[:1], middle, values[-1:]])
