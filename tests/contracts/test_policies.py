"""One suite for every policy, discovered: pure, causal, resumable, and silent on nan.

The live half (a dry run touches nothing, online equals replay, nothing is raised into the loop) is
run on real training, with SGD and AdamW.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock.policies as policies
from foreshock import Run, attach, replay
from foreshock.detectors import CUSUM, Judge, OverOptimisation
from foreshock.evaluation import replay_actions
from foreshock.evaluation.actions import ActionCheck, check_actions
from foreshock.policies import (
    Below,
    Council,
    DescentMargin,
    DiffusionBoost,
    Every,
    Guarded,
    LangevinBatch,
    LangevinBoost,
    LangevinRate,
    LangevinReduce,
    LangevinWarmup,
    LatentReset,
    NoiseScaleBatch,
    Pause,
    PhaseRate,
    PoissonRate,
    PublishedBelow,
    PublishedEarlyStop,
    PublishedWeightReset,
    Rollback,
    StableWarmup,
    Stop,
    TargetBatch,
    TemperatureAnnealing,
    TurnsUp,
    WeightReset,
)
from foreshock.policies.apply import KINDS
from foreshock.policies.record import policy_record, recorded_actions, recorded_policies
from foreshock.types import Action, Alarm, Estimate, Flag, Policy
from tests.cases import CASES, loss

#: Every class of policy with every trigger at least once.
EXAMPLES: dict[str, Policy] = {
    "weight reset on alarms": WeightReset(on="cusum"),
    "weight reset when C turns": WeightReset(on=TurnsUp("c", 0.5, rise=0.0)),
    "weight reset by the clock": WeightReset(on=Every(7)),
    "published weight reset": PublishedWeightReset(on=PublishedBelow("c")),
    "latent reset below": LatentReset("body.3", on=Below("c", 0.2), steps=2),
    "latent reset by Poisson": LatentReset("body.3", on=PoissonRate(0.05)),
    "boost": DiffusionBoost(on=Below("c", 0.2), steps=3),
    "phase rate": PhaseRate("c"),
    "stable warm-up": StableWarmup("c", window=2, refractory=2),
    "langevin rate": LangevinRate("c", refractory=5),
    "langevin reduce": LangevinReduce("c", refractory=5),
    "langevin boost": LangevinBoost("c", steps=3, refractory=10),
    "langevin warm-up": LangevinWarmup(total=100),
    "annealing": TemperatureAnnealing(total=100),
    "descent margin": DescentMargin("c", refractory=5),
    "langevin batch": LangevinBatch(64, "c", window=4, refractory=2),
    "target batch": TargetBatch(64, "c", refractory=5),
    "noise-scale batch": NoiseScaleBatch(64, "c", refractory=5),
    "published early stop": PublishedEarlyStop("c", "c", "c", window=4),
    "stop": Stop(on=Below("c", 0.2)),
    "pause": Pause(on="cusum"),
    "guarded": Guarded(
        PublishedWeightReset(on=PublishedBelow("c")),
        refractory=20,
        rollback=Rollback("loss", window=5, within=30),
    ),
}
rules = pytest.mark.parametrize("policy", EXAMPLES.values(), ids=EXAMPLES)
clocks = {
    *("weight reset by the clock", "latent reset by Poisson"),
    *("langevin warm-up", "annealing"),
}
READ = {name: p for name, p in EXAMPLES.items() if name not in clocks}

#: Kinds that change training by themselves, of those that are carried out.
CHANGING = set(KINDS) - {"advise_batch", "pause", "stop"}

Rows = list[tuple[int, dict[str, Estimate], list[Alarm]]]


def rows(n: int = 300, seed: int = 0) -> Rows:
    """A C that dips and comes back, a loss that spikes, gaps, nan, flags, and alarms."""
    draw = random.Random(seed)
    found: Rows = []
    for step in range(n):
        values = {}
        for name in ("c", "loss"):
            if draw.random() < 0.1:
                continue
            x = 0.5 + 0.5 * math.cos(step / 20) + draw.gauss(0, 0.02)
            if name == "loss":
                x = 1.0 + draw.gauss(0, 0.05) + (5.0 if step % 90 > 75 else 0.0)
            x = {0: math.nan, 1: math.inf}.get(draw.randrange(60), x)
            flagged = draw.random() < 0.02
            values[name] = Estimate.missing("no") if flagged else Estimate.exact(x)
        alarms = [Alarm(step, "cusum", "loss", 6.0, 5.0, "It rose.")] if step % 50 == 33 else []
        if values:
            found.append((step, values, alarms))
    return found


def actions(policy: Policy, given: Rows) -> list[Action]:
    council = Council([policy])
    return [a for step, values, alarms in given for a in council.feed(step, values, alarms)]


def test_the_examples_reach_every_policy_and_every_trigger() -> None:
    ours = [v for v in vars(policies).values() if dataclasses.is_dataclass(v)]
    acting = {v for v in ours if hasattr(v, "reads")}
    used = set()

    def look(value: Any) -> None:
        if dataclasses.is_dataclass(value):
            used.add(type(value))
            for field in dataclasses.fields(value):
                look(getattr(value, field.name))

    for policy in EXAMPLES.values():
        look(policy)
    assert acting <= used


@rules
def test_something_is_wanted_so_that_the_suite_can_fail(policy: Policy) -> None:
    assert actions(policy, rows())


def test_the_guarded_one_wants_to_go_back() -> None:
    assert {a.kind for a in actions(EXAMPLES["guarded"], rows())} == {"reset_weights", "rollback"}


@rules
def test_pure(policy: Policy) -> None:
    state = policy.init()
    for step, values, alarms in rows():
        before = pickle.dumps((policy, state, values, alarms))
        first = policy.update(state, step, values, alarms)
        assert pickle.dumps((policy, state, values, alarms)) == before
        assert policy.update(state, step, values, alarms) == first
        state = first[0]
    assert policy.init() == policy.init()
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.nothing = 1


@rules
def test_causal(policy: Policy) -> None:
    given = rows()
    whole = actions(policy, given)
    for cut in range(10, len(given), 13):
        assert actions(policy, given[:cut]) == [a for a in whole if a.step <= given[cut - 1][0]]


@rules
def test_resumable_serialisable_and_bounded(policy: Policy) -> None:
    state, sizes, resumed = policy.init(), [], []
    for step, values, alarms in rows(2000):
        state, found = policy.update(pickle.loads(pickle.dumps(state)), step, values, alarms)
        json.dumps(dataclasses.asdict(state))
        sizes.append(len(pickle.dumps(state)))
        resumed += found
    assert max(sizes) < 2000
    assert resumed == actions(policy, rows(2000))


@pytest.mark.parametrize("bad", [math.nan, math.inf, "flagged"])
@pytest.mark.parametrize("policy", READ.values(), ids=READ)
def test_what_is_nan_or_flagged_never_leads_to_an_action(policy: Policy, bad: Any) -> None:
    estimate = Estimate.missing("no") if bad == "flagged" else Estimate.exact(bad)
    low = dataclasses.replace(estimate, value=0.1) if bad == "flagged" else estimate
    given = [(t, {"c": low, "loss": estimate}, []) for t in range(200)]
    alarm = Alarm(100, "cusum", "loss", math.nan, 5.0, "It rose.")
    given[100] = (100, given[100][1], [alarm])
    assert actions(policy, given) == []


def told(values: dict[str, float], flagged: str) -> dict[str, Estimate]:
    """Numbers of a step, one of them finite and flagged, and farther off than the others."""
    flag = {"flags": Flag.NOT_CONVERGED, "reason": "Too few iterations."}
    return {
        name: Estimate(x + 4.0, **flag) if name == flagged else Estimate(x)
        for name, x in values.items()
    }


@pytest.mark.parametrize("flagged", ["reward/proxy", "reward/gold", "nothing"])
def test_no_flagged_estimate_has_a_part_in_an_alarm_that_leads_to_an_action(flagged: str) -> None:
    """Gold turns while the proxy rises, which is what the detector is for, if it may see both."""
    council, draw, found = Council([Stop(on="over_optimisation")]), random.Random(1), []
    judge = Judge([OverOptimisation()], heard=[(0, council.hears.values())])
    for step in range(1400):
        gold = min(step, 2000 - step) * 0.01 + draw.gauss(0, 0.05)
        row = {"reward/proxy": step * 0.01 + draw.gauss(0, 0.05), "reward/gold": gold}
        values = told(row, flagged)
        found += council.feed(step, values, judge.feed(step, values))
    assert [a.kind for a in found] == ([] if flagged != "nothing" else ["stop"])


def test_a_sum_of_flagged_values_leads_to_no_action_and_replays(tmp_path: Path) -> None:
    """Three of four values are flagged and far off from 60 on; the others are as before."""
    flag = {"flags": Flag.NOT_CONVERGED, "reason": "Too few iterations."}
    policy, rule = WeightReset(on="cusum"), CUSUM("c", warmup=20, threshold=5.0, name="cusum")
    kept: dict[str, int] = {}
    for heard in ([policy], [WeightReset(on=Every(1000))]):
        torch.manual_seed(0)
        folder, draw = tmp_path / str(len(kept)), random.Random(3)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = attach(
            model, optimizer, run=folder, observables=[], detectors=[rule], policies=heard
        )
        for step in range(120):
            optimizer.step()
            x = draw.gauss(0, 1)
            watch.log(c=Estimate(x + 4.0, **flag) if step >= 60 and step % 4 else Estimate(x))
        watch.close()
        with Run.open(folder) as run:
            kept[heard[0].on.__class__.__name__] = len(run.events("alarm"))
            assert len(replay(run, [rule])) == len(run.events("alarm"))
            assert recorded_actions(run.events("action")) == []
    # Where nothing hears it, the alarm is still there for a person.
    assert kept["Alarmed"] == 0 < kept["Every"]


@rules
def test_actions_say_why_in_numbers_and_in_a_sentence(policy: Policy) -> None:
    for action in actions(policy, rows()):
        assert action.policy == policy.name and not action.applied
        assert math.isfinite(action.arguments["threshold"]) and "value" in action.arguments
        assert action.reason.endswith(".") and len(action.reason) > 30
        json.dumps(dataclasses.asdict(action))


# ---------------------------------------------------------------- on training

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def train(optimizer_name: str, folder: Path | None, chosen: list[Policy], **options: Any) -> bytes:
    """Everything that 35 steps of training leave behind; C dips below its threshold in between."""
    torch.manual_seed(0)
    case = CASES["mlp"]
    model = case.model().train()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    watch = None
    if folder is not None:
        detectors = [CUSUM("loss", warmup=2, threshold=0.1, name="cusum")]
        watch = attach(
            model,
            optimizer,
            run=folder,
            observables=["norms"],
            every=3,
            detectors=detectors,
            policies=chosen,
            on_pause=lambda action: None,
            **options,
        )
    for step in range(35):
        optimizer.zero_grad()
        value = loss(model, case.batch(16, step))
        value.backward()
        optimizer.step()
        if watch is not None:
            watch.log(loss=value, c=Estimate.exact(0.5 + 0.5 * math.cos(step / 5)))
    if watch is not None:
        watch.close()
    left = [model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]
    left += [p.grad for p in model.parameters()]
    return pickle.dumps(torch.utils._pytree.tree_map(_bytes, left))


def _bytes(value: Any) -> Any:
    return value.detach().numpy().tobytes() if isinstance(value, torch.Tensor) else value


@functools.cache
def untouched(optimizer: str) -> bytes:
    return train(optimizer, None, [])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_dry_run_leaves_training_bitwise_untouched(optimizer: str, tmp_path: Path) -> None:
    bare = untouched(optimizer)
    named = [rename(policy, name) for name, policy in EXAMPLES.items()]
    assert train(optimizer, tmp_path / "r", named) == bare
    with Run.open(tmp_path / "r") as run:
        found = recorded_actions(run.events("action"))
        assert {a.policy for a in found} == {p.name for p in named}
        assert not any(a.applied for a in found)


def rename(policy: Policy, name: str) -> Policy:
    if isinstance(policy, Guarded):
        return dataclasses.replace(policy, policy=rename(policy.policy, name))
    return dataclasses.replace(policy, name=name)  # type: ignore[type-var]


@rules
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_carried_out_it_changes_training_and_repeats(
    policy: Policy, optimizer: str, tmp_path: Path
) -> None:
    bare = untouched(optimizer)
    first = train(optimizer, tmp_path / "a", [policy], dry_run=False)
    with Run.open(tmp_path / "a") as a:
        kinds = {action.kind for action in recorded_actions(a.events("action"))}
    if not kinds & CHANGING:
        # Advice, a stop and a pause are for the loop, which here does not look.
        assert kinds and first == bare
        return
    assert first != bare
    assert train(optimizer, tmp_path / "b", [policy], dry_run=False) == first
    with Run.open(tmp_path / "a") as a, Run.open(tmp_path / "b") as b:
        found = recorded_actions(a.events("action"))
        assert any(action.applied for action in found)
        assert found == recorded_actions(b.events("action"))


@rules
@pytest.mark.parametrize("dry_run", [True, False])
def test_online_equals_replay(policy: Policy, dry_run: bool, tmp_path: Path) -> None:
    train("sgd", tmp_path / "r", [policy], dry_run=dry_run)

    def decided(found: list[Action]) -> list[Action]:
        plain = [
            dataclasses.replace(a, applied=False, reason=a.reason.split(" Not carried")[0])
            for a in found
        ]
        return sorted(plain, key=lambda a: a.step)

    with Run.open(tmp_path / "r") as run:
        online = decided(recorded_actions(run.events("action")))
        assert online
        assert replay_actions(run, [policy]) == online
        again = [CUSUM("loss", warmup=2, threshold=0.1, name="cusum")]
        assert replay_actions(run, [policy], again) == online
        assert len(replay(run, again)) == len(run.events("alarm"))
        assert recorded_policies(run.events("policies")) == [policy]
        assert policy_record(policy)["reads"] == list(policy.reads)


SITUATIONS = ("a nan loss", "gradient accumulation", "a gradient scaler")


def odd_train(situation: str, folder: Path | None, **options: Any) -> bytes:
    """As `train`, in a loop that is not the plain one; all examples that watch `c` at once."""
    torch.manual_seed(0)
    case = CASES["mlp"]
    model = case.model().train()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=situation == "a gradient scaler", init_scale=8.0)
    chosen = [rename(policy, name) for name, policy in EXAMPLES.items()]
    watch = None
    if folder is not None:
        detectors = [CUSUM("loss", warmup=2, threshold=0.1, name="cusum")]
        watch = attach(
            model,
            optimizer,
            run=folder,
            observables=["norms"],
            every=3,
            detectors=detectors,
            policies=chosen,
            on_pause=lambda action: None,
            **options,
        )
    for step in range(35):
        optimizer.zero_grad()
        value = torch.zeros(())
        for part in range(2 if situation == "gradient accumulation" else 1):
            value = loss(model, case.batch(16, 2 * step + part))
            if situation == "a nan loss" and step == 20:
                value = value * math.nan
            if situation == "a gradient scaler" and step in (20, 21):
                value = value * math.inf  # the scaler skips these updates
            scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        if watch is not None:
            watch.log(loss=value, c=Estimate.exact(0.5 + 0.5 * math.cos(step / 5)))
    if watch is not None:
        watch.close()
    left = [model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]
    return pickle.dumps(torch.utils._pytree.tree_map(_bytes, left))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_all_of_them_at_once_in_loops_that_are_not_plain(situation: str, tmp_path: Path) -> None:
    bare = odd_train(situation, None)
    assert odd_train(situation, tmp_path / "dry") == bare
    live = odd_train(situation, tmp_path / "a", dry_run=False)
    assert live != bare and odd_train(situation, tmp_path / "b", dry_run=False) == live
    for name in ("dry", "a"):
        with Run.open(tmp_path / name) as run:
            assert check_actions(run) == ActionCheck(len(run.events("action")), True)
            assert not [e for e in run.events("note") if "gave up" in e.payload["text"]]
            assert run.events("policy_off") == []
    with Run.open(tmp_path / "a") as run:
        done = recorded_actions(run.events("action"))
        assert {a.policy for a in done if a.applied}
        # While the guarded one watches, what others want is refused with a sentence.
        refused = [a for a in done if not a.applied]
        assert all(" Not carried out: " in a.reason for a in refused)
