"""Events, lead times and replay: judging recorded runs, torch-free."""

from foreshock.evaluation.actions import replay_actions as replay_actions
from foreshock.evaluation.conformal import calibrate as calibrate
from foreshock.evaluation.conformal import conformal_threshold as conformal_threshold
from foreshock.evaluation.conformal import false_alarm_bound as false_alarm_bound
from foreshock.evaluation.conformal import runs_needed as runs_needed
from foreshock.evaluation.events import Milestones as Milestones
from foreshock.evaluation.events import milestones as milestones
from foreshock.evaluation.leads import Lead as Lead
from foreshock.evaluation.leads import lead as lead
from foreshock.evaluation.overoptimisation import RewardOutcome as RewardOutcome
from foreshock.evaluation.overoptimisation import over_optimised as over_optimised
from foreshock.evaluation.replay import replay as replay
from foreshock.evaluation.w2_final import w2_to_final as w2_to_final

__all__ = [
    "Lead",
    "Milestones",
    "RewardOutcome",
    "calibrate",
    "conformal_threshold",
    "false_alarm_bound",
    "lead",
    "milestones",
    "over_optimised",
    "replay",
    "replay_actions",
    "runs_needed",
    "w2_to_final",
]
