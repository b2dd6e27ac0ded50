"""`Actor`: actions carried out on a live run, with their intent and their outcome on record."""

from __future__ import annotations

from collections.abc import Sequence

from foreshock.monitor import door
from foreshock.monitor.recorder import Recorder
from foreshock.policies.apply import Applier
from foreshock.policies.apply_effects import Ended
from foreshock.policies.apply_kinds import refused
from foreshock.policies.apply_rate import Wishes
from foreshock.types import Action


class Actor:
    """Between the recorder, which says what is wanted, and the applier, which does it.

    Of a resumed run, what still stood at its end is done again first: the recorder's rules remember
    it.
    What is about to be done is on disk before it is done (event ``action_begun``), and what became
    of it after (``action``): if the second cannot be written the first still says that the run may
    have been changed. What lasts says when it ended, why, and what it did (``action_ended``).

    Args:
        applier: Carries out.
        recorder: Records.
    """

    def __init__(self, applier: Applier, recorder: Recorder) -> None:
        self._applier = applier
        self._recorder = recorder
        self._begun: Action | None = None
        self._ended: list[Ended] = []
        applier.seed = recorder.seed
        for change in applier.restore(recorder.standing):
            text = f"As before the run was resumed: {change.said}"
            recorder.run.event("note", "monitor", {"text": text}, step=recorder.step)

    @property
    def wishes(self) -> Wishes:
        """What policies want of the loop."""
        return self._applier.wishes

    def before_update(self) -> None:
        """An update is about to be made."""
        self._applier.before_update()

    def after_update(self, step: int) -> None:
        """After an update, when weights and gradients have done with each other: carry out."""
        applier, recorder = self._applier, self._recorder
        self._write(applier.after_update(), step)
        wanted = recorder.wanted
        applier.release(recorder.watching | {a.policy for a in wanted if a.kind == "rollback"})
        several = door.several_ranks()
        why = "Several ranks train one model now, and each would decide for itself."
        if several:
            self._write(applier.close(why), step)
        while wanted:
            action = wanted.pop(0)
            recorder.begun(action, after_update=step)
            self._begun = action
            if several:
                done = refused(action, why)
            else:
                keep = action.policy in recorder.watching
                try:
                    done = applier.apply(action, keep=keep)
                except BaseException:
                    recorder.acted(refused(action, "It was interrupted."), after_update=step)
                    raise
            self._begun = done
            recorder.acted(done, after_update=step)
            self._begun = None
            if not done.applied:
                recorder.say(f"{action.policy} {action.kind}", done.reason)
        applier.release(recorder.watching)
        self._write(applier.drain(), step)

    def let_go(self) -> None:
        """Take everything that lasts away, also from within a hook. Idempotent."""
        self._ended += self._applier.close()

    def remove_hooks(self) -> None:
        """Take the last hook away; not from within a hook of the optimizer. Idempotent."""
        self._applier.remove_hooks()

    def finish(self, step: int) -> None:
        """Record what `let_go` ended, and what came too late to be carried out."""
        ended, self._ended = self._ended, []
        self._write(ended, step)
        wanted, self._recorder.wanted = self._recorder.wanted, []
        for action in wanted:
            self._recorder.acted(refused(action, "the run ended before the next update."))

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied by."""
        return self._applier.factor

    @property
    def unrecorded(self) -> str:
        """What was done to the run without its outcome being on record; empty if nothing."""
        if self._begun is None or not self._begun.applied:
            return ""
        return f"the {self._begun.kind} of {self._begun.policy} was carried out and not recorded"

    def _write(self, ended: Sequence[Ended], step: int) -> None:
        for one in ended:
            payload = {"kind": one.action.kind, "decided": one.action.step, "why": one.why}
            payload |= {"done": dict(one.done), "text": one.text}
            self._recorder.run.event("action_ended", one.action.policy, payload, step=step)
