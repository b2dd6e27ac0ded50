"""The name table: what TRL and verl log, in our names, and what is said where it is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import REWARD_NAMES, blind_spots, canonical
from foreshock.detectors.reward_names import CANONICAL

# A GRPO step of TRL with beta = 0: no `kl`, and a window that was all nan.
GRPO = {
    "loss": 0.01,
    "reward": 1.25,
    "reward_std": 0.5,
    "rewards/style/mean": 2.0,
    "rewards/gold/mean": 0.75,
    "entropy": 1.5,
    "completions/mean_length": 128.0,
    "completions/max_length": 256.0,
    "clip_ratio/region_mean": 0.01,
    "clip_ratio/low_mean": None,
    "sampling/sampling_logp_difference/mean": 0.02,
    "eval_reward": 9.0,
}
VERL = {
    "critic/score/mean": 0.5,
    "critic/rewards/mean": 0.375,
    "actor/ppo_kl": 1e-4,
    "actor/kl_loss": 0.25,
    "actor/entropy": 2.0,
    "actor/pg_clipfrac": 0.125,
    "response_length/mean": 512.0,
}


def test_a_trl_log() -> None:
    assert canonical(GRPO) == {
        "reward/proxy": 1.25,
        "reward/gold": 0.75,
        "reward/entropy": 1.5,
        "reward/length": 128.0,
        "reward/clip_ratio": 0.01,
        "reward/proxy_std": 0.5,
        "reward/logp_gap": 0.02,
    }
    missing = blind_spots(GRPO)
    only_verl = {"reward/ppl_gap"}
    assert set(missing) - only_verl == {"reward/covariance", "reward/kl", "reward/cut",
                                        "reward/equal_groups"}  # fmt: skip
    assert "GRPO's default is 0" in missing["reward/kl"]
    more = {"completions/clipped_ratio": 0.5, "frac_reward_zero_std": 0.25}
    assert canonical(more) == {"reward/cut": 0.5, "reward/equal_groups": 0.25}


def test_a_verl_log() -> None:
    found = canonical(VERL)
    assert found["reward/proxy"] == 0.5  # before the penalty
    assert found["reward/kl"] == 0.25  # to the reference, not to the policy before the update
    assert found["reward/clip_ratio"] == 0.125 and found["reward/length"] == 512.0
    assert canonical({"actor/ppo_kl": 1e-4}) == {}
    assert canonical({"critic/rewards/mean": 1.0}) == {"reward/proxy": 1.0}
    # What verl does not log is not asked for by TRL's name alone.
    assert "verl logs no spread" in blind_spots(VERL)["reward/proxy_std"]
    # Two quantities, two series: a mean of |d| a token, and |d| of a response's means.
    gaps = {"rollout_corr/log_ppl_abs_diff": 0.1, "sampling/sampling_logp_difference/mean": 0.2}
    assert canonical(gaps) == {"reward/logp_gap": 0.2, "reward/ppl_gap": 0.1}
    # No responses of the policy are rewarded by a preference trainer.
    assert canonical({"rewards/margins": 1.0, "rewards/chosen": 2.0}) == {}
    # The penalty of the reward is preferred to that of the loss, in either order of the log.
    two = {"actor/kl_loss": 0.25, "actor/reward_kl_penalty": 3.0}
    assert canonical(two) == canonical(dict(reversed(two.items()))) == {"reward/kl": 3.0}


def test_the_users_choice_is_not_replaced() -> None:
    assert canonical(GRPO, proxy="rewards/style/mean")["reward/proxy"] == 2.0
    # The proxy that was named is absent: the total is another reward, so nothing is better.
    assert "reward/proxy" not in canonical(GRPO, proxy="rewards/tone/mean")
    assert "rewards/tone/mean" in blind_spots(GRPO, proxy="rewards/tone/mean")["reward/proxy"]
    assert "val/judge" in blind_spots(GRPO, gold="val/judge")["reward/gold"]
    assert canonical(GRPO, gold="reward_std")["reward/gold"] == 0.5
    assert canonical({"reward/kl": 4.0, "kl": 5.0}) == {"reward/kl": 4.0}  # ours already


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.1", b"1", [1.0, 2.0], object()])
def test_what_is_no_number_is_passed_over(value: object) -> None:
    assert canonical({"reward": 1.0, "kl": value}) == {"reward/proxy": 1.0}
    # And the next name for the series is tried.
    assert canonical({"actor/reward_kl_penalty": value, "actor/kl_loss": 2}) == {"reward/kl": 2.0}


def test_scalars_of_libraries_and_tracker_prefixes() -> None:
    found = canonical({"train/reward": np.float32(0.5), "train/kl": np.array(0.25), "epoch": 1})
    assert found == {"reward/proxy": 0.5, "reward/kl": 0.25}
    assert {type(x) for x in found.values()} == {float}


def test_the_table() -> None:
    keys = [(row.framework, row.key) for row in REWARD_NAMES]
    assert len(keys) == len(set(keys))
    assert {row.canonical for row in REWARD_NAMES} | {"reward/gold", "reward/covariance"} == set(
        CANONICAL
    )
    for row in REWARD_NAMES:  # each row is reached by its own key
        assert canonical({row.key: 0.5}) == {row.canonical: 0.5}
    assert set(blind_spots({})) == set(CANONICAL)
    assert all(s.startswith(n) and s.endswith(".") for n, s in blind_spots({}).items())
