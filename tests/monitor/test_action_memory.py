"""What a rule believes of the run is what stands: after a resume, a rollback, a refusal, a loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock as fs
from foreshock.evaluation.actions import check_actions
from foreshock.evaluation.replay import replay
from foreshock.policies import (
    Below,
    DescentMargin,
    Every,
    Guarded,
    LangevinBoost,
    LangevinRate,
    LangevinReduce,
    LangevinWarmup,
    Pause,
    PhaseRate,
    PublishedEarlyStop,
    Rollback,
    StableWarmup,
    Stop,
    TargetBatch,
    WeightReset,
)
from foreshock.policies.record import recorded_actions
from foreshock.types import Action, Estimate, Flag, Policy

Values = Callable[[int], Mapping[str, float | Estimate]]


class Loop:
    """A loop on a constant gradient: each step shows the rate it was made with."""

    def __init__(self, folder: Path, policies: list[Policy], values: Values, **more: Any) -> None:
        self.folder, self.policies, self.values = folder, policies, values
        self.more = {"dry_run": False, **more}
        self.factors: list[float] = []
        self.stops: list[bool] = []
        self.advice: list[float | None] = []
        self.step = 0
        self.attach(folder)

    def attach(self, run: Path | fs.Run) -> None:
        weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        model = torch.nn.ParameterList([weight])
        self.weight, self.optimizer = weight, torch.optim.SGD(model.parameters(), lr=1.0)
        self.watch = fs.attach(
            model, self.optimizer, run=run, observables=[], policies=self.policies, **self.more
        )

    def resume(self, **more: Any) -> None:
        self.watch.close()
        self.more |= more
        self.attach(fs.Run.open(self.folder, "a"))

    def train(self, steps: int) -> Loop:
        for _ in range(steps):
            self.weight.grad = torch.full_like(self.weight, 2.0**-20)
            before = self.weight.detach().clone()
            self.optimizer.step()
            self.factors.append(round((before - self.weight.detach())[0].item() * 2.0**20, 9))
            self.watch.log(self.values(self.step))
            self.stops.append(self.watch.should_stop)
            self.advice.append(self.watch.advised_batch)
            self.step += 1
        return self

    def done(self) -> list[Action]:
        self.watch.close()
        with fs.Run.open(self.folder) as run:
            found = check_actions(run)
            assert found is not None and found.identical
            return recorded_actions(run.events("action"))

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        self.watch.close()
        with fs.Run.open(self.folder) as run:
            return [e.payload for e in run.events(kind)]


# ---------------------------------------------------------------- a resume

STANDS: dict[str, tuple[Policy, Values]] = {
    "set_lr": (PhaseRate("c"), lambda t: {"c": 0.3}),
    "scale_lr": (LangevinReduce("c", refractory=5), lambda t: {"c": 0.5}),
    "scale_lr up and down": (
        LangevinRate("c", refractory=5, low=0.01),
        lambda t: {"c": 30.0 if t % 3 else 0.1},
    ),
    "descent margin": (
        DescentMargin("c", refractory=5),
        lambda t: {"c": Estimate.exact(0.5 + t / 50)},
    ),
    "stable warm-up": (StableWarmup("c", window=2, refractory=4), lambda t: {"c": 0.6}),
    "warm-up": (LangevinWarmup(total=1000), lambda t: {"c": 0.6}),
    "stop": (PublishedEarlyStop("c", "c", "c", window=4), lambda t: {"c": 0.3}),
    "advise_batch": (TargetBatch(64, "c"), lambda t: {"c": 0.3}),
    "guarded": (Guarded(PhaseRate("c"), refractory=9), lambda t: {"c": 0.3 if t < 20 else 0.8}),
}


@pytest.mark.parametrize("case", STANDS.values(), ids=STANDS)
@pytest.mark.parametrize("cut", [15, 35])
def test_a_resumed_run_goes_on_as_the_whole_one(
    case: tuple[Policy, Values], cut: int, tmp_path: Path
) -> None:
    policy, values = case
    whole = Loop(tmp_path / "whole", [policy], values).train(60)
    parts = Loop(tmp_path / "parts", [policy], values).train(cut)
    parts.resume()
    # What is decided on the last step is too late there, and wanted again: one step later.
    late = [e for e in parts.watch.run.events("action") if not e.payload["applied"]]
    parts.train(60 - cut)
    assert bool(late) == (cut - 1 in {a.step for a in whole.done()})
    skip = range(cut, cut + 3) if late else ()
    for ours, theirs in ((parts.factors, whole.factors), (parts.stops, whole.stops)):
        assert [x for t, x in enumerate(ours) if t not in skip] == pytest.approx(
            [x for t, x in enumerate(theirs) if t not in skip]
        )
    assert parts.advice == whole.advice
    assert any(a.applied for a in parts.done())
    assert [e for e in parts.events("action_ended") if "with the process" in e["why"]] == []


def test_what_was_undone_is_not_restored_and_a_dropped_policy_has_no_factor(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "a", [rate_that_hurts()], lambda t: hurt(t)).train(40)
    loop.resume()
    assert loop.train(5).factors[-5:] == [1.0] * 5
    loop.watch.close()
    loop = Loop(tmp_path / "b", [PhaseRate("c")], lambda t: {"c": 0.3}).train(10)
    loop.policies = [Stop(on=Below("c", 0.1))]
    loop.resume()
    assert loop.train(5).factors[-5:] == [1.0] * 5
    loop.watch.close()


def test_a_dry_part_is_no_part_of_what_stands(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "r", [PhaseRate("c")], lambda t: {"c": 0.3}, dry_run=True).train(10)
    assert set(loop.factors) == {1.0}
    loop.resume(dry_run=False)
    assert loop.train(10).factors[-1] == 0.1
    assert [a.applied for a in loop.done()] == [False, True]


# ---------------------------------------------------------------- a rollback


def hurt(t: int) -> dict[str, Estimate]:
    """f* doubles at 20, and the loss rises from 25 on."""
    return {"c": Estimate.exact(2.0 if t >= 20 else 1.0), "loss": Estimate(1.0 if t < 25 else 3.0)}


def rate_that_hurts(policy: Policy | None = None) -> Guarded:
    undo = Rollback("loss", window=5, within=60, recent=3)
    return Guarded(policy or DescentMargin("c", refractory=5), refractory=1000, rollback=undo)


def test_a_rollback_takes_the_rate_back(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "r", [rate_that_hurts()], lambda t: hurt(t)).train(60)
    found = loop.done()
    assert [(a.kind, a.applied) for a in found] == [("scale_lr", True), ("rollback", True)]
    back = found[1].step + 2
    # The step that was undone at its end is left out: the weights went back in it.
    assert set(loop.factors[22 : back - 1]) == {2.0} and set(loop.factors[back:]) == {1.0}


def test_a_rollback_ends_a_passing_factor_and_says_so(tmp_path: Path) -> None:
    boost = rate_that_hurts(LangevinBoost("c", steps=50))
    loss = lambda t: Estimate(1.0 if t < 25 else 3.0)  # noqa: E731
    values = lambda t: {"c": 1.9 - 0.01 * t if t >= 20 else 3.0, "loss": loss(t)}  # noqa: E731
    loop = Loop(tmp_path / "r", [boost], values).train(60)
    (_, undo) = loop.done()
    assert set(loop.factors[undo.step + 2 :]) == {1.0} and max(loop.factors) == 1.5
    assert [e["why"] for e in loop.events("action_ended")] == ["It was undone."]


@pytest.mark.parametrize("what", ["stop", "advice"])
def test_a_rollback_takes_the_wish_back(what: str, tmp_path: Path) -> None:
    inner: Policy = TargetBatch(64, "c") if what == "advice" else Stop(on=Below("c", 0.5))
    loss = lambda t: Estimate(1.0 if t < 25 else 3.0)  # noqa: E731
    values = lambda t: {"c": 0.3 if t >= 20 else 2.0, "loss": loss(t)}  # noqa: E731
    loop = Loop(tmp_path / "r", [rate_that_hurts(inner)], values).train(60)
    wished = [bool(x) for x in (loop.advice if what == "advice" else loop.stops)]
    back = loop.done()[-1].step + 2
    assert wished == [21 <= t < back - 1 for t in range(60)]


def test_a_rule_forgets_what_was_undone_and_may_want_it_again(tmp_path: Path) -> None:
    undo = Rollback("loss", window=5, within=60, recent=3)
    held = Guarded(PhaseRate("c"), refractory=30, rollback=undo)
    values = lambda t: {"c": 0.3 if t >= 20 else 0.7, "loss": 3.0 if 25 <= t < 35 else 1.0}  # noqa: E731
    loop = Loop(tmp_path / "r", [held], values).train(100)
    assert [a.kind for a in loop.done()] == ["set_lr", "rollback", "set_lr"]
    assert loop.factors[-1] == 0.1


# ---------------------------------------------------------------- held back, refused


def test_what_a_guard_holds_back_is_not_believed_done(tmp_path: Path) -> None:
    quiet = {"loss": 1.0}
    warm = Loop(tmp_path / "a", [Guarded(LangevinWarmup(total=1000))], lambda t: quiet).train(130)
    assert warm.factors[30] == 0.1 and warm.factors[-1] == 1.0
    phase = Guarded(PhaseRate("c"))
    moved = Loop(tmp_path / "b", [phase], lambda t: {"c": 0.8 if t < 30 else 0.3}).train(130)
    assert (moved.factors[20], moved.factors[-1]) == (2.0, 0.1)
    held = Guarded(StableWarmup("c", window=3), refractory=10, rollback=Rollback("loss"))
    stable = Loop(tmp_path / "c", [held], lambda t: {"c": 0.6, "loss": 1.0}).train(130)
    assert min(stable.factors) == 0.1 and stable.factors[-1] == 1.0
    for loop in (warm, moved, stable):
        loop.done()


def test_what_is_refused_is_not_believed_done(tmp_path: Path) -> None:
    reset = Guarded(WeightReset(on=Every(30)), refractory=1000, rollback=Rollback("loss"))
    both: list[Policy] = [LangevinWarmup(total=1000), reset]
    loop = Loop(tmp_path / "r", both, lambda t: {"loss": 1.0}).train(120)
    assert loop.factors[-1] == 1.0
    refused = [a for a in loop.done() if not a.applied]
    # While the reset is watched it is asked again now and then, and not at each step.
    assert 1 <= len(refused) <= 4 and {a.policy for a in refused} == {"langevin_warmup"}


def test_a_rollback_that_is_refused_leaves_the_belief(tmp_path: Path) -> None:
    undo = Rollback("loss", window=5, within=60, recent=3)
    held = Guarded(LangevinRate("c", refractory=1, high=2.0), refractory=20, rollback=undo)
    loss = lambda t: 1.0 if t < 25 else 3.0  # noqa: E731
    loop = Loop(tmp_path / "r", [held], lambda t: {"c": 0.1, "loss": loss(t)}).train(27)
    with torch.no_grad():
        loop.weight.add_(1.0)  # somebody else writes, so there is no way back
    loop.train(60)
    found = loop.done()
    assert [(a.kind, a.applied) for a in found if a.kind == "rollback"] == [("rollback", False)]
    assert max(loop.factors) == pytest.approx(2.0)  # its bound, not passed by forgetting


# ---------------------------------------------------------------- giving up, closing


def test_giving_up_takes_the_hooks_away_when_nobody_goes_through_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for dry_run in (True, False):
        loop = Loop(
            tmp_path / str(dry_run), [PhaseRate("c")], lambda t: {"c": 0.3}, dry_run=dry_run
        )
        loop.optimizer.register_step_pre_hook(lambda *_: None)  # after ours
        loop.train(10)
        own = len(loop.optimizer._optimizer_step_pre_hooks)
        before = loop.weight.detach().clone()

        def full(step: int) -> None:
            raise OSError("No space left on device")

        loop.watch._recorder.begin = full
        with caplog.at_level(logging.ERROR, "foreshock"):
            loop.train(5)
        assert loop.factors[-5:] == [1.0] * 5
        assert torch.equal(loop.weight, before - 5.0 * 2.0**-20)
        assert own > len(loop.optimizer._optimizer_step_pre_hooks) == 1
        said = "the learning rate is no longer times 0.1" in caplog.text
        assert said != dry_run
        if not dry_run:
            assert [e["kind"] for e in loop.events("action_ended")] == ["set_lr"]
        caplog.clear()


def test_of_two_watches_on_one_optimizer_one_may_give_up(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "a", [], lambda t: {"c": 0.3}, dry_run=True)
    model = torch.nn.ParameterList([loop.weight])
    other = fs.attach(model, loop.optimizer, run=tmp_path / "b", observables=[])
    loop.train(3)
    loop.watch._recorder.begin = lambda step: 1 / 0
    loop.train(3)
    assert other.step == 6
    other.close()


def test_closing_says_that_a_factor_no_longer_stands(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "r", [PhaseRate("c")], lambda t: {"c": 0.3}).train(10)
    (ended,) = loop.events("action_ended")
    assert (ended["kind"], ended["why"]) == ("set_lr", "The watch was closed.")
    assert ended["done"] == {"times the learning rate": 0.1}


def test_a_person_who_is_asked_may_close_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loops: list[Loop] = []
    ask = [Pause(on=Below("c", 0.5))]
    loop = Loop(
        tmp_path / "r", ask, lambda t: {"c": 0.3}, on_pause=lambda a: loops[0].watch.close()
    )
    loops.append(loop)
    with caplog.at_level(logging.WARNING, "foreshock"):
        loop.train(8)
    assert "stopped watching" not in caplog.text
    assert [(a.kind, a.applied) for a in loop.done()] == [("pause", True)]
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("schedule") and not run.events("note")


def test_an_alarm_may_close_the_watch(tmp_path: Path) -> None:
    loops: list[Loop] = []
    rule = fs.detectors.CUSUM("c", warmup=3, threshold=1.0)
    values = lambda t: {"c": 1.0 + 0.01 * (-1) ** t + (t >= 8)}  # noqa: E731
    close = lambda alarm: loops[0].watch.close()  # noqa: E731
    options: dict[str, Any] = {"dry_run": True, "detectors": [rule], "on_alarm": close}
    loops.append(Loop(tmp_path / "r", [], values, **options))
    loops[0].optimizer.register_step_pre_hook(lambda *_: None)
    loops[0].train(14)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("schedule") and len(run.events("alarm")) == 1


def test_a_pause_needs_somebody_to_ask_before_training(tmp_path: Path) -> None:
    ask = Guarded(Pause(on=Below("c", 0.5)))
    with pytest.raises(ValueError, match="on_pause"):
        Loop(tmp_path / "r", [ask], lambda t: {"c": 0.3})
    assert not (tmp_path / "r").exists()
    Loop(tmp_path / "r", [ask], lambda t: {"c": 0.3}, dry_run=True).watch.close()


def test_a_policy_that_comes_later_changes_no_alarm_before_it(tmp_path: Path) -> None:
    """Alone a rule sees flagged numbers; once a policy waits for it, it does not: part by part."""
    flag = {"flags": Flag.NOT_CONVERGED, "reason": "Too few iterations."}

    def values(step: int) -> dict[str, float | Estimate]:
        return {"reward/kl": Estimate(9.0 if step >= 20 else 0.1, **flag)}

    loop = Loop(tmp_path / "r", [], values, detectors=["kl_threshold"], dry_run=True).train(40)
    loop.policies = [Stop(on="kl_threshold")]
    loop.resume(dry_run=False)
    loop.train(20).watch.close()
    assert not loop.watch.should_stop  # what is flagged leads to no action
    with fs.Run.open(tmp_path / "r") as run:
        recorded = [event.step for event in run.events("alarm")]
        assert recorded and recorded == [a.step for a in replay(run, ["kl_threshold"])]


def test_a_factor_lapses_in_a_part_without_policies(tmp_path: Path) -> None:
    policy = LangevinRate(series="c", refractory=500)
    low = {"c": Estimate(0.3, 0.29, 0.31, n=9)}
    loop = Loop(tmp_path / "r", [policy], lambda step: low).train(20)
    assert loop.factors[-1] == 1.5
    loop.policies = []
    loop.resume(dry_run=True)
    loop.train(20)
    loop.policies = [policy]
    loop.resume(dry_run=False)
    loop.train(20)
    # The rate was the schedule's for twenty steps; the rule may want it changed, but it wants anew.
    assert set(loop.factors[20:41]) == {1.0}
    with fs.Run.open(tmp_path / "r") as run:
        parts = [event.payload["resumed_at"] for event in run.events("policies")]
        assert parts == [0, 20, 40]
