"""Estimators and observables: tensors or a model in, estimates out. One file per subject.

A function (``gradient_gram``, ``lambda_max``, ``ntk_gram``, ``update_dots``) computes; the frozen
dataclass beside it (`Curvature`, `GradientNoise`, ...) is the observable that the monitor runs.
"""

from foreshock.estimators.baselines import AttentionEntropy as AttentionEntropy
from foreshock.estimators.baselines import FeatureAlignment as FeatureAlignment
from foreshock.estimators.baselines import attention_entropies as attention_entropies
from foreshock.estimators.curvature import Curvature as Curvature
from foreshock.estimators.curvature import lambda_max as lambda_max
from foreshock.estimators.curvature import lanczos as lanczos
from foreshock.estimators.curvature import track as track
from foreshock.estimators.descent import Descent as Descent
from foreshock.estimators.geometry import damping as damping
from foreshock.estimators.geometry import sectional_curvature as sectional_curvature
from foreshock.estimators.geometry import slice_curvature as slice_curvature
from foreshock.estimators.geometry import step_curvature as step_curvature
from foreshock.estimators.geometry_watch import Geometry as Geometry
from foreshock.estimators.gradient_metrics import GradientMetrics as GradientMetrics
from foreshock.estimators.gradient_metrics import weight_snr as weight_snr
from foreshock.estimators.gradient_noise import GradientNoise as GradientNoise
from foreshock.estimators.gradient_noise import gradient_gram as gradient_gram
from foreshock.estimators.latent_flow import LatentFlow as LatentFlow
from foreshock.estimators.llc import LocalLearningCoefficient as LocalLearningCoefficient
from foreshock.estimators.llc import sgld as sgld
from foreshock.estimators.loss_conflict import LossConflict as LossConflict
from foreshock.estimators.model_outputs import model_outputs as model_outputs
from foreshock.estimators.modular import ModularProgress as ModularProgress
from foreshock.estimators.natural import NaturalStability as NaturalStability
from foreshock.estimators.noise_tails import NoiseTails as NoiseTails
from foreshock.estimators.norms import Norms as Norms
from foreshock.estimators.norms import StepNorm as StepNorm
from foreshock.estimators.ntk import Ntk as Ntk
from foreshock.estimators.ntk import ntk_gram as ntk_gram
from foreshock.estimators.published import consolidation_ratio as consolidation_ratio
from foreshock.estimators.published import lambda_power as lambda_power
from foreshock.estimators.published import metric_log_det as metric_log_det
from foreshock.estimators.published_edge import PublishedEdge as PublishedEdge
from foreshock.estimators.published_fokker_planck import (
    PublishedFokkerPlanck as PublishedFokkerPlanck,
)
from foreshock.estimators.published_langevin import PublishedLangevin as PublishedLangevin
from foreshock.estimators.published_levy import PublishedLevy as PublishedLevy
from foreshock.estimators.published_signal import PublishedSignal as PublishedSignal
from foreshock.estimators.readout import HeldoutSignal as HeldoutSignal
from foreshock.estimators.readout import ProbeSignal as ProbeSignal
from foreshock.estimators.readout import RidgeSignal as RidgeSignal
from foreshock.estimators.spectrum import Spectrum as Spectrum
from foreshock.estimators.spectrum import hutch_plus_plus as hutch_plus_plus
from foreshock.estimators.stability import Stability as Stability
from foreshock.estimators.tails import HillNorms as HillNorms
from foreshock.estimators.trajectory import Trajectory as Trajectory
from foreshock.estimators.trajectory import trajectory_dimension as trajectory_dimension
from foreshock.estimators.triple import Triple as Triple
from foreshock.estimators.update_ring import update_dots as update_dots
from foreshock.estimators.update_window import UpdateWindow as UpdateWindow
from foreshock.probe.groups import Group as Group
from foreshock.types import Observable

__all__ = [
    "AttentionEntropy",
    "Curvature",
    "Descent",
    "FeatureAlignment",
    "Geometry",
    "GradientMetrics",
    "GradientNoise",
    "Group",
    "HeldoutSignal",
    "HillNorms",
    "LatentFlow",
    "LocalLearningCoefficient",
    "LossConflict",
    "ModularProgress",
    "NaturalStability",
    "NoiseTails",
    "Norms",
    "Ntk",
    "PublishedEdge",
    "PublishedFokkerPlanck",
    "PublishedLangevin",
    "PublishedLevy",
    "PublishedSignal",
    "ProbeSignal",
    "RidgeSignal",
    "Spectrum",
    "Stability",
    "StepNorm",
    "Trajectory",
    "Triple",
    "UpdateWindow",
    "attention_entropies",
    "catalogue",
    "consolidation_ratio",
    "damping",
    "gradient_gram",
    "hutch_plus_plus",
    "lambda_max",
    "lambda_power",
    "lanczos",
    "metric_log_det",
    "model_outputs",
    "ntk_gram",
    "published_catalogue",
    "sectional_curvature",
    "sgld",
    "slice_curvature",
    "step_curvature",
    "track",
    "trajectory_dimension",
    "update_dots",
    "weight_snr",
]


def catalogue() -> list[Observable]:
    """One of every observable, as it is without arguments.

    Returns:
        Observables with distinct names.

    Examples:
        >>> len({one.name for one in catalogue()}) == len(catalogue())
        True
    """
    return [
        Norms(),
        StepNorm(),
        HillNorms(),
        NoiseTails(),
        GradientNoise(),
        GradientMetrics(),
        LossConflict(),
        HeldoutSignal(),
        Curvature(),
        Stability(),
        Spectrum(),
        NaturalStability(),
        Descent(),
        RidgeSignal(),
        ProbeSignal(),
        LocalLearningCoefficient(),
        ModularProgress(),
        FeatureAlignment(),
        AttentionEntropy(),
        Ntk(),
        UpdateWindow(),
        Trajectory(),
        Geometry(),
        Triple(),
        LatentFlow(),
    ]


def published_catalogue() -> list[Observable]:
    """One of every observable that only restates a document; in no preset, asked for by name.

    Returns:
        Observables with distinct names.

    Examples:
        >>> [one.name for one in published_catalogue()][0]
        'published_levy'
    """
    return [
        PublishedLevy(),
        PublishedSignal(),
        PublishedLangevin(),
        PublishedEdge(),
        PublishedFokkerPlanck(),
    ]
