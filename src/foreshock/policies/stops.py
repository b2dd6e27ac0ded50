"""Stopping: the published mechanistic rule, a stop on any trigger, and a pause for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from foreshock.policies.rate_rules import at_least
from foreshock.policies.resets import act
from foreshock.policies.triggers import Cause, Trigger, as_trigger, trusted
from foreshock.stats.published import early_stop_signal
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class StopState:
    """The last values of p, C and I at measurements, and whether it has fired.

    I is None where it was not there: json has no nan.
    """

    BELIEVED: ClassVar[tuple[str, ...]] = ("fired",)

    p: tuple[float, ...] = ()
    c: tuple[float, ...] = ()
    i: float | None = None
    fired: bool = False


@dataclass(frozen=True)
class PublishedEarlyStop:
    """Stop if p < .45 throughout the window, or C fell without a rise in it, or I < 0.

    As published (``should_stop_early``), tried in this order once there are ``window`` evaluations.
    An evaluation is a step at which p and C can be trusted. Without an I at that step the third
    rule is silent. It fires once.

    With what is wrong with it: small batches keep p < .45 in runs that learn, so the first rule
    stops them after ``window`` evaluations; the third never fires with the shipped placeholders
    (``published/i_placeholder_signal``) and always with the measured S (``published/i_signal``).

    Args:
        p: Series of p.
        c: Series of C.
        i: Series of I.
        window: Evaluations, at least 2.
        name: Name of the policy.

    References:
        The document "signal", section 11.4.

    Examples:
        >>> policy = PublishedEarlyStop(window=3)
        >>> state, wanted = policy.init(), []
        >>> for t in range(5):
        ...     low = {"published/p_signal": Estimate(0.3), "published/c_signal": Estimate(0.4)}
        ...     state, actions = policy.update(state, t, low, [])
        ...     wanted += [(a.step, a.kind) for a in actions]
        >>> wanted
        [(2, 'stop')]
    """

    p: str = "published/p_signal"
    c: str = "published/c_signal"
    i: str = "published/i_placeholder_signal"
    window: int = 10
    name: str = "published_early_stop"

    def __post_init__(self) -> None:
        at_least("PublishedEarlyStop", "window", self.window, 2)

    @property
    def reads(self) -> tuple[str, ...]:
        """p, C and I."""
        return tuple(dict.fromkeys((self.p, self.c, self.i)))

    @property
    def optional(self) -> tuple[str, ...]:
        """I: without it the third rule is silent and the others speak."""
        return tuple({self.i} - {self.p, self.c})

    def init(self) -> StopState:
        """No evaluation."""
        return StopState()

    def update(
        self,
        state: StopState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[StopState, tuple[Action, ...]]:
        """Take one evaluation."""
        p, c = trusted(values, self.p), trusted(values, self.c)
        if p is None or c is None or state.fired:
            return state, ()
        i = trusted(values, self.i)
        state = StopState((*state.p, p)[-self.window :], (*state.c, c)[-self.window :], i)
        silent = 0.0 if i is None else i
        stop, rule = early_stop_signal(state.p, state.c, [silent], self.window)
        if not stop:
            return state, ()
        worst, first, last = max(state.p), state.c[0], state.c[-1]
        many = f"in {self.window} evaluations"
        cause = {
            "p": Cause(self.p, worst, 0.45, f"{self.p} is at most {worst:.4g} {many}, below 0.45."),
            "c": Cause(
                self.c, last, first, f"{self.c} fell from {first:.4g} to {last:.4g} {many}."
            ),
            "i": Cause(self.i, silent, 0.0, f"{self.i} is {silent:.4g}, below 0."),
        }[rule]
        return replace(state, fired=True), (act(step, self.name, "stop", {}, "Stop", cause),)


@dataclass(frozen=True)
class Stop:
    """Stop when a trigger fires: sets ``watch.should_stop``, which the loop has to look at.

    Nothing is raised into the loop. The state "failing" of the document "signal", p < .40, whose
    advice is to stop, is ``Stop(on=PublishedBelow("published/p_signal", 0.40))``.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger.
        name: Name of the policy.

    Examples:
        >>> alarm = Alarm(7, "turnover", "val_loss", 2.0, 2.5, "It fell.")
        >>> policy = Stop(on="turnover")
        >>> policy.update(policy.init(), 7, {}, [alarm])[1][0].kind
        'stop'
    """

    on: str | Trigger
    name: str = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "Stop"))

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "Stop").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "Stop").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        state, cause = as_trigger(self.on, "Stop").update(state, step, values, alarms)
        if cause is None:
            return state, ()
        return state, (act(step, self.name, "stop", {}, "Stop", cause),)


@dataclass(frozen=True)
class Pause:
    """Ask a person: calls the function given for it between two updates, and waits for its return.

    The function is given to what carries actions out and not to the policy, which is a value that
    is recorded and replayed. It gets the `Action`; whether to go on is for it to say.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger.
        name: Name of the policy.

    Examples:
        >>> alarm = Alarm(7, "over_optimisation", "reward/gold", 2.0, 2.5, "It fell.")
        >>> policy = Pause(on="over_optimisation")
        >>> policy.update(policy.init(), 7, {}, [alarm])[1][0].reason
        'Pause for a person: over_optimisation raised an alarm: It fell.'
    """

    on: str | Trigger
    name: str = "pause"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "Pause"))

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "Pause").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "Pause").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        state, cause = as_trigger(self.on, "Pause").update(state, step, values, alarms)
        if cause is None:
            return state, ()
        return state, (act(step, self.name, "pause", {}, "Pause for a person", cause),)
