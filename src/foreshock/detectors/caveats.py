"""Why a rule that was made from other runs says less about this one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from foreshock.detectors.calibration import setup_digest
from foreshock.detectors.conformal_alarm import ConformalAlarm
from foreshock.detectors.forecast_alarm import ForecastAlarm
from foreshock.store import Run
from foreshock.types import Alarm, Detector


def setup_caveats(run: Run, detectors: Iterable[Detector]) -> list[str]:
    """What a run says before its first step: that rules were made from runs unlike it.

    What is compared is the configuration (what ``Run.create(config=...)`` was given, but for the
    seed), the versions and the units. A run that `attach` makes itself knows of no batch size or
    data: such set-ups are told apart only by a ``config`` of yours.

    Args:
        run: A run.
        detectors: Rules; those that no other runs made are passed over.

    Returns:
        Sentences: another configuration, another unit, other versions, or a run that the rule was
        made from.

    Examples:
        >>> import tempfile
        >>> from foreshock.detectors import Calibration
        >>> safe = Calibration(("x",), ("above",), (0, 10), ((0.0, 0.0),), ((1.0, 1.0),), 3.0, 0.05,
        ...                    setup=setup_digest({"lr": 0.1}))
        >>> with Run.create(tempfile.mkdtemp() + "/run", config={"lr": 99.0}) as run:
        ...     setup_caveats(run, [ConformalAlarm(safe)])
        ['conformal(x above) was calibrated on runs of another configuration: its false-alarm rate \
is not that of this run.']
    """
    told = []
    for rule in detectors:
        if isinstance(rule, ConformalAlarm):
            made = rule.calibration
            runs, setups = (*made.located, *made.calibrated), (made.setup,)
            unlike = "was calibrated on runs of another configuration: its false-alarm rate is"
            units, versions = dict(zip(made.series, made.units, strict=False)), made.versions
        elif isinstance(rule, ForecastAlarm):
            fitted = rule.hazard
            runs, setups = fitted.runs, fitted.setups
            unlike = "was fitted on runs of other configurations: its probabilities are"
            units, versions = dict(zip(fitted.reads, fitted.units, strict=False)), fitted.versions
        else:
            continue
        if run.id in runs:
            told.append(f"{rule.name} was made from this very run: that is no test of it.")
        if any(setups) and setup_digest(run.info["config"]) not in setups:
            told.append(f"{rule.name} {unlike} not {_of(rule)} of this run.")
        other = _versions(versions, run)
        if other:
            told.append(f"{rule.name} was made with other versions: {other}.")
        for name in (name for name in units if name in run.names()):
            unit = run.describe(name).unit
            if units[name] != unit:
                told.append(f"{rule.name} knows {name} in {units[name]}, this run in {unit}.")
    return told


def caveats(run: Run, detectors: Sequence[Detector], alarms: Iterable[Alarm] = ()) -> list[str]:
    """`setup_caveats`, and what the rules did not see of the steps of a run.

    Args:
        run: A recorded run.
        detectors: Rules; those that no other runs made are passed over.
        alarms: What they said about it, to find forecasts that came after their event.

    Returns:
        Sentences: calibrated steps without a number, readings too rare for a forecaster, steps
        after its last, an alarm after its event.

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
    told = setup_caveats(run, detectors)
    made = [rule for rule in detectors if isinstance(rule, (ConformalAlarm, ForecastAlarm))]
    names = run.names() if made else []
    for rule in made:
        if isinstance(rule, ConformalAlarm):
            for name in (name for name in rule.reads if name in names):
                told += _unseen(run, rule, name)
        else:
            for name, apart in zip(rule.reads, rule.hazard.cadence, strict=False):
                if name in names and (comes := _cadence(run, name)) > 2 * apart:
                    told.append(
                        f"{rule.name} says nothing: {name} comes every {comes:g} steps, and it was "
                        f"fitted on one every {apart}."
                    )
            told += _late(run, rule, alarms)
    return told


def _of(rule: Detector) -> str:
    return "that" if isinstance(rule, ConformalAlarm) else "those"


def _versions(text: str, run: Run) -> str:
    """What differs between the versions of a rule and those of a run."""
    before, now = (json.loads(text) if text else {}), run.info.get("versions", {})
    return ", ".join(
        f"{name} {before[name]} and here {now[name]}"
        for name in sorted(before)
        if name in now and before[name] != now[name]
    )


def _unseen(run: Run, rule: ConformalAlarm, name: str) -> list[str]:
    """Calibrated steps at which there was no number."""
    found, grid = run.series(name), rule.calibration.grid
    known = found.step[~np.isnan(found.value)]
    seen, logged = len(np.intersect1d(known, grid)), len(np.intersect1d(found.step, grid))
    if seen == len(grid):
        return []
    why = f"{name} was logged at {len(found.step)} steps"
    why += f" and nan at {logged - seen} of the calibrated ones" if seen < logged else ""
    return [f"{rule.name} looked at {seen} of its {len(grid)} calibrated steps: {why}."]


def _cadence(run: Run, name: str) -> float:
    """Steps between finite readings, their median; 0 for fewer than three."""
    found = run.series(name)
    gaps = np.diff(found.step[np.isfinite(found.value)])
    return float(np.median(gaps)) if len(gaps) > 1 else 0.0


def _late(run: Run, rule: ForecastAlarm, alarms: Iterable[Alarm]) -> list[str]:
    """What was after the last step of the fit, and alarms after their event."""
    told, last = [], rule.hazard.until
    came = [e.step for e in run.events("milestone") if e.payload.get("name") == rule.hazard.event]
    # Runs as long as those of the fit go on for h: nobody could be asked there.
    if last and run.last_step > last + rule.hazard.within and not (came and came[0] <= last):
        told.append(
            f"{rule.name} was fitted at steps up to {last:,} and says nothing after; this run goes "
            f"to {run.last_step:,}."
        )
    said = [a.step for a in alarms if a.detector == rule.name]
    if came and any(step >= came[0] for step in said):
        told.append(
            f"{rule.name} alarmed at step {said[0]:,}, after its event at {came[0]:,}: no forecast."
        )
    return told
