"""Events, lead times, forecasts and replay: judging recorded runs, torch-free."""

from foreshock.evaluation.actions import replay_actions as replay_actions
from foreshock.evaluation.conformal import calibrate as calibrate
from foreshock.evaluation.conformal_ranks import conformal_threshold as conformal_threshold
from foreshock.evaluation.conformal_ranks import false_alarm_bound as false_alarm_bound
from foreshock.evaluation.conformal_ranks import runs_needed as runs_needed
from foreshock.evaluation.events import Milestones as Milestones
from foreshock.evaluation.events import milestones as milestones
from foreshock.evaluation.forecast_scores import ForecastScore as ForecastScore
from foreshock.evaluation.forecast_scores import ReliabilityBin as ReliabilityBin
from foreshock.evaluation.forecast_scores import compare_forecasts as compare_forecasts
from foreshock.evaluation.forecast_scores import reliability as reliability
from foreshock.evaluation.forecast_scores import score_forecasts as score_forecasts
from foreshock.evaluation.forecasting import crossfit as crossfit
from foreshock.evaluation.forecasting import fit_baselines as fit_baselines
from foreshock.evaluation.forecasting import fit_hazard as fit_hazard
from foreshock.evaluation.forecasting import forecast as forecast
from foreshock.evaluation.landmarks import Forecaster as Forecaster
from foreshock.evaluation.landmarks import Landmarks as Landmarks
from foreshock.evaluation.landmarks import landmarks as landmarks
from foreshock.evaluation.landmarks import landmarks_of as landmarks_of
from foreshock.evaluation.leads import Lead as Lead
from foreshock.evaluation.leads import lead as lead
from foreshock.evaluation.overoptimisation import RewardOutcome as RewardOutcome
from foreshock.evaluation.overoptimisation import over_optimised as over_optimised
from foreshock.evaluation.replay import replay as replay
from foreshock.evaluation.w2_final import w2_to_final as w2_to_final

__all__ = [
    "ForecastScore",
    "Forecaster",
    "Landmarks",
    "Lead",
    "Milestones",
    "ReliabilityBin",
    "RewardOutcome",
    "calibrate",
    "compare_forecasts",
    "conformal_threshold",
    "crossfit",
    "fit_baselines",
    "fit_hazard",
    "forecast",
    "landmarks",
    "landmarks_of",
    "false_alarm_bound",
    "lead",
    "milestones",
    "over_optimised",
    "reliability",
    "replay",
    "replay_actions",
    "runs_needed",
    "score_forecasts",
    "w2_to_final",
]
