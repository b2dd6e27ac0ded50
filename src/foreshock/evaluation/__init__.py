"""Events, lead times and replay: judging recorded runs, torch-free."""

from foreshock.evaluation.events import Milestones as Milestones
from foreshock.evaluation.events import milestones as milestones
from foreshock.evaluation.leads import Lead as Lead
from foreshock.evaluation.leads import lead as lead
from foreshock.evaluation.replay import replay as replay

__all__ = ["Lead", "Milestones", "lead", "milestones", "replay"]
