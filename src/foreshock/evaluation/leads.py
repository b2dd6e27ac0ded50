"""How an alarm stands to the event: warning, detection, late, or false."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["warning", "early", "detection", "late", "false"]


@dataclass(frozen=True)
class Lead:
    """An alarm against the onset of its run.

    Args:
        kind: ``"warning"`` within the hit window before the onset; ``"early"`` before the window
            (counted as a false alarm: an alarm at step 0 would otherwise always win);
            ``"detection"`` between just before the onset and half way; ``"late"`` after;
            ``"false"`` in a run without an onset.
        steps: Onset minus alarm; ``None`` without an onset.
        log_ratio: log(onset/alarm); ``None`` without an onset or for an alarm at step 0.
    """

    kind: Kind
    steps: int | None
    log_ratio: float | None


def lead(alarm: int, onset: int | None, t50: int | None, *, every: int) -> Lead:
    """Judge one alarm.

    The hit window is [onset/4, onset − max(2·every, onset/50)]: it opens early because the best
    rules are early, and closes before the onset because the grid of evaluations cannot tell closer.

    Args:
        alarm: Step of the alarm.
        onset: Onset of generalisation, if it happened.
        t50: Half way, if it happened.
        every: Distance of evaluations, in steps.

    Returns:
        What kind of alarm it was, and by how much.

    Examples:
        >>> lead(380, 600, 750, every=10).kind, lead(380, 600, 750, every=10).steps
        ('warning', 220)
        >>> lead(100, 600, 750, every=10).kind, lead(100, None, None, every=10).kind
        ('early', 'false')
    """
    if onset is None:
        return Lead("false", None, None)
    ahead = onset - alarm
    ratio = math.log(onset / alarm) if alarm > 0 and onset > 0 else None
    if alarm < onset / 4:
        return Lead("early", ahead, ratio)
    if ahead >= max(2 * every, onset / 50):
        return Lead("warning", ahead, ratio)
    kind: Kind = "detection" if t50 is None or alarm <= t50 else "late"
    return Lead(kind, ahead, ratio)
