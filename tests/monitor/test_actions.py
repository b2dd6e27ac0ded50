"""Actions on a live run: when they are carried out, what is recorded, and nothing is raised."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock as fs
from foreshock.cli import main
from foreshock.evaluation.actions import ActionCheck, check_actions
from foreshock.monitor.recorder import ABSENT_AFTER
from foreshock.policies import (
    DiffusionBoost,
    Every,
    Guarded,
    LatentReset,
    Rollback,
    WeightReset,
)
from foreshock.policies import apply as apply_module
from foreshock.policies.apply import Applier
from foreshock.policies.boost import MEASURED
from foreshock.policies.record import recorded_actions
from foreshock.types import Action, Alarm, Estimate, Policy
from tests.cases import CASES, loss

CASE = CASES["mlp"]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = CASE.model().train()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(
    watch: Any,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[int],
    at: Callable[[int], None] = lambda step: None,
) -> None:
    """Training; `at` is called after every update with its step."""
    for step in steps:
        optimizer.zero_grad()
        value = loss(model, CASE.batch(16, step))
        value.backward()
        optimizer.step()
        if watch is not None:
            watch.log(loss=value)
        at(step)


def attach(folder: Path | fs.Run, policies: Sequence[str | Policy], **options: Any) -> Any:
    model, optimizer = parts()
    options = {"observables": ["norms"], "every": 1, "dry_run": False, **options}
    watch = fs.attach(model, optimizer, run=folder, policies=policies, **options)
    return watch, model, optimizer


def actions(folder: Path) -> list[Action]:
    with fs.Run.open(folder) as run:
        return recorded_actions(run.events("action"))


def notes(folder: Path) -> list[str]:
    with fs.Run.open(folder) as run:
        return [e.payload["text"] for e in run.events("note")]


def endings(folder: Path) -> list[dict[str, Any]]:
    with fs.Run.open(folder) as run:
        return [dict(e.payload) for e in run.events("action_ended")]


def test_an_action_is_carried_out_after_the_update_of_the_next_step(tmp_path: Path) -> None:
    watch, model, optimizer = attach(tmp_path / "r", [WeightReset(on=Every(3))])
    twin, other = parts()
    moved: list[int] = []

    def at(step: int) -> None:
        train(None, twin, other, [step])
        if not torch.equal(weights(model), weights(twin)):
            moved.append(step)
            twin.load_state_dict(model.state_dict())

    train(watch, model, optimizer, range(8), at)
    watch.close()
    # Step 3 is complete when step 4 begins; the reset follows the update of step 4.
    assert moved == [4, 7]
    with fs.Run.open(tmp_path / "r") as run:
        events = run.events("action")
        assert [(e.step, e.payload["after_update"], e.source) for e in events] == [
            (3, 4, "weight_reset"),
            (6, 7, "weight_reset"),
        ]
        assert all(e.payload["applied"] for e in events)
        # What is measured of an update is the update, not the reset.
        assert run.events("observable_off") == []
        (held,) = run.events("policies")
        assert held.payload["dry_run"] is False
        assert held.payload["policies"][0]["arguments"]["on"]["kind"] == "Every"


def test_what_is_wanted_too_late_is_recorded_as_not_carried_out(tmp_path: Path) -> None:
    watch, model, optimizer = attach(tmp_path / "r", [WeightReset(on=Every(3))])
    train(watch, model, optimizer, range(4))
    before = weights(model)
    watch.close()
    assert torch.equal(weights(model), before)
    (action,) = actions(tmp_path / "r")
    assert action.step == 3 and not action.applied
    assert action.reason.endswith("Not carried out: the run ended before the next update.")


def test_a_rollback_on_the_whole_path_restores_the_run(tmp_path: Path) -> None:
    held = Guarded(
        WeightReset(on=Every(10), fraction=1.0, scale=30.0),
        rollback=Rollback("loss", factor=2.0, window=5, recent=1),
    )
    watch, model, optimizer = attach(tmp_path / "r", [held])
    seen: dict[int, torch.Tensor] = {}
    twin, other = parts()
    train(None, twin, other, range(12))

    def at(step: int) -> None:
        seen[step] = weights(model)

    train(watch, model, optimizer, range(20), at)
    watch.close()
    # Decided at 10, after update 11; seen in the loss of 12; undone after update 13: then the
    # weights are those after update 11 again, bitwise.
    reset, undo = actions(tmp_path / "r")
    assert (reset.step, undo.step, undo.kind, undo.applied) == (10, 12, "rollback", True)
    assert not torch.equal(seen[11], weights(twin))
    assert torch.equal(seen[13], weights(twin))
    assert undo.arguments["value"] > undo.arguments["threshold"]


def test_a_run_that_became_nan_after_an_action_is_brought_back(tmp_path: Path) -> None:
    held = Guarded(WeightReset(on=Every(10)), rollback=Rollback("loss", window=5))
    watch, model, optimizer = attach(tmp_path / "r", held)
    for step in range(16):
        optimizer.zero_grad()
        value = loss(model, CASE.batch(16, step)) * (float("nan") if step == 13 else 1.0)
        value.backward()
        optimizer.step()
        watch.log(loss=value)
    watch.close()
    found = [(a.step, a.kind, a.applied) for a in watch.actions]
    assert found == [(10, "reset_weights", True), (13, "rollback", True)]
    assert torch.isfinite(weights(model)).all()


def test_boost_is_always_restored_also_by_close_and_by_giving_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = DiffusionBoost(on=Every(2), steps=3)
    for how in ("itself", "close", "giving up"):
        watch, model, optimizer = attach(tmp_path / how, [Guarded(policy, most=1)])
        # Decided at 2, begun after update 3, measured in 4 to 8.
        train(watch, model, optimizer, range(4 + MEASURED + 1))
        if how == "close":
            watch.close()
        elif how == "giving up":
            with monkeypatch.context() as patch:
                patch.setattr(watch._recorder, "begin", lambda step: 1 / 0)
                train(watch, model, optimizer, range(10, 11))
        else:
            train(watch, model, optimizer, range(10, 12))
        twin, other = parts()
        twin.load_state_dict(model.state_dict())
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            other.state[b]["momentum_buffer"] = optimizer.state[a]["momentum_buffer"].clone()
        train(watch, model, optimizer, range(20, 30))
        train(None, twin, other, range(20, 30))
        assert torch.equal(weights(model), weights(twin)), how
        watch.close()
        (ended,) = endings(tmp_path / how)
        assert (ended["kind"], ended["decided"]) == ("boost_diffusion", 2)
        assert ended["done"]["updates measured"] == MEASURED and ended["done"]["sigma"] > 0
        noised = ended["done"]["updates with noise"]
        assert (noised, ended["why"]) == (
            (3, "All updates were made.") if how == "itself" else (1, "The watch was closed.")
        )


def test_hooks_of_a_latent_reset_are_removed_on_close(tmp_path: Path) -> None:
    policy = LatentReset("body.3", on=Every(2), steps=1000)
    watch, model, optimizer = attach(tmp_path / "r", [Guarded(policy, most=1)])
    train(watch, model, optimizer, range(6))
    assert len(model.body[3]._forward_hooks) == 1
    watch.close()
    assert not model.body[3]._forward_hooks


def test_a_resumed_run_remembers_what_was_done_and_does_not_do_it_again(tmp_path: Path) -> None:
    held = Guarded(WeightReset(on=Every(3)), refractory=5, most=2)
    watch, model, optimizer = attach(tmp_path / "r", [held])
    train(watch, model, optimizer, range(6))
    watch.close()
    again = fs.attach(
        model,
        optimizer,
        run=fs.Run.open(tmp_path / "r", "a"),
        observables=["norms"],
        every=1,
        policies=[held],
        dry_run=False,
    )
    train(again, model, optimizer, range(6, 30))
    again.close()
    # At 3, not at 6 (refractory), at 9, and never more: as one run of 30 steps.
    assert [(a.step, a.applied) for a in actions(tmp_path / "r")] == [(3, True), (9, True)]
    with fs.Run.open(tmp_path / "r") as run:
        from foreshock.evaluation import replay_actions

        assert [a.step for a in replay_actions(run, [held])] == [3, 9]


@dataclasses.dataclass(frozen=True)
class Odd:
    """A policy that misbehaves in a stated way."""

    how: str
    name: str = "odd"
    reads: tuple[str, ...] = ("never",)

    def init(self) -> int:
        return 0

    def update(
        self, state: int, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> Any:
        if self.how == "raises":
            raise RuntimeError("mine")
        if self.how == "returns nothing":
            return None
        numbers: dict[str, Any] = {"fraction": 0.0, "scale": 0.1, "relative": 1.0}
        odd: dict[str, Any] = {
            "no action": "reset",
            "a tensor": Action(
                step, "odd", "reset_weights", {"fraction": torch.tensor(0.1)}, "Why not."
            ),
            "no step": Action(None, "odd", "reset_weights", numbers, "Why not."),  # type: ignore[arg-type]
            "another's name": Action(step, "other", "reset_weights", numbers, "Why not."),
            "claims it was done": Action(step, "odd", "pray", {}, "Why not.", applied=True),
        }
        if self.how in odd:
            return state, [odd[self.how]]
        if self.how == "unknown kind":
            return state, [Action(step, "odd", "pray", {}, "Why not.")]
        return state, [Action(step, "odd", "reset_weights", {}, "No numbers.")]


DROPPED = ("raises", "returns nothing", "no action", "a tensor", "no step", "another's name")


@pytest.mark.parametrize("how", [*DROPPED, "unknown kind", "no numbers", "claims it was done"])
def test_nothing_is_raised_into_the_loop_and_nothing_is_changed(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "foreshock"):
        watch, model, optimizer = attach(tmp_path / "r", [Odd(how), WeightReset(on=Every(100))])
        train(watch, model, optimizer, range(5))
        watch.close()
    twin, other = parts()
    train(None, twin, other, range(5))
    assert torch.equal(weights(model), weights(twin))
    assert "odd" in caplog.text
    with fs.Run.open(tmp_path / "r") as run:
        off = [e.payload["name"] for e in run.events("policy_off")]
        assert off == (["odd"] if how in DROPPED else [])
        assert len(run.events("action")) == (0 if off else 5)
    if not off:
        assert any("Not carried out" in a.reason for a in actions(tmp_path / "r"))
        assert "odd never read never: it was not recorded." in notes(tmp_path / "r")


def test_an_applier_that_fails_as_a_whole_ends_the_watch_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, model, optimizer = attach(tmp_path / "r", [WeightReset(on=Every(2))])
    monkeypatch.setattr(Applier, "apply", lambda self, action: 1 / 0)
    train(watch, model, optimizer, range(6))
    twin, other = parts()
    train(None, twin, other, range(6))
    assert torch.equal(weights(model), weights(twin))
    assert any("gave up" in text for text in notes(tmp_path / "r"))


def test_an_action_that_could_not_be_recorded_is_not_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    for what in ("acted", "begun"):
        folder = tmp_path / what
        watch, model, optimizer = attach(folder, [WeightReset(on=Every(2), scale=9.0)])
        monkeypatch.setattr(watch._recorder, what, full)
        caplog.clear()
        train(watch, model, optimizer, range(5))
        twin, other = parts()
        train(None, twin, other, range(5))
        changed = not torch.equal(weights(model), weights(twin))
        # Where even the intent cannot be written, nothing is done.
        assert changed == (what == "acted")
        sentence = "the reset_weights of weight_reset was carried out and not recorded"
        assert (sentence in caplog.text) == changed
        assert any(sentence in text for text in notes(folder)) == changed
        with fs.Run.open(folder) as run:
            assert len(run.events("action_begun")) == changed


def test_what_is_begun_is_on_disk_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, model, optimizer = attach(tmp_path / "r", [WeightReset(on=Every(2))])
    seen: list[int] = []
    real = Applier.apply

    def apply(self: Applier, action: Action, *, keep: bool = False) -> Action:
        with fs.Run.open(tmp_path / "r") as run:
            seen.append(len(run.events("action_begun")) - len(run.events("action")))
        return real(self, action, keep=keep)

    monkeypatch.setattr(Applier, "apply", apply)
    train(watch, model, optimizer, range(6))
    watch.close()
    assert seen == [1, 1] and [a.applied for a in watch.actions] == [True, True]


def test_an_interrupt_in_an_action_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(applier: Applier, action: Action) -> Any:
        raise KeyboardInterrupt

    both = [WeightReset(on=Every(2)), WeightReset(on=Every(2), name="second")]
    watch, model, optimizer = attach(tmp_path / "r", both)
    with monkeypatch.context() as patch:
        patch.setattr(apply_module, "KINDS", {"reset_weights": interrupted})
        with pytest.raises(KeyboardInterrupt):
            train(watch, model, optimizer, range(6))
    watch.close()
    first, second = actions(tmp_path / "r")
    assert first.reason.endswith("Not carried out: It was interrupted.")
    assert second.reason.endswith("Not carried out: the run ended before the next update.")


@pytest.mark.parametrize("dry_run", [True, False])
def test_of_a_killed_run_no_action_is_lost(dry_run: bool, tmp_path: Path) -> None:
    torch.manual_seed(5)
    held = Guarded(LatentReset("body.3", on=Every(2), steps=99), refractory=3)
    watch, model, optimizer = attach(tmp_path / "alive", held, dry_run=dry_run)
    seed = torch.initial_seed()
    train(watch, model, optimizer, range(7))
    watch.flush()
    # What a kill would leave; step 6 is under way, and what it leads to was never decided.
    shutil.copytree(tmp_path / "alive", tmp_path / "r")
    watch.close()
    model, optimizer = parts()
    torch.manual_seed(6)
    again = fs.attach(
        model,
        optimizer,
        run=fs.Run.open(tmp_path / "r", "a"),
        observables=["norms"],
        every=1,
        policies=held,
        dry_run=dry_run,
    )
    train(again, model, optimizer, range(7, 10))
    again.close()
    found = actions(tmp_path / "r")
    # What was not carried out counts for no refractory time: the one at 8 passes.
    more = [] if dry_run else [(8, True)]
    assert [(a.step, a.applied) for a in found] == [(2, not dry_run), (6, False), *more]
    if not dry_run:
        assert found[1].reason.endswith("Not carried out: found on resuming.")
        assert [e["why"] for e in endings(tmp_path / "r")] == [
            "The reset_latents of latent_reset ended with the process.",
            "The watch was closed.",
        ]
    with fs.Run.open(tmp_path / "r") as run:
        # Decided alike, and a resumed run draws with the seed of its beginning.
        assert check_actions(run) == ActionCheck(len(found), True)
        assert {e.payload["seed"] for e in run.events("policies")} == {seed}


def test_actions_on_record_are_checked_by_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Guarded(WeightReset(on=Every(3)), refractory=4)
    watch, model, optimizer = attach(tmp_path / "r", [held, Odd("unknown kind")])
    train(watch, model, optimizer, range(9))
    watch.close()
    assert main(["replay", str(tmp_path / "r")]) == 0
    assert "1 action, identical to the recorded ones. Not compared: odd." in capsys.readouterr().out
    with fs.Run.open(tmp_path / "r", "a") as run:
        more = Action(6, "weight_reset", "reset_weights", {}, "By nobody.")
        run.event("action", "weight_reset", dataclasses.asdict(more), step=6)
    assert main(["replay", str(tmp_path / "r"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["actions"] == {"count": 1, "identical": False, "not_compared": ["odd"]}


def test_one_policy_may_be_given_alone_and_its_actions_are_at_hand(tmp_path: Path) -> None:
    watch, model, optimizer = attach(tmp_path / "r", WeightReset(on=Every(2)), dry_run=True)
    train(watch, model, optimizer, range(4))
    assert [(a.step, a.kind, a.applied) for a in watch.actions] == [(2, "reset_weights", False)]
    watch.close()
    assert watch.actions == actions(tmp_path / "r")
    attach(tmp_path / "s", "published_weight_reset")[0].close()


def test_what_a_guard_holds_back_and_what_never_comes_is_told_in_time(tmp_path: Path) -> None:
    held = Guarded(WeightReset(on=Every(5)), rollback=Rollback("val_loss"))
    watch, model, optimizer = attach(
        tmp_path / "r", [held], detectors=["cusum:val_acc", "cusum:loss"]
    )
    train(watch, model, optimizer, range(ABSENT_AFTER + 2))
    watch.flush()
    found = notes(tmp_path / "r")
    assert [text for text in found if "held back" in text] == [
        "An action of weight_reset was held back: fewer than 10 values of val_loss came since the "
        "start or the last rollback, so there is no reference to judge it by."
    ]
    blind = [text for text in found if "is blind" in text]
    when = "never came in the first 100 recorded steps: without it"
    assert blind == [
        f"val_acc {when} cusum(val_acc up) is blind.",
        f"val_loss {when} weight_reset is blind.",
    ]
    watch.close()


def test_the_copy_for_a_way_back_goes_when_its_watch_ends(tmp_path: Path) -> None:
    watched = Guarded(
        WeightReset(on=Every(9)), most=1, rollback=Rollback("loss", window=5, within=6)
    )
    free = Guarded(WeightReset(on=Every(4), name="free"), refractory=1)
    watch, model, optimizer = attach(tmp_path / "r", [watched, free])
    kept: list[int] = []

    def at(step: int) -> None:
        if watch._actor._applier._kept is not None:
            kept.append(step)

    train(watch, model, optimizer, range(30), at)
    watch.close()
    # Decided at 9, carried out after 10; the watch ends with 15, which is complete at 16, and by 17
    # nothing of 16 wanted to go back.
    assert kept == list(range(10, 17))
    refusals = [a.step for a in actions(tmp_path / "r") if not a.applied]
    assert refusals == [12]


def test_our_own_hook_is_not_called_the_users(tmp_path: Path) -> None:
    model, optimizer = parts()
    probe = fs.Probe(loss=loss, batches=[CASE.batch(8, 0)])
    policy = Guarded(LatentReset("body.3", on=Every(2), steps=99), most=1)
    watch = fs.attach(
        model,
        optimizer,
        run=tmp_path / "r",
        observables=["curvature"],
        probe=probe,
        every=1,
        policies=policy,
        dry_run=False,
    )

    def at(step: int) -> None:
        if step == 5:  # the structure is copied anew, the hook with it
            model.head.bias.requires_grad_(False)

    train(watch, model, optimizer, range(9), at)
    assert len(model.body[3]._forward_hooks) == 1
    watch.close()
    assert not any("hook of yours" in text for text in notes(tmp_path / "r"))


def test_policies_by_name_hear_detectors_by_name(tmp_path: Path) -> None:
    watch, model, optimizer = attach(
        tmp_path / "r",
        ["published_weight_reset", "weight_reset:turnover"],
        detectors=["turnover"],
        dry_run=True,
    )
    train(watch, model, optimizer, range(3))
    watch.close()
    assert actions(tmp_path / "r") == []
    text = "published_weight_reset never read published/c_wrapper_fp: it was not recorded."
    assert text in notes(tmp_path / "r")
    watch, *_ = attach(tmp_path / "s", ["weight_reset:turnover"], detectors=["turnover"])
    watch.close()


def test_several_ranks_are_refused_unless_it_is_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    reset = WeightReset(on=Every(3))
    with pytest.raises(ValueError, match="refused where several ranks train one model"):
        attach(tmp_path / "r", reset)
    assert not (tmp_path / "r").exists()
    attach(tmp_path / "r", reset, dry_run=True)[0].close()
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    both = [reset, Guarded(LatentReset("body.3", on=Every(2), steps=99), most=1)]
    watch, model, optimizer = attach(tmp_path / "s", both)
    train(watch, model, optimizer, range(4))
    # Ranks that come later end what lasts, and nothing more is carried out.
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    before = weights(model)
    train(watch, model, optimizer, range(4, 5))
    assert not model.body[3]._forward_hooks and not torch.equal(weights(model), before)
    watch.close()
    assert [(a.step, a.applied) for a in actions(tmp_path / "s")] == [(2, True), (3, False)]
    assert "Several ranks train one model now" in actions(tmp_path / "s")[-1].reason
    assert "Several ranks" in endings(tmp_path / "s")[0]["why"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_weights_of_a_compiled_model_are_reset_and_its_latents_refused(tmp_path: Path) -> None:
    bare, optimizer = parts()
    model = torch.compile(bare, backend="eager")
    options: dict[str, Any] = {"observables": ["norms"], "every": 1, "dry_run": False}
    latent = LatentReset("body.3", on=Every(2))
    with pytest.raises(ValueError, match="The layer 'body.3' is compiled"):
        fs.attach(model, optimizer, run=tmp_path / "r", policies=[latent], **options)
    assert not (tmp_path / "r").exists()
    policy = WeightReset(on=Every(2))
    watch = fs.attach(model, optimizer, run=tmp_path / "r", policies=[policy], **options)
    train(watch, model, optimizer, range(8))
    watch.close()
    eager_watch, eager, other = attach(tmp_path / "s", [policy])
    train(eager_watch, eager, other, range(8))
    eager_watch.close()
    # The compiled graph reads the perturbed weights: the same losses as without compilation, of
    # which the backend "eager" changes no bit.
    with fs.Run.open(tmp_path / "r") as a, fs.Run.open(tmp_path / "s") as b:
        assert a.series("loss").value.tolist() == b.series("loss").value.tolist()
    # Compiled behind the monitor's back: nothing is heard, nothing raised, and it is said.
    bare, optimizer = parts()
    hidden = torch.compile(bare, backend="eager", fullgraph=True)
    hidden(CASE.batch(16, 0)[0])
    watch = fs.attach(bare, optimizer, run=tmp_path / "t", policies=[latent], **options)
    train(watch, hidden, optimizer, range(6))
    watch.close()
    why = "No training forward ran through the layer outside a compiled graph."
    assert endings(tmp_path / "t")[0]["why"] == why


def test_draws_follow_the_seed_of_the_run(tmp_path: Path) -> None:
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(seed)
        watch, model, optimizer = attach(tmp_path / folder, [WeightReset(on=Every(2))])
        train(watch, model, optimizer, range(6))
        watch.close()
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
