"""What a rule believes of the run: fields of its state that hold only if its action was done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


def not_done(now: Any, before: Any) -> Any:
    """The state of a rule as it is if its last action was not carried out, or was undone.

    A rule on values remembers what it asked for, such as a standing factor on the learning rate,
    and wants nothing more once that is what it wants. The names of such fields are in ``BELIEVED``
    of the class of its state. Everything else stays: values were seen, and an event has been.

    Args:
        now: The state after the action was wanted.
        before: The state before it.

    Returns:
        The state; itself where it believes nothing.

    Examples:
        >>> from foreshock.policies.rate_rules import RateState
        >>> not_done(RateState(0.1, 7, 0.3), RateState(1.0, None, 0.8))
        RateState(factor=1.0, last=None, previous=0.3)
    """
    fields = getattr(type(now), "BELIEVED", ())
    return replace(now, **{name: getattr(before, name) for name in fields}) if fields else now
