"""Foreshock: early-warning signals in neural-network training, each with its uncertainty.

``attach`` watches a run; ``Run`` reads one; `foreshock.detectors`, `foreshock.policies` and
`foreshock.estimators` hold the rules and the quantities. Importing this package imports no torch.
"""

from foreshock import detectors as detectors
from foreshock import policies as policies
from foreshock.evaluation import lead as lead
from foreshock.evaluation import milestones as milestones
from foreshock.evaluation import replay as replay
from foreshock.monitor import attach as attach
from foreshock.probe import Probe as Probe
from foreshock.report import write_report as write_report
from foreshock.store import Run as Run
from foreshock.store import StoreError as StoreError
from foreshock.store import list_runs as list_runs
from foreshock.types import Action as Action
from foreshock.types import Alarm as Alarm
from foreshock.types import Detector as Detector
from foreshock.types import Estimate as Estimate
from foreshock.types import Flag as Flag
from foreshock.types import Forecast as Forecast
from foreshock.types import Observable as Observable
from foreshock.types import Policy as Policy
from foreshock.types import Readings as Readings
from foreshock.types import SeriesInfo as SeriesInfo
from foreshock.types import Sink as Sink

__all__ = [
    "Action",
    "Alarm",
    "Detector",
    "Estimate",
    "Flag",
    "Forecast",
    "Observable",
    "Policy",
    "Probe",
    "Readings",
    "Run",
    "SeriesInfo",
    "Sink",
    "StoreError",
    "attach",
    "detectors",
    "lead",
    "list_runs",
    "milestones",
    "policies",
    "replay",
    "write_report",
]
