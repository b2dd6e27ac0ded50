"""Policies: pure rules from recorded values and alarms to actions; only `apply` needs torch.

Each is a frozen dataclass with ``init`` and ``update`` on values, so that the monitor and
``foreshock replay`` decide the same. What is decided is only recorded unless ``attach`` was told
``dry_run=False``; then `foreshock.policies.apply` carries it out, and nothing else ever does.

No policy here is known to improve training: they make such a claim testable, with `Every` and
`PoissonRate` as the controls that act without a signal.
"""

from __future__ import annotations

from foreshock.policies.batches import LangevinBatch as LangevinBatch
from foreshock.policies.batches import NoiseScaleBatch as NoiseScaleBatch
from foreshock.policies.batches import TargetBatch as TargetBatch
from foreshock.policies.boost import DiffusionBoost as DiffusionBoost
from foreshock.policies.council import Council as Council
from foreshock.policies.descent_margin import DescentMargin as DescentMargin
from foreshock.policies.guard import Guarded as Guarded
from foreshock.policies.guard import Rollback as Rollback
from foreshock.policies.rate_clocks import LangevinWarmup as LangevinWarmup
from foreshock.policies.rate_clocks import TemperatureAnnealing as TemperatureAnnealing
from foreshock.policies.rates_langevin import LangevinBoost as LangevinBoost
from foreshock.policies.rates_langevin import LangevinRate as LangevinRate
from foreshock.policies.rates_langevin import LangevinReduce as LangevinReduce
from foreshock.policies.rates_signal import PhaseRate as PhaseRate
from foreshock.policies.rates_signal import StableWarmup as StableWarmup
from foreshock.policies.resets import LatentReset as LatentReset
from foreshock.policies.resets import PublishedWeightReset as PublishedWeightReset
from foreshock.policies.resets import WeightReset as WeightReset
from foreshock.policies.stops import Pause as Pause
from foreshock.policies.stops import PublishedEarlyStop as PublishedEarlyStop
from foreshock.policies.stops import Stop as Stop
from foreshock.policies.suggest import Suggestion as Suggestion
from foreshock.policies.suggest import Suggestions as Suggestions
from foreshock.policies.suggest import suggest_lr as suggest_lr
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
    "ON_ALARMS",
    "Alarmed",
    "Below",
    "Cause",
    "Council",
    "DescentMargin",
    "DiffusionBoost",
    "Every",
    "Guarded",
    "LangevinBatch",
    "LangevinBoost",
    "LangevinRate",
    "LangevinReduce",
    "LangevinWarmup",
    "LatentReset",
    "NoiseScaleBatch",
    "Pause",
    "PhaseRate",
    "PoissonRate",
    "PublishedBelow",
    "PublishedEarlyStop",
    "PublishedWeightReset",
    "Rollback",
    "StableWarmup",
    "Stop",
    "Suggestion",
    "Suggestions",
    "TargetBatch",
    "TemperatureAnnealing",
    "Trigger",
    "TurnsUp",
    "WeightReset",
    "resolve",
    "suggest_lr",
]

#: What `attach(policies=["..."])` and ``foreshock replay --policy`` understand.
BY_NAME = {
    "descent_margin": DescentMargin,
    "diffusion_boost": DiffusionBoost,
    "langevin_boost": LangevinBoost,
    "langevin_rate": LangevinRate,
    "langevin_reduce": LangevinReduce,
    "phase_rate": PhaseRate,
    "published_early_stop": PublishedEarlyStop,
    "published_weight_reset": PublishedWeightReset,
    "stable_warmup": StableWarmup,
    "weight_reset": WeightReset,
}
#: What a detector's alarms can fire, as ``name:detector``; the last two are nothing without one.
ON_ALARMS = {
    "diffusion_boost": DiffusionBoost,
    "published_weight_reset": PublishedWeightReset,
    "weight_reset": WeightReset,
    "pause": Pause,
    "stop": Stop,
}


def resolve(one: str | Policy) -> Policy:
    """A policy from its name, or the object itself.

    Args:
        one: A name in `BY_NAME`, with the detector whose alarms fire it after a colon where it has
            no trigger of its own, or an object. `LatentReset` must know its layer, so it has no
            name here, nor have those that need a number (steps of the training, or a batch size).

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
        ValueError: There is no policy 'prayer'. The names are descent_margin, diffusion_boost, \
langevin_boost, langevin_rate, langevin_reduce, phase_rate, published_early_stop, \
published_weight_reset, stable_warmup, weight_reset, pause:DETECTOR and stop:DETECTOR; \
`LatentReset` needs a layer and is passed as an object, like all that need a number.
    """
    if isinstance(one, str):
        name, _, detector = one.partition(":")
        if detector and name in ON_ALARMS:
            return ON_ALARMS[name](on=detector)
        if detector and name in BY_NAME:
            raise ValueError(
                f"{name!r} listens to no detector. Of the names, {', '.join(sorted(ON_ALARMS))} do."
            )
        if name not in BY_NAME:
            raise ValueError(
                f"There is no policy {name!r}. The names are {', '.join(sorted(BY_NAME))}, "
                "pause:DETECTOR and stop:DETECTOR; `LatentReset` needs a layer and is passed as an "
                "object, like all that need a number."
            )
        if name in ("diffusion_boost", "weight_reset"):
            raise ValueError(
                f"The policy {name!r} has no trigger of its own. Name the detector whose alarms "
                f"fire it, '{name}:DETECTOR', or pass an object with on=..."
            )
        return BY_NAME[name]()
    if isinstance(one, type) or not isinstance(one, Policy):
        raise ValueError(
            f"The `policies` of `attach` need name, reads, init and update. Got {one!r}."
        )
    return one
