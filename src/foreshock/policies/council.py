"""`Council`: show complete steps to policies, live or in replay, with the same outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from foreshock.types import Action, Alarm, Estimate, Policy


class Council:
    """Runs policies over steps in order. The monitor and ``foreshock replay`` both use it.

    Every policy sees every step at which anything was recorded, whole, with the alarms of that
    step: clocks need steps without values of theirs.

    Args:
        policies: Rules with distinct names.
        on_error: Called with a policy and its exception when it fails; it is then dropped. Without
            it the exception is raised.

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
    ) -> None:
        self.policies = list(policies)
        names = [p.name for p in self.policies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"Two policies are called {name!r}; give one of them another `name`."
                )
        self._states: dict[str, Any] = {p.name: p.init() for p in self.policies}
        self._on_error = on_error

    @property
    def reads(self) -> frozenset[str]:
        """All series that some policy reads."""
        return frozenset(name for p in self.policies for name in p.reads)

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
                state, actions = policy.update(self._states[policy.name], step, values, alarms)
                actions = list(actions)
            except Exception as error:
                if self._on_error is None:
                    raise
                self.policies.remove(policy)
                self._on_error(policy, error)
                continue
            self._states[policy.name] = state
            wanted += actions
        return wanted
