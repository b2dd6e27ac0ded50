"""Rules whose series never came."""

from __future__ import annotations

from foreshock.detectors import CUSUM, KlThreshold, OverOptimisation, unread


def test_each_rule_with_what_it_misses() -> None:
    rules = [CUSUM("loss"), KlThreshold(), OverOptimisation()]
    assert unread(rules, {"loss", "reward/kl", "reward/gold", "reward/proxy"}) == {}
    assert unread(rules, ["loss", "reward/gold"]) == {
        "kl_threshold": ("reward/kl",),
        "over_optimisation": ("reward/proxy",),
    }
