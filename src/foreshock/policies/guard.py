"""`Guarded`: spacing, a limit, no action on a flagged estimate, and a way back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from foreshock.policies.belief import not_done
from foreshock.policies.triggers import trusted
from foreshock.types import Action, Alarm, Estimate, Policy


@dataclass(frozen=True)
class Rollback:
    """Undo an action if a guard series worsens beyond a factor soon after it.

    The reference is the median of the last ``window`` values up to the decision; before there are
    as many, nothing is done. The action is carried out after the next update, so values count from
    two steps after the decision on. A new action begins a new watch, and the way back is one action
    long. It is
    worse when the median of the last ``recent`` of them exceeds reference + (factor - 1)
    abs(reference): for a positive series, factor times the reference. A guard that is itself no
    longer finite (a loss of nan; not an estimate that was refused) is worse than any number: this
    is the one place where nan leads to something, and what it leads to is an undoing.

    A series that is logged seldom has few values within ``within`` steps. The watch therefore goes
    on until ``recent`` values have come, up to `LONGEST` times ``within`` steps; if it ends with
    fewer, nothing was judged, and the run says so.

    A factor on the learning rate, an advised batch and a wish to stop are what they were before the
    action, in the loop and in the rule, which may want it again. What it cannot restore: the
    *schedule* of the learning rate, which went on, a gradient scaler, averaged copies of the
    weights, attributes of modules, and state that an optimizer keeps in its param_groups
    (schedule-free ones, Prodigy). It is refused, with a sentence, where something else than the
    optimizer wrote the weights in between, such as a checkpoint that was loaded.

    What a factor of 1.5 means depends on the noise of the series: measure it on a run without
    actions, or guard with a held-out loss.

    Args:
        series: Guard series, of which less is better.
        factor: How much worse, greater than 1.
        within: Steps after the decision in which it is looked at, at least 2. It must outlast what
            the action begins: ``Guarded`` refuses fewer than its steps + 1 + ``recent``.
        window: Values that make the reference, at least 1.
        recent: Values whose median is compared, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    series: str = "loss"
    factor: float = 1.5
    within: int = 50
    window: int = 10
    recent: int = 3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 1):
            raise ValueError(f"The `factor` of `Rollback` must exceed 1. Got {self.factor}.")
        for name, least in (("within", 2), ("window", 1), ("recent", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"The `{name}` of `Rollback` must be at least {least}. "
                    f"Got {getattr(self, name)}."
                )


#: How many times its `within` a watch may last while too few values of its series came.
LONGEST = 10


@dataclass(frozen=True)
class GuardState:
    """What the wrapped policy remembers, the last action, the count, and the watch on the guard.

    ``note`` is a sentence on this step: what was held back and why, or that a watch judged nothing.
    ``undone`` is what the policy remembered before the last action.
    """

    inner: Any
    last: int | None = None
    count: int = 0
    history: tuple[float, ...] = ()
    reference: float | None = None
    since: tuple[float, ...] = ()
    note: str = ""
    undone: Any = None

    @property
    def watching(self) -> bool:
        """Whether the last action may still be undone."""
        return self.reference is not None


@dataclass(frozen=True)
class Guarded:
    """A policy with a refractory period, a limit, no action on a flagged estimate, and a way back.

    An action that the guard holds back is gone, not postponed: a trigger has fired; each reason is
    noted once in the run. A rule on a standing level (rates, batches, `PublishedEarlyStop`) knows
    that it was not done, and wants it again while its values do. The refractory period counts from
    the last action that passed and from a rollback; actions of one step pass or fall together and
    count once, against ``most`` also when they were undone, not when they could not be carried out.
    An action is held back as well if any series that the policy reads is flagged or not finite at
    that step, whatever the policy itself makes of it.

    Of two policies with a rollback only one is carried out at a time: while the guard of one
    watches, an action of another is refused and recorded with a sentence, since what is seen in the
    series could not be told to be the one's or the other's.

    It has the name of what it wraps, since it is the same policy, held.

    Args:
        policy: What to hold; not a `Guarded` again.
        refractory: Least steps between two actions, at least 1.
        most: Most actions in a run, at least 1.
        rollback: When to undo; never if it is None.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> from foreshock.policies import PublishedWeightReset
        >>> policy, acted = Guarded(PublishedWeightReset(), refractory=100), []
        >>> state = policy.init()
        >>> for t in range(300):
        ...     low = {"published/c_wrapper_fp": Estimate(0.1)}
        ...     state, actions = policy.update(state, t, low, [])
        ...     acted += [a.step for a in actions]
        >>> acted
        [11, 111, 211]
    """

    policy: Policy
    refractory: int = 100
    most: int = 10
    rollback: Rollback | None = None

    def __post_init__(self) -> None:
        if isinstance(self.policy, type) or not isinstance(self.policy, Policy):
            raise ValueError(
                "The `policy` of `Guarded` needs name, reads, init and update. "
                f"Got {self.policy!r}."
            )
        if isinstance(self.policy, Guarded):
            raise ValueError(
                "The `policy` of `Guarded` is guarded already. Give one `Guarded` all arguments."
            )
        for name in ("refractory", "most"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"The `{name}` of `Guarded` must be at least 1. Got {getattr(self, name)}."
                )
        if self.rollback is not None and not isinstance(self.rollback, Rollback):
            raise ValueError(
                f"The `rollback` of `Guarded` must be a `Rollback` or None. Got {self.rollback!r}."
            )
        lasts = getattr(self.policy, "lasts", 0)
        if self.rollback is not None and lasts:
            least = lasts + 1 + self.rollback.recent
            if self.rollback.within < least:
                raise ValueError(
                    f"The `within` of `Rollback` must be at least {least}: {self.policy.name!r} "
                    f"lasts {lasts} updates. Got {self.rollback.within}."
                )

    @property
    def name(self) -> str:
        """The name of what it wraps."""
        return self.policy.name

    @property
    def reads(self) -> tuple[str, ...]:
        """What the policy reads, and the guard series."""
        extra = () if self.rollback is None else (self.rollback.series,)
        return tuple(dict.fromkeys((*self.policy.reads, *extra)))

    @property
    def optional(self) -> tuple[str, ...]:
        """What the policy can do without and the guard does not need."""
        spare = getattr(self.policy, "optional", ())
        guard = "" if self.rollback is None else self.rollback.series
        return tuple(name for name in spare if name != guard)

    def init(self) -> GuardState:
        """Nothing done."""
        return GuardState(self.policy.init())

    def update(
        self,
        state: GuardState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[GuardState, tuple[Action, ...]]:
        """Look at the guard, then ask the policy."""
        was = state.inner
        inner, wanted = self.policy.update(was, step, values, alarms)
        gone = not_done(inner, was)  # as it is if what it wants now is not done
        state = replace(state, inner=inner, note="")
        undo = None
        if self.rollback is not None:
            state, undo = self._look(self.rollback, state, step, values)
        if undo is not None:
            inner = not_done(gone, state.undone)
            # Values of the bad stretch are no reference for the next action.
            state = replace(state, inner=inner, last=step, history=(), reference=None, since=())
            return state, (undo,)
        if not wanted:
            return state, ()
        why = self._why_held(state, step, values)
        if why:
            note = f"An action of {self.name} was held back: {why}."
            return replace(state, inner=gone, note=f"{state.note} {note}".strip()), ()
        reference = median(state.history) if state.history else None
        state = replace(state, last=step, count=state.count + 1, undone=was)
        return replace(state, reference=reference, since=()), tuple(wanted)

    def _why_held(self, state: GuardState, step: int, values: Mapping[str, Estimate]) -> str:
        """Why nothing may be done at this step; empty if it may. The same words each time."""
        if state.last is not None and step - state.last < self.refractory:
            return f"the last one, or a rollback, is fewer than {self.refractory} steps ago"
        if state.count >= self.most:
            return f"there were {self.most} already"
        if self.rollback is not None and len(state.history) < self.rollback.window:
            return (
                f"fewer than {self.rollback.window} values of {self.rollback.series} came since "
                "the start or the last rollback, so there is no reference to judge it by"
            )
        for name in self.policy.reads:
            if name in values and trusted(values, name) is None:
                return f"{name} is flagged or not finite"
        return ""

    def _look(
        self, guard: Rollback, state: GuardState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[GuardState, Action | None]:
        """Take a value of the guard series; the undoing if it has become worse."""
        last = -math.inf if state.last is None else state.last
        judged = len(state.since) >= guard.recent
        end = last + guard.within * (1 if judged else LONGEST)
        if state.reference is not None and step > end:
            if not judged:
                note = (
                    f"The watch on {guard.series} after the action of {self.name} at step "
                    f"{state.last} ended with {len(state.since)} values of {guard.recent}: nothing "
                    "was judged."
                )
                state = replace(state, note=note)
            state = replace(state, reference=None, since=())
        x = trusted(values, guard.series)
        if x is None:
            estimate = values.get(guard.series)
            if estimate is None or math.isfinite(estimate.value):
                return state, None
            # The quantity itself is nan or infinite; an estimator that refused says another reason.
            if estimate.reason != Estimate.exact(estimate.value).reason:
                return state, None
            x = math.inf
        else:
            state = replace(state, history=(*state.history, x)[-guard.window :])
        # The action takes place after update last + 1, whose own loss is still that of before.
        reference = state.reference
        if reference is None or step < last + 2:
            return state, None
        since = (*state.since, x)[-guard.recent :]
        state = replace(state, since=since)
        limit = reference + (guard.factor - 1) * abs(reference)
        if x != math.inf and (len(since) < guard.recent or median(since) <= limit):
            return state, None
        found = "is no longer finite" if x == math.inf else f"rose to {median(since):.4g}"
        reason = (
            f"{guard.series} {found}, against a median of {reference:.4g} before the action of "
            f"step {state.last} and a limit of {limit:.4g}: it is to be undone."
        )
        value = x if x == math.inf else median(since)
        numbers = {"undoes": float(last), "value": value, "threshold": limit}
        return state, Action(step, self.name, "rollback", numbers, reason)


def after_refusal(now: Any, before: Any, kind: str) -> Any:
    """The state of a policy whose action could not be carried out.

    Args:
        now: The state after the action was wanted.
        before: The state before it.
        kind: Of the action. A rollback that was refused is not tried again: what it would have
            undone stands.

    Returns:
        The state: what the rule believes as it was before, and in `Guarded` the count, the spacing
        and the watch as well.
    """
    if not isinstance(now, GuardState):
        return not_done(now, before)
    inner = not_done(now.inner, before.inner)
    if kind == "rollback":
        return replace(now, inner=inner)
    return replace(before, inner=inner, history=now.history, note=now.note)
