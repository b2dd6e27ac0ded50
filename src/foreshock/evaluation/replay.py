"""`replay`: run detectors over a recorded run, as they would have run live."""

from __future__ import annotations

from collections.abc import Iterable

from foreshock.detectors import ConformalAlarm, resolve, setup_digest
from foreshock.detectors.judge import Judge
from foreshock.store import Run
from foreshock.types import Alarm, Detector


def replay(run: Run, detectors: Iterable[str | Detector]) -> list[Alarm]:
    """Alarms that detectors raise on the values of a recorded run.

    The live monitor hands a step to its detectors once the step is complete; so does this, from
    the store, which keeps every bit of a value. The alarms are therefore the same.

    Args:
        run: A recorded run.
        detectors: Names or objects.

    Returns:
        The alarms in order.

    Examples:
        >>> import tempfile
        >>> run = Run.create(tempfile.mkdtemp() + "/run")
        >>> for t, p in enumerate([0.2, 0.4, 0.7]):
        ...     run.append(t, {"grad/p_published": p})
        >>> run.flush()
        >>> [alarm.step for alarm in replay(run, ["p_crosses_half"])]
        [2]
        >>> run.close()
    """
    judge = Judge([resolve(d) for d in detectors])
    present = [name for name in run.names() if name in judge.reads]
    if not present:
        return []
    rows = run.rows(names=present)
    return [alarm for step, values in rows for alarm in judge.feed(step, values)]


def caveats(run: Run, detectors: Iterable[Detector]) -> list[str]:
    """Why the calibration of a `ConformalAlarm` says less about this run than about its own.

    Args:
        run: A recorded run.
        detectors: Rules; others than `ConformalAlarm` are passed over.

    Returns:
        Sentences: another configuration, another unit, calibrated steps that were not logged.

    Examples:
        >>> import tempfile
        >>> from foreshock.detectors import Calibration
        >>> safe = Calibration(("x",), ("above",), (0, 10), ((0.0, 0.0),), ((1.0, 1.0),), 3.0, 0.05)
        >>> with Run.create(tempfile.mkdtemp() + "/run") as run:
        ...     for t in range(10):
        ...         run.append(t, {"x": 0.5})
        >>> with Run.open(run.path) as run:
        ...     caveats(run, [ConformalAlarm(safe)])
        ['conformal(x above) looked at 1 of its 2 calibrated steps: x was logged at 10 steps.']
    """
    told = []
    for rule in detectors:
        if not isinstance(rule, ConformalAlarm):
            continue
        safe = rule.calibration
        if safe.setup and setup_digest(run.info["config"]) != safe.setup:
            told.append(
                f"{rule.name} was calibrated on runs of another configuration: its false-alarm "
                "rate is not that of this run."
            )
        units = dict(zip(safe.series, safe.units, strict=False))
        for name in (name for name in safe.series if name in run.names()):
            unit, steps = run.describe(name).unit, set(run.series(name).step.tolist())
            if units.get(name, unit) != unit:
                told.append(f"{rule.name} knows {name} in {units[name]}, this run in {unit}.")
            seen = len(steps.intersection(safe.grid))
            if seen < len(safe.grid):
                told.append(
                    f"{rule.name} looked at {seen} of its {len(safe.grid)} calibrated steps: "
                    f"{name} was logged at {len(steps)} steps."
                )
    return told
