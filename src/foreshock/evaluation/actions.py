"""`replay_actions`: what policies would have done in a recorded run; nothing is carried out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from foreshock.detectors import resolve as resolve_detector
from foreshock.detectors.judge import Judge
from foreshock.detectors.record import recorded_alarms
from foreshock.policies import Council, resolve
from foreshock.store import Run
from foreshock.types import Action, Alarm, Detector, Policy


def replay_actions(
    run: Run,
    policies: Iterable[str | Policy],
    detectors: Iterable[str | Detector] | None = None,
) -> list[Action]:
    """Actions that policies want on the values and alarms of a recorded run.

    They are those of a live dry run. Had they been carried out, the run would have been another one
    from the first of them on: what comes after it is what the policy wants in a world it did not
    touch.

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
    judge = None if detectors is None else Judge([resolve_detector(d) for d in detectors])
    heard: dict[int, list[Alarm]] = defaultdict(list)
    if judge is None:
        for alarm in recorded_alarms(run.events("alarm")):
            heard[alarm.step].append(alarm)
    wanted: list[Action] = []
    for step, values in run.rows():
        alarms = heard[step] if judge is None else judge.feed(step, values)
        wanted += council.feed(step, values, alarms)
    return wanted
