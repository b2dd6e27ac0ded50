"""`Recorder`: values gather by step; complete steps go to the store, sinks, detectors, policies."""

from __future__ import annotations

import atexit
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeAlias

from foreshock.detectors.caveats import caveats, setup_caveats
from foreshock.detectors.judge import Judge
from foreshock.detectors.record import alarm_record, detector_record, heard_parts, recorded_alarms
from foreshock.detectors.unread import unread
from foreshock.policies.council import Council
from foreshock.policies.record import (
    policy_record,
    recorded_actions,
    recorded_parts,
    was_refused,
)
from foreshock.store import Run
from foreshock.types import Action, Alarm, Detector, Estimate, OnAlarm, Policy, Sink

log = logging.getLogger("foreshock")

#: What a step holds until it is complete: estimates, and plain finite numbers the user logged.
Values: TypeAlias = Mapping[str, "Estimate | float"]

#: Steps, and seconds, that rows wait for the store. One row costs it 20 µs between two training
#: steps, whose tensors have taken the caches, and 4 µs right after another row. What waits here is
#: lost when the process is killed, as is what waits for a commit there; an exit hands it over.
PILE, PILE_SECONDS = 16, 0.5

#: Recorded steps after which a series that never came is said to be absent, before close says it.
ABSENT_AFTER = 100


class Recorder:
    """Keeps the values of the step under way, and passes on the steps that are complete.

    A step is complete when a later one begins; only then do detectors see it, whole and once, so
    that a replay of the stored rows raises the same alarms. What policies want is recorded, or, if
    actions are to be carried out, put in ``wanted`` for whoever does.
    """

    def __init__(
        self,
        run: Run,
        detectors: Iterable[Detector],
        policies: Sequence[Policy],
        sinks: Sequence[Sink],
        on_alarm: OnAlarm | None,
        *,
        dry_run: bool = True,
        seed: int = 0,
    ) -> None:
        self.run = run
        self.seed = seed
        self.actions: list[Action] = []
        self._shown = 0
        self._resuming = False
        self.wanted: list[Action] = []
        self.standing: list[Action] = []  # of a resumed run, what policies did to it before
        self.step = run.last_step + 1
        self.alarms: list[Alarm] = []
        self._rows: dict[str, Estimate | float] = {}
        self._ahead: dict[str, Estimate | float] = {}
        self._written: set[str] = set()
        self._handed_at = time.monotonic()
        self._seen: set[str] = set()
        self._pile: list[tuple[int, Values]] = []
        self._said: set[str] = set()
        self._council = Council(
            policies,
            on_error=lambda p, e: self.failed("policy_off", p.name, e),
            on_note=self._noted,
        )
        heard = sorted(set(self._council.hears.values()))
        self._judge = Judge(
            detectors,
            on_error=lambda d, e: self.failed("detector_off", d.name, e),
            heard=[*heard_parts(run.events("detectors")), (self.step, heard)],
        )
        self._dry_run = dry_run
        self._sinks = list(sinks)
        self._on_alarm = on_alarm
        # Who looks at a step before it is written; most steps of most runs concern nobody.
        self._read = self._judge.reads
        self._everybody = bool(self._council.policies or self._sinks)
        rules = [detector_record(d) for d in self._judge.detectors]
        told = {"detectors": rules, "heard": heard, "resumed_at": self.step}
        run.event("detectors", "monitor", told)
        # A part without policies is on record as well: what stood before has lapsed in it.
        earlier = run.events("policies")
        if self._council.policies or earlier:
            held = [policy_record(p) for p in self._council.policies]
            for event in earlier:
                self.seed = event.payload.get("seed", self.seed)  # a resumed run draws as it did
            payload = {"policies": held, "dry_run": dry_run, "seed": self.seed}
            run.event("policies", "monitor", {**payload, "resumed_at": self.step})
        self._catch_up()
        self._tell_caveats(lambda rules: setup_caveats(run, rules))
        atexit.register(_at_exit, weakref.ref(self))

    def _catch_up(self) -> None:
        """Of a resumed run: let detectors see its past, and record alarms that are not on record.

        The process may have been killed before the last ones were, and a new rule may find some.
        Policies see it too, every step of it, and what they want of the past is not done again;
        what of it is not on record is recorded as not carried out. Those that were not carried out
        until now (a dry part, a new policy) then believe that nothing was.
        """
        everything = bool(self._council.policies)
        past = [name for name in self.run.names() if everything or name in self._read]
        if not self.step or not past:
            return
        known = recorded_alarms(self.run.events("alarm"))
        before = recorded_actions(self.run.events("action"))
        acted = Counter(map(_key, before))
        parts = recorded_parts(self.run.events("policies")) if everything else []
        acted_for = parts[-1][1] if parts else None
        refused = {_key(action) for action in before if was_refused(action)}
        over = {(e.payload["decided"], e.source) for e in self.run.events("action_ended")}
        begun = Counter(map(_key, recorded_actions(self.run.events("action_begun"))))
        found: list[Alarm] = []
        wanted: list[Action] = []
        self._resuming = True
        for step, values in self.run.rows(names=past):
            self._seen.update(values)
            while parts and step >= parts[0][0]:
                self._council.resume(parts.pop(0)[1])
            alarms = self._judge.feed(step, values)
            found += alarms
            for action in self._council.feed(step, values, alarms):
                acted[_key(action)] -= 1
                new = acted[_key(action)] < 0
                if new:
                    wanted.append(action)
                if _key(action) in refused or (new and action.policy in (acted_for or ())):
                    self._council.refused(action)
        self._council.resume(acted_for)
        if acted_for is not None:
            names = acted_for.intersection(p.name for p in self._council.policies)
            self.standing = [action for action in before if action.policy in names]
        self._resuming = False
        # Written only now: without a WAL, an open reader would hold up the writer.
        for alarm in found:
            if alarm not in known:
                text = f"The alarm of {alarm.detector} at step {alarm.step} was found on resuming."
                self.run.event("note", "monitor", {"text": text}, step=self.step)
                self._raise(alarm)
        for action in before:
            if action.applied and float(action.arguments.get("steps", 0.0)) > 0:
                if (action.step, action.policy) not in over:
                    text = f"The {action.kind} of {action.policy} ended with the process."
                    payload = {"kind": action.kind, "decided": action.step, "why": text}
                    payload |= {"done": {}, "text": text}
                    self.run.event("action_ended", action.policy, payload, step=self.step)
        for action in wanted:
            text = f"The {action.kind} of {action.policy} at step {action.step} was found on "
            self.run.event("note", "monitor", {"text": f"{text}resuming."}, step=self.step)
            if not self._dry_run:
                why = "found on resuming."
                if begun[_key(action)] > 0:
                    why = "found on resuming; it was begun when the process ended."
                action = replace(action, reason=f"{action.reason} Not carried out: {why}")
            self.acted(action)

    def record(self, step: int, values: Values) -> None:
        """Add values to the step under way or to the next one; the first of a name stays."""
        if step == self.step:
            rows = self._rows
        elif step == self.step + 1:
            rows = self._ahead  # logged before its step began
        else:
            sentence = f"a value of step {step} came while step {self.step} was under way; lost."
            self.say("order", sentence)
            return
        for name, value in values.items():
            if rows.setdefault(name, value) is not value:
                self.say(f"{name} twice", f"{name} came twice in a step; the first value stays.")

    def begin(self, step: int) -> None:
        """A later step begins: this one is complete."""
        done, rows = self.step, self._rows
        if rows:
            self._write()
            if len(self._pile) >= PILE or time.monotonic() - self._handed_at > PILE_SECONDS:
                self.hand_over()
            self._rows = {}
            if self._written:
                self._written.clear()
            self._seen.update(rows)
            self._shown += 1
            if self._shown == ABSENT_AFTER:
                after = f"in the first {ABSENT_AFTER} recorded steps: without it {{rule}} is blind."
                self._say_absent(f"{{names}} never came {after}")
            if self._everybody or not self._read.isdisjoint(rows):
                self._show(done, rows)
        self.step = step
        if self._ahead:
            self._rows, self._ahead = self._ahead, self._rows

    def close(self) -> None:
        """Complete the last steps, and name the detectors that never had anything to read."""
        self.begin(self.step + 1)
        self.begin(self.step + 1)  # what was logged ahead of a step that never came
        self.hand_over()
        self._say_absent("{rule} never read {names}: it was not recorded.")
        self._tell_caveats(lambda rules: caveats(self.run, rules, self.alarms))

    def _tell_caveats(self, find: Callable[[Sequence[Detector]], list[str]]) -> None:
        """Why rules that other runs made say less about this one: a note and a warning, once."""
        try:
            for text in find(self._judge.detectors):
                if self.once(text):
                    self.run.event("note", "monitor", {"text": text}, step=self.step)
                    log.warning("%s", text)
        except Exception as error:
            self.failed("note", "caveats", error)

    def _say_absent(self, sentence: str) -> None:
        rules = (*self._judge.detectors, *self._council.policies)
        for rule, names in unread(rules, self._seen).items():
            text = sentence.format(rule=rule, names=", ".join(names))
            self.run.event("note", "monitor", {"text": text}, step=self.step)
            self.say(f"{rule} reads", text)

    def flush(self) -> None:
        """Write and commit everything, also of the step under way."""
        self._write()
        self.hand_over()
        self.run.flush()

    def hand_over(self) -> None:
        """Give the pile to the store, in one go."""
        pile, self._pile = self._pile, []
        self._handed_at = time.monotonic()
        for step, rows in pile:
            self.run.append(step, rows)

    def _write(self) -> None:
        """Put what is new of the step on the pile."""
        fresh: Values = self._rows
        if self._written:
            fresh = {name: v for name, v in self._rows.items() if name not in self._written}
        if fresh:
            self._pile.append((self.step, fresh))
            self._written.update(fresh)

    def _show(self, step: int, rows: Values) -> None:
        """Let sinks, detectors and policies see a complete step."""
        values = {n: Estimate.plain(v) if isinstance(v, float) else v for n, v in rows.items()}
        for sink in list(self._sinks):
            try:
                sink.write(step, values)
            except Exception as error:
                self._drop(sink, error)
        alarms = self._judge.feed(step, values)
        for alarm in alarms:
            self._raise(alarm)
        actions = self._council.feed(step, values, alarms)
        if self._dry_run:
            for action in actions:
                self.acted(action)
        else:
            self.wanted += actions

    @property
    def watching(self) -> frozenset[str]:
        """Names of the policies whose last action may still be undone."""
        return self._council.watching

    def begun(self, action: Action, **more: int) -> None:
        """Record that an action is about to be carried out, on disk before it is."""
        self.hand_over()
        payload = {**asdict(action), **more}
        self.run.event("action_begun", action.policy, payload, step=action.step)
        self.run.flush()

    def _noted(self, policy: Policy, sentence: str) -> None:
        """What a guard held back, each reason once; of a past that is seen again, nothing."""
        if not self._resuming and self.once(f"{policy.name}: {sentence}"):
            self.run.event("note", policy.name, {"text": sentence}, step=self.step)

    def acted(self, action: Action, **more: int) -> None:
        """Record an action, carried out or not, at the step that decided on it."""
        self.actions.append(action)
        if not (self._dry_run or action.applied):
            self._council.refused(action)
        self.hand_over()  # nor is an action on disk before the rows that caused it
        payload = {**asdict(action), **more}
        self.run.event("action", action.policy, payload, step=action.step)

    def _raise(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)
        self.hand_over()  # an alarm is never on disk before the rows that caused it
        self.run.event("alarm", alarm.detector, alarm_record(alarm), step=alarm.step)
        for sink in list(self._sinks):
            try:
                sink.alarm(alarm)
            except Exception as error:
                self._drop(sink, error)
        if self._on_alarm is not None:
            try:
                self._on_alarm(alarm)
            except Exception as error:
                self.failed("note", "on_alarm", error)

    def _drop(self, sink: Sink, error: Exception) -> None:
        self._sinks.remove(sink)
        self.failed("note", f"sink {type(sink).__name__}", error)

    # ---------------------------------------------------------------- trouble

    def failed(self, kind: str, name: str, error: Exception) -> None:
        """Something failed and is not asked again: an event, and one warning."""
        text = f"{type(error).__name__}: {error}"
        payload = {"name": name, "reason": text, "text": f"{name}: {text}"}
        self.run.event(kind, "monitor", payload, step=self.step)
        self.say(name, f"{name} failed and is switched off for this run: {text}")

    def say(self, key: str, sentence: str) -> None:
        """Log a warning once. `warnings.warn` would raise in a process that runs with -W error."""
        if self.once(key):
            log.warning("%s", sentence)

    def once(self, key: str) -> bool:
        """Whether this key is new."""
        new = key not in self._said
        self._said.add(key)
        return new


def _key(action: Action) -> tuple[int, str, str]:
    return action.step, action.policy, action.kind


def _at_exit(reference: weakref.ref[Recorder]) -> None:
    """A process that ends without `close` still hands over what waits here."""
    recorder = reference()
    if recorder is not None and recorder.run.mode == "a":
        try:
            recorder.flush()
        except Exception as error:
            log.debug("nothing to flush at exit: %s", error)
