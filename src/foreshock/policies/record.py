"""Policies and actions as they are written into a run, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Protocol

from foreshock.policies.batches import LangevinBatch, NoiseScaleBatch, TargetBatch
from foreshock.policies.boost import DiffusionBoost
from foreshock.policies.descent_margin import DescentMargin
from foreshock.policies.guard import Guarded, Rollback
from foreshock.policies.rate_clocks import LangevinWarmup, TemperatureAnnealing
from foreshock.policies.rates_langevin import LangevinBoost, LangevinRate, LangevinReduce
from foreshock.policies.rates_signal import PhaseRate, StableWarmup
from foreshock.policies.resets import LatentReset, PublishedWeightReset, WeightReset
from foreshock.policies.stops import Pause, PublishedEarlyStop, Stop
from foreshock.policies.trigger_clocks import Every, PoissonRate
from foreshock.policies.trigger_levels import Below, PublishedBelow, TurnsUp
from foreshock.policies.triggers import Alarmed
from foreshock.types import Action, Policy

_KINDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(Alarmed, Below, Every, PoissonRate, PublishedBelow, TurnsUp),
        *(DiffusionBoost, Guarded, LatentReset, PublishedWeightReset, Rollback, WeightReset),
        *(PhaseRate, StableWarmup, LangevinRate, LangevinReduce, LangevinBoost, DescentMargin),
        *(LangevinWarmup, TemperatureAnnealing, LangevinBatch, TargetBatch, NoiseScaleBatch),
        *(PublishedEarlyStop, Stop, Pause),
    )
}


#: Between why an action was wanted and why it was not done.
_REFUSED = " Not carried out: "


class _Event(Protocol):
    @property
    def payload(self) -> Mapping[str, Any]: ...


def policy_record(policy: Policy) -> dict[str, Any]:
    """What to write about a policy so that a replay can build it again.

    Args:
        policy: Any policy; only those of this package, of its triggers, can be built again.

    Returns:
        Class, name, series, and arguments (None for what cannot be built again).

    Examples:
        >>> policy_record(WeightReset(on=Every(5)))["arguments"]["on"]
        {'kind': 'Every', 'arguments': {'period': 5}}
    """
    try:
        arguments = _packed(policy)["arguments"]
    except TypeError:
        arguments = None
    return {
        "kind": type(policy).__name__,
        "name": policy.name,
        "reads": list(policy.reads),
        "arguments": arguments,
    }


def recorded_policies(events: Iterable[_Event]) -> list[Policy]:
    """Policies of the last ``policies`` event that can be built again: those of this package."""
    last: list[Mapping[str, Any]] = []
    for event in events:
        last = event.payload["policies"]
    return [_unpacked(record) for record in last if record["arguments"] is not None]


def recorded_parts(events: Iterable[_Event]) -> list[tuple[int, frozenset[str] | None]]:
    """Where a run was resumed, and for which policies actions were carried out before.

    Args:
        events: The ``policies`` events of a run.

    Returns:
        First step of each part with policies, and the names; None where the part is dry.
    """
    found: list[tuple[int, frozenset[str] | None]] = []
    acted_for: frozenset[str] = frozenset()
    for event in events:
        live = not event.payload["dry_run"]
        found.append((event.payload.get("resumed_at", 0), acted_for if live else None))
        names = (record["name"] for record in event.payload["policies"])
        acted_for = frozenset(names if live else ())
    return found


def recorded_actions(events: Iterable[_Event]) -> list[Action]:
    """Actions from ``action`` events, as decided and as carried out, in the order of the events.

    Args:
        events: Events of a run.

    Returns:
        The actions; what was carried out has ``applied`` and, if it could not be, says why.

    Examples:
        >>> from dataclasses import asdict
        >>> from types import SimpleNamespace
        >>> action = Action(7, "weight_reset", "reset_weights", {"fraction": 0.1}, "C turned.")
        >>> recorded_actions([SimpleNamespace(payload=asdict(action))]) == [action]
        True
    """
    names = {field.name for field in fields(Action)}
    return [Action(**{k: v for k, v in e.payload.items() if k in names}) for e in events]


def as_decided(action: Action) -> Action:
    """An action as the policy decided it, without what became of it.

    Args:
        action: An action on record.

    Returns:
        The action as a replay gives it.

    Examples:
        >>> gone = "Why. Not carried out: the run ended before the next update."
        >>> as_decided(Action(7, "p", "rollback", {}, gone)).reason
        'Why.'
    """
    return replace(action, applied=False, reason=action.reason.split(_REFUSED)[0])


def was_refused(action: Action) -> bool:
    """Whether an action on record was to be carried out, and could not be.

    Args:
        action: An action on record.

    Returns:
        Not so where it was carried out, nor in a dry run.

    Examples:
        >>> gone = "Why. Not carried out: the run ended before the next update."
        >>> [was_refused(Action(7, "p", "stop", {}, why)) for why in (gone, "Why.")]
        [True, False]
    """
    return not action.applied and _REFUSED in action.reason


def _packed(value: Any) -> Any:
    """A value with its kind beside it, wherever one is nested in another."""
    if type(value).__name__ in _KINDS and type(value) is _KINDS[type(value).__name__]:
        inner = {field.name: _packed(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, "arguments": inner}
    if value is None or isinstance(value, (int, float, str)):
        return value
    raise TypeError(f"{value!r} is not one of ours")


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {name: _unpacked(one) for name, one in value["arguments"].items()}
        return _KINDS[value["kind"]](**inner)
    return value
