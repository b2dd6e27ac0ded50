"""Actions on a live run: when they are carried out, what is recorded, and nothing is raised."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock as fs
from foreshock.policies import (
    BY_NAME,
    DiffusionBoost,
    Every,
    Guarded,
    LatentReset,
    Rollback,
    WeightReset,
)
from foreshock.policies.apply import Applier
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


def test_boost_is_always_restored_also_by_close_and_by_giving_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = DiffusionBoost(on=Every(2), steps=3)
    for how in ("itself", "close", "giving up"):
        watch, model, optimizer = attach(tmp_path / how, [Guarded(policy, most=1)])
        train(watch, model, optimizer, range(5))  # decided at 2, begun after update 3
        if how == "close":
            watch.close()
        elif how == "giving up":
            with monkeypatch.context() as patch:
                patch.setattr(watch._recorder, "begin", lambda step: 1 / 0)
                train(watch, model, optimizer, range(5, 6))
        else:
            train(watch, model, optimizer, range(5, 7))
        twin, other = parts()
        twin.load_state_dict(model.state_dict())
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            other.state[b]["momentum_buffer"] = optimizer.state[a]["momentum_buffer"].clone()
        train(watch, model, optimizer, range(20, 30))
        train(None, twin, other, range(20, 30))
        assert torch.equal(weights(model), weights(twin)), how
        watch.close()
    assert "The boost of diffusion_boost ended: 3 updates." in notes(tmp_path / "itself")


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
        if self.how == "unknown kind":
            return state, [Action(step, "odd", "pray", {}, "Why not.")]
        return state, [Action(step, "odd", "reset_weights", {}, "No numbers.")]


@pytest.mark.parametrize("how", ["raises", "returns nothing", "unknown kind", "no numbers"])
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
        assert off == (["odd"] if how in ("raises", "returns nothing") else [])
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


def test_policies_by_name_hear_detectors_by_name(tmp_path: Path) -> None:
    watch, model, optimizer = attach(
        tmp_path / "r", sorted(BY_NAME), detectors=["turnover"], dry_run=True
    )
    train(watch, model, optimizer, range(3))
    watch.close()
    assert actions(tmp_path / "r") == []
    assert "weight_reset never read latent/c: it was not recorded." in notes(tmp_path / "r")
    watch, *_ = attach(tmp_path / "s", ["weight_reset:turnover"], detectors=["turnover"])
    watch.close()


def test_several_ranks_are_refused_unless_it_is_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="refused where several ranks train one model"):
        attach(tmp_path / "r", ["weight_reset"])
    assert not (tmp_path / "r").exists()
    attach(tmp_path / "r", ["weight_reset"], dry_run=True)[0].close()
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    attach(tmp_path / "s", ["weight_reset"])[0].close()


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
    assert any("no training forward ran through the layer" in t for t in notes(tmp_path / "t"))


def test_draws_follow_the_seed_of_the_run(tmp_path: Path) -> None:
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(seed)
        watch, model, optimizer = attach(tmp_path / folder, [WeightReset(on=Every(2))])
        train(watch, model, optimizer, range(6))
        watch.close()
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
