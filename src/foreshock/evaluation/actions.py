"""`replay_actions`: what policies would have done in a recorded run; nothing is carried out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from foreshock.detectors import resolve as resolve_detector
from foreshock.detectors.judge import Judge
from foreshock.detectors.record import recorded_alarms
from foreshock.policies import Council, resolve
from foreshock.policies.record import (
    as_decided,
    policy_record,
    recorded_actions,
    recorded_parts,
    recorded_policies,
    was_refused,
)
from foreshock.store import Run
from foreshock.types import Action, Alarm, Detector, Policy


@dataclass(frozen=True)
class ActionCheck:
    """Whether a run's actions are those its policies decide on its values, asked again.

    Args:
        count: Actions that were compared.
        identical: Whether they are the recorded ones, up to what became of them.
        not_compared: Policies that cannot be built again, or that changed when the run was resumed.
    """

    count: int
    identical: bool
    not_compared: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A sentence for a person."""
        verdict = "identical to the recorded ones" if self.identical else "NOT the recorded ones"
        said = f"{self.count} action{'' if self.count == 1 else 's'}, {verdict}."
        rest = ", ".join(self.not_compared)
        return f"{said} Not compared: {rest}." if rest else said


def check_actions(run: Run) -> ActionCheck | None:
    """Ask the policies that were attached to a run again, and compare with what is on record.

    Args:
        run: A recorded run.

    Returns:
        The outcome, or None where no policy was attached.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/run") as run:
        ...     check_actions(run) is None
        True
    """
    events = run.events("policies")
    if not events:
        return None
    # By name, the records of it in all parts of a resumed run.
    held: dict[str, list[object]] = defaultdict(list)
    for event in events:
        for record in event.payload["policies"]:
            held[record["name"]].append(record)
    policies = [
        p
        for p in recorded_policies(events)
        if len(held[p.name]) == len(events)
        and all(record == policy_record(p) for record in held[p.name])
    ]
    names = {policy.name for policy in policies}
    online = [as_decided(a) for a in recorded_actions(run.events("action")) if a.policy in names]
    again = replay_actions(run, policies)
    identical = _in_order(online) == _in_order(again)
    return ActionCheck(len(again), identical, tuple(sorted(set(held) - names)))


def _in_order(actions: Iterable[Action]) -> list[Action]:
    return sorted(actions, key=lambda a: (a.step, a.policy, a.kind))


def replay_actions(
    run: Run,
    policies: Iterable[str | Policy],
    detectors: Iterable[str | Detector] | None = None,
) -> list[Action]:
    """Actions that policies want on the values and alarms of a recorded run.

    They are those of a live dry run. Had they been carried out, the run would have been another one
    from the first of them on: what comes after it is what the policy wants in a world it did not
    touch. Where the run was not dry, an action that is on record as refused is refused again.

    Args:
        run: A recorded run.
        policies: Names or objects.
        detectors: Whose alarms they hear, run again on the recorded values; without it, the alarms
            that are on record.

    Returns:
        The actions in order, none of them applied.

    Examples:
        >>> import tempfile
        >>> run = Run.create(tempfile.mkdtemp() + "/run")
        >>> for t in range(14):
        ...     run.append(t, {"published/c_wrapper_fp": 0.1})
        >>> run.flush()
        >>> [action.step for action in replay_actions(run, ["published_weight_reset"])]
        [11, 12, 13]
        >>> run.close()
    """
    council = Council([resolve(policy) for policy in policies])
    judge = None
    if detectors is not None:
        judge = Judge([resolve_detector(d) for d in detectors], heard=[(0, council.hears.values())])
    heard: dict[int, list[Alarm]] = defaultdict(list)
    if judge is None:
        for alarm in recorded_alarms(run.events("alarm")):
            heard[alarm.step].append(alarm)
    refused = {
        (a.step, a.policy, a.kind) for a in recorded_actions(run.events("action")) if was_refused(a)
    }
    parts = recorded_parts(run.events("policies"))
    wanted: list[Action] = []
    for step, values in run.rows():
        while parts and step >= parts[0][0]:
            council.resume(parts.pop(0)[1])
        alarms = heard[step] if judge is None else judge.feed(step, values)
        found = council.feed(step, values, alarms)
        for action in found:
            if (action.step, action.policy, action.kind) in refused:
                council.refused(action)
        wanted += found
    return wanted
