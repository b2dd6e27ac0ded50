"""The names that a reader of the five documents looks for, as written and harmless to training.

Signatures, defaults and keys are those of the documents; what is ours comes after a star. Every
docstring says what the published form gets wrong and what to use instead. They are thin: the
formulas are those of `foreshock.stats.published`, `foreshock.density.published` and
`foreshock.simulators.published_fokker_planck`.

Measuring changes no weight, gradient, buffer, mode or hook, and no global random number; only
`FPETorchWrapper.apply_reset` changes weights, since that is what it is for. What cannot be seen is
not put back: a generator that a dataset keeps to itself, a dataset that can be read only once, and
what a function of the user's does besides calling its model. A wrong argument is a ValueError at
the door. Where a formula divides by zero or overflows, its limit is returned, nan or
infinite, and never a number in its place.
"""

from foreshock.documents.fokker_planck import FokkerPlanckDynamics as FokkerPlanckDynamics
from foreshock.documents.fokker_planck import FPEMetrics as FPEMetrics
from foreshock.documents.fokker_planck_monitor import FPETorchWrapper as FPETorchWrapper
from foreshock.documents.fokker_planck_monitor import RLHFMonitor as RLHFMonitor
from foreshock.documents.fokker_planck_monitor import (
    detect_phase_transition as detect_phase_transition,
)
from foreshock.documents.langevin import StochasticHarmonicLearning as StochasticHarmonicLearning
from foreshock.documents.levy import CriticalityTracker as CriticalityTracker
from foreshock.documents.signal import compute_consolidation_ratio as compute_consolidation_ratio
from foreshock.documents.signal import compute_loss as compute_loss
from foreshock.documents.signal import estimate_tail_index as estimate_tail_index
from foreshock.documents.signal import evaluate as evaluate
from foreshock.documents.signal import get_adaptive_lr as get_adaptive_lr
from foreshock.documents.signal import should_stop_early as should_stop_early
from foreshock.documents.signal import track_learning_dynamics as track_learning_dynamics
from foreshock.documents.signal_curvature import estimate_lambda_max as estimate_lambda_max
from foreshock.documents.signal_curvature import hessian_vector_product as hessian_vector_product
from foreshock.documents.spectral_edge import adiabatic_parameter as adiabatic_parameter
from foreshock.documents.spectral_edge import k_star as k_star

__all__ = [
    "CriticalityTracker",
    "FPEMetrics",
    "FPETorchWrapper",
    "FokkerPlanckDynamics",
    "RLHFMonitor",
    "StochasticHarmonicLearning",
    "adiabatic_parameter",
    "compute_consolidation_ratio",
    "compute_loss",
    "detect_phase_transition",
    "estimate_lambda_max",
    "estimate_tail_index",
    "evaluate",
    "get_adaptive_lr",
    "hessian_vector_product",
    "k_star",
    "should_stop_early",
    "track_learning_dynamics",
]
