"""Policies: pure rules from recorded values and alarms to actions; torch-free but for `apply`.

Each is a frozen dataclass with ``init`` and ``update`` on values, so that the monitor and
``foreshock replay`` decide the same. What is decided is only recorded unless ``attach`` was told
``dry_run=False``; then `foreshock.policies.apply` carries it out, and nothing else ever does.

No policy here is known to improve training: they make such a claim testable, with `Every` and
`PoissonRate` as the controls that act without a signal.
"""

from __future__ import annotations

from foreshock.policies.boost import DiffusionBoost as DiffusionBoost
from foreshock.policies.council import Council as Council
from foreshock.policies.guard import Guarded as Guarded
from foreshock.policies.guard import Rollback as Rollback
from foreshock.policies.resets import LatentReset as LatentReset
from foreshock.policies.resets import PublishedWeightReset as PublishedWeightReset
from foreshock.policies.resets import WeightReset as WeightReset
from foreshock.policies.trigger_clocks import Every as Every
from foreshock.policies.trigger_clocks import PoissonRate as PoissonRate
from foreshock.policies.trigger_levels import Below as Below
from foreshock.policies.trigger_levels import PublishedBelow as PublishedBelow
from foreshock.policies.trigger_levels import TurnsUp as TurnsUp
from foreshock.policies.triggers import Alarmed as Alarmed
from foreshock.policies.triggers import Cause as Cause
from foreshock.policies.triggers import Trigger as Trigger
from foreshock.types import Policy

__all__ = [
    "BY_NAME",
    "Alarmed",
    "Below",
    "Cause",
    "Council",
    "DiffusionBoost",
    "Every",
    "Guarded",
    "LatentReset",
    "PoissonRate",
    "PublishedBelow",
    "PublishedWeightReset",
    "Rollback",
    "Trigger",
    "TurnsUp",
    "WeightReset",
    "resolve",
]

#: What `attach(policies=["..."])` and ``foreshock replay --policy`` understand.
BY_NAME = {
    "diffusion_boost": DiffusionBoost,
    "published_weight_reset": PublishedWeightReset,
    "weight_reset": WeightReset,
}


def resolve(one: str | Policy) -> Policy:
    """A policy from its name, or the object itself.

    Args:
        one: A name in `BY_NAME` with the detector whose alarms fire it after a colon, or an object.
            Only the published rule brings a trigger of its own. `LatentReset` must know its layer,
            so it has no name here.

    Returns:
        The policy; a name gives it without guards.

    Raises:
        ValueError: If there is no such policy.

    Examples:
        >>> resolve("weight_reset:turnover").on
        Alarmed(detector='turnover')
        >>> resolve("prayer")
        Traceback (most recent call last):
        ...
        ValueError: There is no policy 'prayer'. The names are diffusion_boost, \
published_weight_reset, weight_reset; `LatentReset` needs a layer and is passed as an object.
    """
    if isinstance(one, str):
        name, _, detector = one.partition(":")
        if name not in BY_NAME:
            raise ValueError(
                f"There is no policy {name!r}. The names are {', '.join(sorted(BY_NAME))}; "
                "`LatentReset` needs a layer and is passed as an object."
            )
        if detector:
            return BY_NAME[name](on=detector)
        if name != "published_weight_reset":
            raise ValueError(
                f"The policy {name!r} has no trigger of its own. Name the detector whose alarms "
                f"fire it, '{name}:DETECTOR', or pass an object with on=..."
            )
        return PublishedWeightReset()
    if isinstance(one, type) or not isinstance(one, Policy):
        raise ValueError(
            f"The `policies` of `attach` need name, reads, init and update. Got {one!r}."
        )
    return one
