"""Policies by name, in a run and back, and the council that asks them."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from foreshock.policies import (
    BY_NAME,
    ON_ALARMS,
    Alarmed,
    Below,
    Council,
    DiffusionBoost,
    Every,
    Guarded,
    LatentReset,
    PoissonRate,
    PublishedWeightReset,
    Rollback,
    TurnsUp,
    WeightReset,
    resolve,
)
from foreshock.policies.record import policy_record, recorded_actions, recorded_policies
from foreshock.types import Action

POLICIES = [
    WeightReset(on="cusum(loss up)", scale=0.2),
    PublishedWeightReset(name="mine"),
    LatentReset("body.1", on=PoissonRate(0.1, 3), steps=4),
    DiffusionBoost(on=Below("latent/c", 0.7)),
    Guarded(WeightReset(on=TurnsUp("latent/c", 0.5)), rollback=Rollback(within=9)),
    Guarded(WeightReset(on=Every(3)), refractory=7),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_comes_back_from_its_record_through_json(policy) -> None:
    record = json.loads(json.dumps(policy_record(policy)))
    (back,) = recorded_policies([SimpleNamespace(payload={"policies": [record]})])
    assert back == policy


def test_what_is_not_ours_is_named_and_not_rebuilt() -> None:
    @dataclasses.dataclass(frozen=True)
    class WeightReset:  # of our name, and not ours
        name: str = "theirs"
        reads: tuple[str, ...] = ("loss",)

        def init(self) -> None: ...

        def update(self, state, step, values, alarms):
            return state, []

    record = policy_record(WeightReset())
    assert record == {
        "kind": "WeightReset", "name": "theirs", "reads": ["loss"], "arguments": None
    }  # fmt: skip
    held = policy_record(Guarded(WeightReset()))  # theirs, within ours
    assert held["arguments"] is None
    assert recorded_policies([SimpleNamespace(payload={"policies": [record, held]})]) == []


def test_actions_come_back_without_what_the_monitor_adds() -> None:
    action = Action(7, "p", "reset_latents", {"layer": "body.1", "steps": 3.0}, "why", True)
    payload = json.loads(json.dumps({**dataclasses.asdict(action), "after_update": 8}))
    assert recorded_actions([SimpleNamespace(payload=payload)]) == [action]


def test_names() -> None:
    assert {resolve(f"{name}:cusum").name for name in ON_ALARMS} == set(ON_ALARMS)
    alone = set(BY_NAME) - {"diffusion_boost", "weight_reset"}
    assert {resolve(name).name for name in alone} == alone
    with pytest.raises(ValueError, match="listens to no detector"):
        resolve("langevin_rate:cusum")
    assert resolve("published_weight_reset") == PublishedWeightReset()
    for name in ("diffusion_boost", "weight_reset"):
        with pytest.raises(ValueError, match=f"{name}' has no trigger of its own.*:DETECTOR"):
            resolve(name)
        with pytest.raises(TypeError, match="on"):
            BY_NAME[name]()
    assert resolve("diffusion_boost:turnover") == DiffusionBoost(on=Alarmed("turnover"))
    with pytest.raises(ValueError, match="`LatentReset` needs a layer and is passed as an object"):
        resolve("latent_reset")
    with pytest.raises(ValueError, match="`policies` of `attach` need name"):
        resolve(WeightReset)  # type: ignore[arg-type]


def test_a_policy_that_fails_is_dropped_and_its_siblings_go_on() -> None:
    class Broken:
        name, reads = "broken", ()

        def init(self) -> None: ...

        def update(self, state, step, values, alarms):
            raise RuntimeError("mine")

    dropped: list[str] = []
    council = Council(
        [Broken(), WeightReset(on=Every(2))], on_error=lambda p, e: dropped.append(f"{p.name}: {e}")
    )
    found = [a.step for t in range(5) for a in council.feed(t, {}, [])]
    assert found == [2, 4] and dropped == ["broken: mine"]
    with pytest.raises(RuntimeError, match="mine"):
        Council([Broken()]).feed(0, {}, [])
    with pytest.raises(ValueError, match="Two policies are called 'weight_reset'"):
        Council([WeightReset("a"), Guarded(WeightReset("a"))])
