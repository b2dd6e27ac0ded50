"""Detectors: causal rules on recorded series, one file per rule, torch-free.

Each is a frozen dataclass with ``init`` and ``update`` on values, so the monitor and
``foreshock replay`` run the same code and raise the same alarms.
"""

from __future__ import annotations

from foreshock.detectors.calibration import Calibration as Calibration
from foreshock.detectors.calibration import setup_digest as setup_digest
from foreshock.detectors.conformal_alarm import ConformalAlarm as ConformalAlarm
from foreshock.detectors.cusum import CUSUM as CUSUM
from foreshock.detectors.gold_selection import GoldSelection as GoldSelection
from foreshock.detectors.gold_turnover import GoldTurnover as GoldTurnover
from foreshock.detectors.heldout_signal import HeldoutSignalRule as HeldoutSignalRule
from foreshock.detectors.judge import Judge as Judge
from foreshock.detectors.kl_threshold import KlThreshold as KlThreshold
from foreshock.detectors.over_optimisation import OverOptimisation as OverOptimisation
from foreshock.detectors.p_crosses_half import PCrossesHalf as PCrossesHalf
from foreshock.detectors.phase_transition import PhaseTransition as PhaseTransition
from foreshock.detectors.proxy_spread import ProxySpread as ProxySpread
from foreshock.detectors.published_rlhf_alert import PublishedRlhfAlert as PublishedRlhfAlert
from foreshock.detectors.reward_names import REWARD_NAMES as REWARD_NAMES
from foreshock.detectors.reward_names import RewardName as RewardName
from foreshock.detectors.reward_names import blind_spots as blind_spots
from foreshock.detectors.reward_names import canonical as canonical
from foreshock.detectors.turnover import Turnover as Turnover
from foreshock.detectors.unread import unread as unread
from foreshock.detectors.within_groups import within_groups as within_groups
from foreshock.types import Detector

__all__ = [
    "BY_NAME",
    "CUSUM",
    "Calibration",
    "ConformalAlarm",
    "GoldSelection",
    "GoldTurnover",
    "HeldoutSignalRule",
    "Judge",
    "KlThreshold",
    "OverOptimisation",
    "PCrossesHalf",
    "PhaseTransition",
    "ProxySpread",
    "PublishedRlhfAlert",
    "REWARD_NAMES",
    "RewardName",
    "Turnover",
    "blind_spots",
    "canonical",
    "resolve",
    "setup_digest",
    "unread",
    "within_groups",
]

#: What `attach(detectors=["..."])` and ``foreshock replay --detector`` understand.
BY_NAME = {
    "conformal": ConformalAlarm,
    "cusum": CUSUM,
    "gold_selection": GoldSelection,
    "gold_turnover": GoldTurnover,
    "heldout_signal": HeldoutSignalRule,
    "kl_threshold": KlThreshold,
    "over_optimisation": OverOptimisation,
    "p_crosses_half": PCrossesHalf,
    "phase_transition": PhaseTransition,
    "proxy_spread": ProxySpread,
    "published_rlhf_alert": PublishedRlhfAlert,
    "turnover": Turnover,
}


def resolve(one: str | Detector) -> Detector:
    """A detector from its name, or the object itself.

    Args:
        one: A name in `BY_NAME`, optionally with the series it reads after a colon, or an object;
            ``"conformal:FILE"`` names a file of ``foreshock calibrate`` instead of a series.

    Returns:
        The detector.

    Raises:
        ValueError: If there is no such detector.

    Examples:
        >>> resolve("cusum:val_loss").reads
        ('val_loss',)
        >>> resolve("oracle")
        Traceback (most recent call last):
        ...
        ValueError: There is no detector 'oracle'. The names are conformal, cusum, ...
    """
    if isinstance(one, str):
        name, _, series = one.partition(":")
        if name not in BY_NAME:
            raise ValueError(
                f"There is no detector {name!r}. The names are {', '.join(sorted(BY_NAME))}."
            )
        if name == "conformal":
            if not series:
                raise ValueError(
                    "The detector 'conformal' needs its calibration: 'conformal:FILE', with the "
                    "file of `foreshock calibrate`."
                )
            return ConformalAlarm.load(series)
        return BY_NAME[name](series=series) if series else BY_NAME[name]()
    if isinstance(one, type) or not isinstance(one, Detector):
        raise ValueError(
            "The `detectors` of `attach` must be names or objects such as "
            f"`fs.detectors.CUSUM('loss')`. Got {one!r}."
        )
    return one
