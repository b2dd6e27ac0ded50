"""`Measuring`: what is due at a step, measured before and after its update."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor, nn

from foreshock.monitor import door
from foreshock.monitor.examples import Examples
from foreshock.monitor.micro import MicroBatches
from foreshock.monitor.promises import Promises
from foreshock.monitor.recorder import Recorder
from foreshock.monitor.schedule import Schedule
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView
from foreshock.types import Estimate


class Measuring:
    """Runs the observables that the schedule finds due, and records what they read.

    Args:
        view: Of the model.
        model: The model, whose passes are heard where an observable needs single examples.
        optimizer: The optimizer.
        probe: The data to measure on.
        schedule: When what is measured, and at which cost.
        promises: The observables, and what they may write.
        recorder: Takes the readings.
    """

    def __init__(
        self,
        view: ModelView,
        model: nn.Module,
        optimizer: Any,
        probe: Probe | None,
        schedule: Schedule,
        promises: Promises,
        recorder: Recorder,
    ) -> None:
        self._view, self._optimizer, self._probe = view, optimizer, probe
        self._schedule, self._promises, self._recorder = schedule, promises, recorder
        self._observables = promises.observables
        self._states: dict[str, Any] = {n: o.init() for n, o in self._observables.items()}
        needs = {need for o in self._observables.values() for need in o.needs}
        self._micro = MicroBatches(view) if "micro" in needs else None
        self._examples = Examples(view, model) if "examples" in needs else None
        self._before_due: list[str] = []
        self._after_due: list[str] = []
        self._old: list[Tensor] = []
        self._stale = False
        self._started = time.perf_counter()

    def plan(self, step: int) -> None:
        """Which observables are due at the step to come."""
        due = self._schedule.plan(step)
        if due or self._before_due or self._after_due:
            self._after_due = [n for n in due if "update" in self._observables[n].needs]
            self._before_due = [n for n in due if n not in self._after_due]
        if self._micro is not None:
            self._micro.arm(any("micro" in self._observables[n].needs for n in due))
        if self._examples is not None:
            self._examples.arm(any("examples" in self._observables[n].needs for n in due))

    def before(self, step: int, *, stale: bool) -> None:
        """Measure what is due before the update.

        Args:
            step: The step under way.
            stale: Whether the gradients that lie there are not those of this step.
        """
        self._stale = stale
        if self._before_due or self._after_due:
            self._measure(self._before_due, self._moment(step))
            if self._after_due:
                self._old = [p.clone() for p in self._view.parameters]

    def after(self, step: int) -> None:
        """Measure the update itself."""
        if self._old:
            new = self._view.parameters
            update = tuple(a - b for a, b in zip(new, self._old, strict=True))
            self._old = []
            self._measure(self._after_due, self._moment(step, update))

    def remove(self) -> None:
        """Take the hooks away that hear passes. Idempotent."""
        if self._micro is not None:
            self._micro.remove()
        if self._examples is not None:
            self._examples.remove()

    def _moment(self, step: int, update: tuple[Tensor, ...] | None = None) -> Moment:
        groups = self._optimizer.param_groups
        gradients = door.gradients(self._view, self._optimizer)
        if self._stale:
            gradients = tuple(None for _ in gradients)
        # Once a step: the moment after the update has no use for the passes before it.
        wanted = self._micro is not None and update is None
        micro = self._micro.take(gradients) if self._micro is not None and wanted else ()
        heard = self._examples if update is None else None
        return Moment(
            step=step,
            view=self._view,
            gradients=gradients,
            learning_rates=tuple(float(g["lr"]) for g in groups if "lr" in g) or (float("nan"),),
            optimizer=OptimizerView(self._optimizer, self._view),
            elapsed=time.perf_counter() - self._started,
            probe=self._probe,
            update=update,
            micro=micro,
            uneven=self._micro is not None and self._micro.uneven,
            local=self._micro.total if self._micro is not None and wanted else (),
            examples=heard.take(gradients) if heard is not None else None,
        )

    def _measure(self, names: list[str], moment: Moment) -> None:
        """Run the due observables; the one that fails is switched off and its siblings go on."""
        values: dict[str, Estimate] = {}
        trouble = moment.view.trouble
        for name in names:
            start = time.perf_counter()
            useful = False
            try:
                if trouble:
                    missing = Estimate.missing(trouble)
                    series = [s.name for s in self._observables[name].series if not s.array]
                    values.update(dict.fromkeys(series, missing))
                    continue
                state, readings = self._observables[name].update(self._states[name], moment)
                self._states[name] = state
                readings = self._promises.only(name, readings, self._recorder.say)
                values.update(readings.scalars)
                useful = any(math.isfinite(e.value) for e in readings.scalars.values())
                if readings.arrays:
                    self._recorder.hand_over()  # the store takes steps in order
                for series, array in readings.arrays.items():
                    self._recorder.run.append_array(moment.step, series, array)
            except Exception as error:
                self._schedule.switch_off(name)
                self._states.pop(name, None)
                self._recorder.failed("observable_off", name, error)
            finally:
                spent = time.perf_counter() - start
                self._schedule.charge(name, moment.step, spent, useful=useful)
        self._recorder.record(moment.step, values)
