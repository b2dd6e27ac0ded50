"""`Watch`: the hooks on one optimizer, and what a user sees of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import scipy.special  # noqa: F401  # quantiles need it; better loaded at attach than in the loop
import torch
from torch import Tensor, nn

from foreshock.detectors import resolve
from foreshock.monitor import door
from foreshock.monitor.acting import Actor
from foreshock.monitor.measuring import Measuring
from foreshock.monitor.presets import choose
from foreshock.monitor.promises import Promises
from foreshock.monitor.recorder import Recorder
from foreshock.monitor.schedule import Budget, Every, Schedule
from foreshock.policies.apply import Applier
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, check_probe
from foreshock.store import Run
from foreshock.types import (
    Action,
    Alarm,
    Detector,
    Estimate,
    Observable,
    OnAlarm,
    Policy,
    Sink,
)

log = logging.getLogger("foreshock")


class Watch:
    """A live training run being watched; made by `foreshock.attach`.

    Steps count from 0, or continue a resumed run: step t is the t-th update, and what is measured
    in its hooks carries t. Weights and gradients are those before the update, so ``grad/norm`` at t
    belongs to the loss at t.

    Attributes:
        run: Where everything is recorded.
        step: The step under way: how many updates were made.
        schedule: What was measured when, and what it cost.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        run: str | Path | Run,
        probe: Probe | None,
        observables: str | Iterable[str | Observable],
        budget: float | None,
        every: int | Mapping[str, int] | None,
        detectors: Iterable[str | Detector],
        policies: str | Policy | Iterable[str | Policy],
        dry_run: bool,
        sinks: Sequence[Sink],
        on_alarm: OnAlarm | None,
        on_pause: Callable[[Action], object] | None,
    ) -> None:
        door.check_schedule(budget, every)
        door.check_listeners(sinks, on_alarm)
        rules = door.check_names([resolve(d) for d in detectors])
        held = door.check_policies(policies, rules, dry_run)
        self._view = ModelView(model)
        door.check_optimizer(self._view, optimizer)
        applier = None if dry_run else Applier(model, optimizer, on_pause=on_pause)
        if applier is not None:
            applier.check(held)
        choice = choose(observables, probe)
        door.check_ranks(choice.observables, every)
        door.check_parts(choice.observables, self._view)
        if probe is not None:
            check_probe(self._view, probe, model)
        door.check_latents(choice.observables, self._view, probe)
        self.schedule: Schedule = (
            Every(choice.observables, every)
            if every is not None
            else Budget(choice.observables, 0.03 if budget is None else budget)
        )
        if isinstance(run, Run):
            self.run = run
            if run.mode == "r":
                raise ValueError(
                    "The `run` given to `attach` is open for reading. Use Run.open(path, 'a')."
                )
        else:
            about = door.describe(model, optimizer, choice.observables, budget, every)
            self.run = Run.create(run, config=about)
        try:
            self._promises = Promises(choice, probe, self._view, self.run)
            # The user's own seed, which is only looked at: other seeds give other draws.
            seed = torch.initial_seed()
            self._recorder = Recorder(
                self.run, rules, held, sinks, on_alarm, dry_run=dry_run, seed=seed
            )
        except BaseException:
            if self.run is not run:  # it was opened here, so nobody else can close it
                self.run.close()
            raise
        self._actor: Actor | None = None
        if applier is not None:
            self._actor = Actor(applier, self._recorder)
        self.step = self._recorder.step
        self._logged_before: set[str] = set()
        self._closed = False
        self._inside = False
        self._leaving = False
        self._mark: float | None = None
        self._in_hooks = 0.0
        self._measuring = Measuring(
            self._view, model, optimizer, probe, self.schedule, self._promises, self._recorder
        )
        self._measuring.plan(self.step)
        before, after = self._before, self._after
        if "torch._dynamo" in sys.modules:
            # `optimizer.step` may be compiled: the hooks are to be called, not traced. Where nobody
            # has compiled anything yet, importing dynamo for it would take a second.
            before, after = torch.compiler.disable(before), torch.compiler.disable(after)
        self._handles = [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]

    # ---------------------------------------------------------------- what the user calls

    @property
    def alarms(self) -> list[Alarm]:
        """Alarms raised since attach."""
        return self._recorder.alarms

    @property
    def actions(self) -> list[Action]:
        """What policies wanted since attach, with ``applied`` and why not."""
        return self._recorder.actions

    @property
    def should_stop(self) -> bool:
        """Whether a policy wants the training stopped; never under ``dry_run``. Yours to obey."""
        return self._actor is not None and self._actor.wishes.should_stop

    @property
    def advised_batch(self) -> float | None:
        """The batch size that a policy advised last, if any did and this is no dry run."""
        return (self._actor.wishes.batch or None) if self._actor is not None else None

    def log(
        self, values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any
    ) -> None:
        """Record numbers of your own beside what is measured. Never raises.

        Called after ``optimizer.step()`` the values carry the step just made. A name that is first
        logged before any step was made always carries the step about to be made, so a loop may log
        on either side of the step. ``None`` is skipped; what is not one number is skipped and said
        once, as is a second value of a name in one step.

        Args:
            values: Name to number, for names that are no identifiers (``{"val/acc": 0.9}``).
            step: The step to write instead: the one just made or the one about to be made.
            **more: Name = number (a float, a scalar tensor, an `Estimate`).
        """
        start = time.perf_counter()
        try:
            if self._closed:
                self._remove_hooks()  # of a watch that gave up within one of them
                self._recorder.say("log", "`watch.log` was called after `close`; values are lost.")
                return
            numbers = self._numbers({**values, **more} if values else more)
            if step is not None:
                self._recorder.record(step, numbers)
                return
            before = self._logged_before
            if self._mark is None:
                before.update(numbers)
            if before.isdisjoint(numbers):
                self._recorder.record(self.step - 1, numbers)
                return
            for name, number in numbers.items():
                self._recorder.record(self.step - (name not in before), {name: number})
        except Exception as error:
            self._give_up(error)
        finally:
            self._in_hooks += time.perf_counter() - start

    def flush(self) -> None:
        """Write and commit everything recorded so far, also of the step under way."""
        try:
            self._recorder.flush()
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Finish the last step, write the cost table, detach, and close the run. Idempotent.

        Called within a hook of the watch (``on_alarm``, ``on_pause``), it is done at its end.
        """
        if self._inside:
            self._leaving = True
        else:
            self._close(None)

    def _close(self, error: type[BaseException] | None) -> None:
        if self._closed:
            self._remove_hooks()
            return
        self._closed = True
        self._detach()
        try:
            if self._mark is not None:
                elapsed = time.perf_counter() - self._mark
                self.schedule.tick(max(elapsed - self._in_hooks, 0.0), self._in_hooks)
            self._recorder.close()
            if self._actor is not None:
                self._actor.finish(self.step)
            for where in self._view.dropped_hooks:
                text = f"A hook of yours does not run in measurements: {where}."
                self.run.event("note", "monitor", {"text": text})
            self.run.event("schedule", "monitor", self.schedule.summary())
            # After an exception in the loop the run counts as crashed, not as finished.
            self.run.__exit__(error, None, None)
        except Exception as trouble:
            self._recorder.say("close", f"The run could not be closed cleanly: {trouble}")

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(kind)

    # ---------------------------------------------------------------- hooks

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before an update: settle the last step, then measure what is due at this one."""
        if self._closed:
            return
        start, self._inside = time.perf_counter(), True
        # A closure computes the gradient inside the step: what is in `.grad` now is an older one.
        stale = any(callable(a) for a in (*args, *kwargs.values()))
        try:
            if self._mark is not None:
                self.schedule.tick(start - self._mark - self._in_hooks, self._in_hooks)
            self._mark, self._in_hooks = start, 0.0
            if self._recorder.step < self.step:
                self._recorder.begin(self.step)
            self._measuring.before(self.step, stale=stale)
            if self._actor is not None:
                self._actor.before_update()
            if self._leaving:
                self._close(None)
        except Exception as error:
            self._give_up(error)
        finally:
            self._inside = False
            self._in_hooks += time.perf_counter() - start

    def _after(self, *_: Any) -> None:
        """After an update: measure the step itself, then plan the next one."""
        if self._closed:
            return
        start, self._inside = time.perf_counter(), True
        try:
            self._measuring.after(self.step)
            if self._actor is not None:
                self._actor.after_update(self.step)
            self.step += 1
            self._measuring.plan(self.step)
            if self._leaving:
                self._close(None)
        except Exception as error:
            self._give_up(error)
        finally:
            self._inside = False
            self._in_hooks += time.perf_counter() - start

    # ---------------------------------------------------------------- recording

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, Estimate | float]:
        """Logged values as numbers; those on a device come to the host in one transfer."""
        numbers: dict[str, Estimate | float] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in values.items():
            if value is None:
                continue
            if not isinstance(name, str) or not name:
                self._recorder.say("name", f"`watch.log` needs a name, not {name!r}; skipped.")
            elif name.partition("@")[0] in self._promises.names:
                sentence = f"`watch.log` cannot write {name!r}: it is a measured series."
                self._recorder.say(name, sentence)
            elif isinstance(value, Estimate):
                numbers[name] = value
            elif isinstance(value, Tensor) and value.numel() == 1 and value.is_cuda:
                tensors[name] = value.detach().reshape(()).double()
            else:
                try:
                    # `item` of a tensor that requires a gradient is silent; `float` of it warns.
                    numbers[name] = float(value.item() if isinstance(value, Tensor) else value)
                except Exception:  # whatever a user's object does when asked for a number
                    self._recorder.say(
                        name, f"`watch.log` needs one number for {name!r}; it was skipped."
                    )
        if tensors:
            host = torch.stack(list(tensors.values())).tolist()
            numbers.update(zip(tensors, host, strict=True))
        for name, number in numbers.items():
            if isinstance(number, float) and not (number - number == 0.0):
                numbers[name] = Estimate.plain(number)
                if self._recorder.once(f"{name} is not finite"):
                    text = f"{name} was {number} for the first time"
                    self.run.event("note", "log", {"text": text}, step=self.step)
        return numbers

    # ---------------------------------------------------------------- trouble

    def _detach(self) -> None:
        if self._actor is not None:
            self._actor.let_go()
        self._remove_hooks()
        self._measuring.remove()

    def _remove_hooks(self) -> None:
        """Take the hooks on the optimizer away, unless it is going through them: then later.

        Until then they do nothing, since the watch is closed.
        """
        if self._inside:
            return
        for handle in self._handles:
            handle.remove()
        if self._actor is not None:
            self._actor.remove_hooks()

    def _give_up(self, error: Exception) -> None:
        """The monitor itself failed (a full disk): let go of the run, keep what was written."""
        if self._closed:  # it failed again while an outer call goes on
            return
        self._closed = True
        changed = "" if self._actor is None else self._actor.unrecorded
        if self._actor is not None and self._actor.factor != 1:
            back = f"the learning rate is no longer times {self._actor.factor:.4g}"
            changed = f"{changed}; {back}" if changed else back
        self._detach()
        log.error(
            "Foreshock stopped watching at step %d and leaves the training alone%s: %s: %s",
            self.step,
            f" from now on; {changed}" if changed else "",
            type(error).__name__,
            error,
        )
        try:
            self._recorder.flush()
            text = f"The monitor gave up: {type(error).__name__}: {error}"
            if changed:
                text += f"; {changed}"
            self.run.event("note", "monitor", {"text": text}, step=self.step)
            if self._actor is not None:
                self._actor.finish(self.step)
        except Exception as second:  # what made it give up, most likely
            log.debug("nothing could be flushed: %s", second)
        try:
            self.run.__exit__(type(error), None, None)
        except Exception as second:
            log.error("The run could not be closed either: %s", second)
