"""Names of the numbers that reinforcement-learning trainers log, as the reward rules read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RewardName:
    """One row of the table: a key of a trainer, and the series it becomes.

    Args:
        canonical: Our series.
        framework: ``"trl"`` (GRPO and RLOO, 1.16) or ``"verl"``.
        key: The trainer's key, whole; a prefix such as ``train/`` may stand before it.
        note: What the number is, where the two trainers differ.
    """

    canonical: str
    framework: Literal["trl", "verl"]
    key: str
    note: str = ""


#: Every key we know, the preferred one of a series first.
REWARD_NAMES: tuple[RewardName, ...] = (
    RewardName("reward/proxy", "trl", "reward", "weighted sum of all reward functions"),
    RewardName("reward/proxy", "verl", "critic/score/mean", "before the KL penalty"),
    RewardName("reward/proxy", "verl", "critic/rewards/mean", "after the KL penalty, if there is"),
    RewardName("reward/kl", "trl", "kl", "to the reference; only if beta is not 0"),
    RewardName("reward/kl", "verl", "actor/reward_kl_penalty", "to the reference, in the reward"),
    RewardName("reward/kl", "verl", "actor/kl_loss", "to the reference, in the loss"),
    RewardName("reward/entropy", "trl", "entropy"),
    RewardName("reward/entropy", "verl", "actor/entropy"),
    RewardName("reward/entropy", "verl", "actor/entropy_loss", "its name in older versions"),
    RewardName("reward/length", "trl", "completions/mean_length"),
    RewardName("reward/length", "verl", "response_length/mean"),
    RewardName("reward/clip_ratio", "trl", "clip_ratio/region_mean"),
    RewardName("reward/clip_ratio", "verl", "actor/pg_clipfrac"),
    RewardName("reward/proxy_std", "trl", "reward_std", "mean of the groups', or of the batch"),
    RewardName("reward/logp_gap", "trl", "sampling/sampling_logp_difference/mean", "mean |d|"),
    RewardName("reward/ppl_gap", "verl", "rollout_corr/log_ppl_abs_diff", "of mean log-chances"),
    RewardName("reward/cut", "trl", "completions/clipped_ratio", "cut off at the longest length"),
    RewardName("reward/cut", "verl", "response_length/clip_ratio", "of the longest length"),
    RewardName("reward/equal_groups", "trl", "frac_reward_zero_std", "groups without a spread"),
)

#: Every canonical series, the rewards first. No trainer logs the covariance of the two.
CANONICAL: tuple[str, ...] = (
    "reward/proxy",
    "reward/gold",
    "reward/covariance",
    *dict.fromkeys(row.canonical for row in REWARD_NAMES if row.canonical != "reward/proxy"),
)

_WHY = {
    "reward/proxy": "nothing that is optimised is seen: no rule of this family can say anything",
    "reward/gold": (
        "log a reward that is not optimised (in TRL: a reward function with weight 0, or "
        "`log_metric`), and name its key as `gold`"
    ),
    "reward/covariance": (
        "log the covariance of gold and proxy among the responses to a prompt (`within_groups`); "
        "it is what `gold_selection` reads"
    ),
    "reward/kl": (
        "TRL logs `kl` only if `beta` is not 0, and GRPO's default is 0; verl needs `use_kl_loss` "
        "or `use_kl_in_reward`. Rules that read the KL stay silent; reward/entropy, "
        "reward/logp_gap, reward/clip_ratio and reward/length are there without it, to be "
        "calibrated"
    ),
    "reward/proxy_std": (
        "TRL logs `reward_std`; verl logs no spread, so log that of `within_groups`. "
        "`proxy_spread` and `gold_selection` stay silent"
    ),
    "reward/logp_gap": (
        "TRL logs it only where another engine generates the responses; verl's "
        "`rollout_corr/log_ppl_abs_diff` is another number, reward/ppl_gap"
    ),
    "reward/ppl_gap": (
        "verl logs it only where log-chances of another engine are asked for; TRL's number is "
        "reward/logp_gap"
    ),
}


def canonical(
    values: Mapping[str, Any], *, gold: str = "rewards/gold/mean", proxy: str = ""
) -> dict[str, float]:
    """What a trainer logged, under our names, for ``watch.log(canonical(logs))``.

    A series that has a canonical name already is taken as it is; of several keys for one series the
    first of `REWARD_NAMES` that holds a number wins. Evaluation metrics (``eval_...``) are not
    mixed with those of training. ``actor/ppo_kl`` of verl is left out on purpose: it is the
    distance to the policy before this update, not to the reference, and stays near 0 however far
    the policy went.

    TRL and verl average the KL over tokens or over responses depending on the trainer and its
    settings, so a threshold on it is one of a set-up, not of a paper. Preference trainers (DPO's
    ``rewards/margins`` and ``rewards/chosen``, the accuracies of a reward trainer) are left out as
    well: no responses of the policy are rewarded there, so these are no proxy reward. Keys of your
    own are named: ``canonical(logs, proxy="env/score")``.

    Args:
        values: Log entries of TRL or verl; ``None``, nan and text are passed over.
        gold: Key of the held-out reward, which is logged and not optimised.
        proxy: Key of the reward that is optimised, if it is not the trainer's own total.

    Returns:
        Canonical series to number, in the order of `CANONICAL`; without what is not there.

    Examples:
        >>> canonical({"reward": 1.5, "kl": None, "entropy": 2.0, "loss": 0.1})
        {'reward/proxy': 1.5, 'reward/entropy': 2.0}
        >>> canonical({"critic/score/mean": 0.7, "actor/ppo_kl": 1e-4, "val/judge": 0.4},
        ...           gold="val/judge")
        {'reward/proxy': 0.7, 'reward/gold': 0.4}
    """
    found = {}
    for name in CANONICAL:
        named = {"reward/proxy": proxy, "reward/gold": gold}.get(name, "")
        keys = [name, *([named] if named else [])]
        # A reward that the user names is not replaced by the trainer's total.
        if not (name == "reward/proxy" and proxy):
            keys += [row.key for row in REWARD_NAMES if row.canonical == name]
        numbers = (_number(values.get(f"{prefix}{key}")) for key in keys for prefix in _PREFIXES)
        number = next((x for x in numbers if x is not None), None)
        if number is not None:
            found[name] = number
    return found


#: As TRL's callbacks see a key, and as trackers show it.
_PREFIXES = ("", "train/")


def blind_spots(
    values: Mapping[str, Any], *, gold: str = "rewards/gold/mean", proxy: str = ""
) -> dict[str, str]:
    """Which of our series a log entry does not hold, and why, or what a rule then misses.

    Args:
        values: As for `canonical`.
        gold: As for `canonical`.
        proxy: As for `canonical`.

    Returns:
        Canonical series that is absent, to a sentence.

    Examples:
        >>> blind_spots({"reward": 1.0})["reward/kl"].partition(";")[0]
        "reward/kl is not logged: TRL logs `kl` only if `beta` is not 0, and GRPO's default is 0"
    """
    seen = canonical(values, gold=gold, proxy=proxy)
    missing = {}
    for name in CANONICAL:
        if name in seen:
            continue
        keys = [row.key for row in REWARD_NAMES if row.canonical == name]
        if name == "reward/gold":
            keys = [gold]
        elif name == "reward/proxy" and proxy:
            keys = [proxy]
        why = _WHY.get(name, f"none of {', '.join(keys)} holds a number")
        if name in ("reward/proxy", "reward/gold"):
            why = f"none of {', '.join(keys)} holds a number; {why}"
        missing[name] = f"{name} is not logged: {why}."
    return missing


def _number(value: Any) -> float | None:
    """A finite number, also from a 0-d tensor or array; anything else is nothing."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None
