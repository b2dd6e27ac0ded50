"""`Council`: show complete steps to policies, live or in replay, with the same outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from foreshock.policies.belief import not_done
from foreshock.policies.guard import Guarded, GuardState, after_refusal
from foreshock.policies.triggers import Alarmed
from foreshock.types import Action, Alarm, Estimate, Policy

#: Steps after a refusal within which the same rule is not carried out or refused again.
AGAIN = 20


class Council:
    """Runs policies over steps in order. The monitor and ``foreshock replay`` both use it.

    Every policy sees every step at which anything was recorded, whole, with the alarms of that
    step: clocks need steps without values of theirs. Whoever carries actions out says which could
    not be (`refused`), before the next step; a rule that believes in what it asked for then wants
    it again, at the earliest `AGAIN` steps later, so that a lasting obstacle does not fill the run.

    Args:
        policies: Rules with distinct names.
        on_error: Called with a policy and its exception when it fails; it is then dropped. Without
            it the exception is raised.
        on_note: Called with a policy and a sentence on what its guard held back.

    Raises:
        ValueError: If two policies share a name.

    Examples:
        >>> from foreshock.policies import Every, WeightReset
        >>> council = Council([WeightReset(on=Every(10))])
        >>> [action.step for t in range(25) for action in council.feed(t, {}, [])]
        [10, 20]
    """

    def __init__(
        self,
        policies: Iterable[Policy],
        on_error: Callable[[Policy, Exception], None] | None = None,
        on_note: Callable[[Policy, str], None] | None = None,
    ) -> None:
        self.policies = list(policies)
        names = [p.name for p in self.policies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"Two policies are called {name!r}; give one of them another `name`."
                )
        self._states: dict[str, Any] = {p.name: p.init() for p in self.policies}
        self._before: dict[str, tuple[int, Any]] = {}
        self._again: dict[str, int] = {}
        self._on_error = on_error
        self._on_note = on_note

    @property
    def hears(self) -> dict[str, str]:
        """The detector whose alarms a policy waits for, by the policy's name."""
        found = {}
        for policy in self.policies:
            inner = policy.policy if isinstance(policy, Guarded) else policy
            on = getattr(inner, "on", None)
            if isinstance(on, Alarmed):
                found[policy.name] = on.detector
        return found

    @property
    def reads(self) -> frozenset[str]:
        """All series that some policy reads."""
        return frozenset(name for p in self.policies for name in p.reads)

    @property
    def watching(self) -> frozenset[str]:
        """Names of the policies whose last action may still be undone."""
        states = {p.name: self._states[p.name] for p in self.policies}
        return frozenset(
            name for name, s in states.items() if isinstance(s, GuardState) and s.watching
        )

    def feed(
        self, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> list[Action]:
        """All values and alarms of one step, complete; the actions wanted.

        Args:
            step: Optimizer step.
            values: What was recorded at it.
            alarms: What detectors raised on it.

        Returns:
            The actions, in the order of the policies.
        """
        wanted: list[Action] = []
        for policy in list(self.policies):
            try:
                before = self._states[policy.name]
                state, actions = policy.update(before, step, values, alarms)
                actions = [_checked(action, policy) for action in actions]
                if actions and step < self._again.get(policy.name, step):
                    if actions[0].kind != "rollback":
                        state, actions = after_refusal(state, before, actions[0].kind), []
            except Exception as error:
                if self._on_error is None:
                    raise
                self.policies.remove(policy)
                self._on_error(policy, error)
                continue
            self._states[policy.name] = state
            wanted += actions
            if actions:
                self._before[policy.name] = step, before
            if self._on_note is not None and isinstance(state, GuardState) and state.note:
                self._on_note(policy, state.note)
        return wanted

    def refused(self, action: Action) -> None:
        """An action could not be carried out, which its policy could not know.

        Args:
            action: As it was wanted at the last step that was fed.
        """
        name = action.policy
        if name not in self._before or self._before[name][0] != action.step:
            return
        _, before = self._before.pop(name)
        now = self._states[name]
        self._states[name] = after_refusal(now, before, action.kind)
        # A rule that believes would want the same at every step; an event comes when it comes.
        inner = now.inner if isinstance(now, GuardState) else now
        if action.kind != "rollback" and getattr(type(inner), "BELIEVED", ()):
            self._again[name] = action.step + AGAIN

    def resume(self, acted_for: Collection[str] | None = None) -> None:
        """Another part of a resumed run begins, in which what was refused may be tried again.

        Args:
            acted_for: If actions are carried out in it: the policies for which they were in the
                part before. The others now believe that nothing was done (a dry run) or seen.
        """
        self._again = {}
        if acted_for is None:
            return
        for policy in self.policies:
            if policy.name not in acted_for:
                now, first = self._states[policy.name], policy.init()
                if isinstance(now, GuardState):
                    now = replace(now, inner=not_done(now.inner, first.inner), reference=None)
                self._states[policy.name] = not_done(now, first)
                self._before.pop(policy.name, None)


def _checked(action: Any, policy: Policy) -> Action:
    """An action as it can be recorded; what a policy says of having carried it out is not heard."""
    if not isinstance(action, Action):
        raise TypeError(f"an action must be an `Action`, not {action!r}")
    if type(action.step) is not int or action.policy != policy.name:
        raise ValueError(
            f"an action must carry the step, an int, and the name {policy.name!r}: {action!r}"
        )
    words = (action.kind, action.reason, *action.arguments)
    numbers = action.arguments.values()
    if not all(isinstance(w, str) for w in words) or not all(
        isinstance(n, (int, float, str)) for n in numbers
    ):
        raise TypeError(f"the arguments of an action must be plain numbers or text: {action!r}")
    return replace(action, applied=False)
