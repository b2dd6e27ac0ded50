"""Detectors: causal rules on recorded series, one file per rule, torch-free.

Each is a frozen dataclass with ``init`` and ``update`` on values, so the monitor and
``foreshock replay`` run the same code and raise the same alarms.
"""

from __future__ import annotations

from collections.abc import Callable

from foreshock.detectors.c_falling import CFalling as CFalling
from foreshock.detectors.c_falling import PublishedCFalling as PublishedCFalling
from foreshock.detectors.c_window import CWindow as CWindow
from foreshock.detectors.c_window import PublishedCWindow as PublishedCWindow
from foreshock.detectors.calibration import Calibration as Calibration
from foreshock.detectors.calibration import setup_digest as setup_digest
from foreshock.detectors.caveats import caveats as caveats
from foreshock.detectors.caveats import setup_caveats as setup_caveats
from foreshock.detectors.change_point import ChangePoint as ChangePoint
from foreshock.detectors.conformal_alarm import ConformalAlarm as ConformalAlarm
from foreshock.detectors.critical_slowing import CriticalSlowing as CriticalSlowing
from foreshock.detectors.cusum import CUSUM as CUSUM
from foreshock.detectors.divergence import Divergence as Divergence
from foreshock.detectors.ewma import EWMA as EWMA
from foreshock.detectors.forecast_alarm import ForecastAlarm as ForecastAlarm
from foreshock.detectors.gap_events import GapCollapse as GapCollapse
from foreshock.detectors.gap_events import GapOpening as GapOpening
from foreshock.detectors.gold_selection import GoldSelection as GoldSelection
from foreshock.detectors.gold_turnover import GoldTurnover as GoldTurnover
from foreshock.detectors.hazard import Hazard as Hazard
from foreshock.detectors.hazard import load_forecasters as load_forecasters
from foreshock.detectors.hazard import save_forecasters as save_forecasters
from foreshock.detectors.hazard_terms import Term as Term
from foreshock.detectors.heldout_signal import HeldoutSignalRule as HeldoutSignalRule
from foreshock.detectors.judge import Judge as Judge
from foreshock.detectors.kl_threshold import KlThreshold as KlThreshold
from foreshock.detectors.loss_spike import LossSpike as LossSpike
from foreshock.detectors.over_optimisation import OverOptimisation as OverOptimisation
from foreshock.detectors.p_crosses_half import PCrossesHalf as PCrossesHalf
from foreshock.detectors.page_hinkley import PageHinkley as PageHinkley
from foreshock.detectors.phase_transition import PhaseTransition as PhaseTransition
from foreshock.detectors.proxy_spread import ProxySpread as ProxySpread
from foreshock.detectors.published_early_stop import PublishedEarlyStop as PublishedEarlyStop
from foreshock.detectors.published_phi import PublishedPhi as PublishedPhi
from foreshock.detectors.published_probability import (
    PublishedProbability as PublishedProbability,
)
from foreshock.detectors.published_rlhf_alert import PublishedRlhfAlert as PublishedRlhfAlert
from foreshock.detectors.published_transitions import PublishedTransitions as PublishedTransitions
from foreshock.detectors.published_triple_alignment import (
    PublishedTripleAlignment as PublishedTripleAlignment,
)
from foreshock.detectors.regime_ribbon import RegimeRibbon as RegimeRibbon
from foreshock.detectors.regime_tables import TABLES
from foreshock.detectors.reset_time import PublishedReset as PublishedReset
from foreshock.detectors.reset_time import ResetTime as ResetTime
from foreshock.detectors.reward_names import REWARD_NAMES as REWARD_NAMES
from foreshock.detectors.reward_names import RewardName as RewardName
from foreshock.detectors.reward_names import blind_spots as blind_spots
from foreshock.detectors.reward_names import canonical as canonical
from foreshock.detectors.triple_alignment import TripleAlignment as TripleAlignment
from foreshock.detectors.turnover import Turnover as Turnover
from foreshock.detectors.unread import unread as unread
from foreshock.detectors.within_groups import within_groups as within_groups
from foreshock.types import Detector

__all__ = [
    "BY_NAME",
    "CFalling",
    "CUSUM",
    "CWindow",
    "Calibration",
    "ChangePoint",
    "ConformalAlarm",
    "CriticalSlowing",
    "Divergence",
    "EWMA",
    "ForecastAlarm",
    "GapCollapse",
    "GapOpening",
    "GoldSelection",
    "GoldTurnover",
    "Hazard",
    "HeldoutSignalRule",
    "Judge",
    "KlThreshold",
    "LossSpike",
    "OverOptimisation",
    "PCrossesHalf",
    "PageHinkley",
    "PhaseTransition",
    "ProxySpread",
    "PublishedCFalling",
    "PublishedCWindow",
    "PublishedEarlyStop",
    "PublishedPhi",
    "PublishedProbability",
    "PublishedReset",
    "PublishedRlhfAlert",
    "PublishedTransitions",
    "PublishedTripleAlignment",
    "REWARD_NAMES",
    "RegimeRibbon",
    "ResetTime",
    "RewardName",
    "Term",
    "TripleAlignment",
    "Turnover",
    "blind_spots",
    "canonical",
    "caveats",
    "load_forecasters",
    "resolve",
    "save_forecasters",
    "setup_caveats",
    "setup_digest",
    "unread",
    "within_groups",
]

#: What `attach(detectors=["..."])` and ``foreshock replay --detector`` understand.
BY_NAME: dict[str, Callable[..., Detector]] = {
    "c_falling": CFalling,
    "c_window": CWindow,
    "change_point": ChangePoint,
    "conformal": ConformalAlarm,
    "critical_slowing": CriticalSlowing,
    "cusum": CUSUM,
    "divergence": Divergence,
    "ewma": EWMA,
    "forecast": ForecastAlarm,
    "gap_collapse": GapCollapse,
    "gap_opening": GapOpening,
    "gold_selection": GoldSelection,
    "gold_turnover": GoldTurnover,
    "heldout_signal": HeldoutSignalRule,
    "kl_threshold": KlThreshold,
    "loss_spike": LossSpike,
    "over_optimisation": OverOptimisation,
    "p_crosses_half": PCrossesHalf,
    "page_hinkley": PageHinkley,
    "phase_transition": PhaseTransition,
    "proxy_spread": ProxySpread,
    "published_c_falling": PublishedCFalling,
    "published_c_window": PublishedCWindow,
    "published_early_stop": PublishedEarlyStop,
    "published_phi": PublishedPhi,
    "published_reset": PublishedReset,
    "published_rlhf_alert": PublishedRlhfAlert,
    "published_transitions": PublishedTransitions,
    "published_triple_alignment": PublishedTripleAlignment,
    "regime_ribbon": RegimeRibbon,
    "reset_time": ResetTime,
    "triple_alignment": TripleAlignment,
    "turnover": Turnover,
}


def resolve(one: str | Detector) -> Detector:
    """A detector from its name, or the object itself.

    Args:
        one: A name in `BY_NAME`, optionally with the series it reads after a colon, or an object;
            ``"conformal:FILE"`` names a file of ``foreshock calibrate`` instead of a series, and
            ``"forecast:FILE"`` one of ``foreshock forecast fit``; ``"regime_ribbon:TABLE"`` names a
            published table.

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
        ValueError: There is no detector 'oracle'. The names are ...
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
        if name == "forecast":
            if not series:
                raise ValueError(
                    "The detector 'forecast' needs its forecaster: 'forecast:FILE', with the file "
                    "of `foreshock forecast fit`."
                )
            return ForecastAlarm.load(series)
        if name == "regime_ribbon" and series in TABLES:
            return RegimeRibbon(series)
        return BY_NAME[name](series=series) if series else BY_NAME[name]()
    if isinstance(one, type) or not isinstance(one, Detector):
        raise ValueError(
            "The `detectors` of `attach` must be names or objects such as "
            f"`fs.detectors.CUSUM('loss')`. Got {one!r}."
        )
    return one
