"""Worlds where the truth is known: potentials, stochastic dynamics, grids, exact results."""

from __future__ import annotations

from foreshock.simulators.barrier import Barrier as Barrier
from foreshock.simulators.barrier import escape_time as escape_time
from foreshock.simulators.barrier import relax as relax
from foreshock.simulators.barrier import string_method as string_method
from foreshock.simulators.consolidation_ratio import consolidation as consolidation
from foreshock.simulators.consolidation_ratio import regime as regime
from foreshock.simulators.corrected_fokker_planck import Epoch as Epoch
from foreshock.simulators.corrected_fokker_planck import corrected_engine as corrected_engine
from foreshock.simulators.corrected_fokker_planck import train_epoch as train_epoch
from foreshock.simulators.curvature import largest_curvature as largest_curvature
from foreshock.simulators.decoder import DecoderPotential as DecoderPotential
from foreshock.simulators.diffusion import Isotropic as Isotropic
from foreshock.simulators.diffusion import ParticleFisher as ParticleFisher
from foreshock.simulators.diffusion import SharedFisher as SharedFisher
from foreshock.simulators.diffusion import SharedMatrix as SharedMatrix
from foreshock.simulators.diffusion_tensor import DiffusionTensor as DiffusionTensor
from foreshock.simulators.dynamics import Dynamics as Dynamics
from foreshock.simulators.dynamics import GradientFlow as GradientFlow
from foreshock.simulators.dynamics import ItoProcess as ItoProcess
from foreshock.simulators.dynamics import Langevin as Langevin
from foreshock.simulators.dynamics import StateDependentLangevin as StateDependentLangevin
from foreshock.simulators.exact import free_diffusion_radius as free_diffusion_radius
from foreshock.simulators.exact import gaussian_entropy as gaussian_entropy
from foreshock.simulators.exact import gaussian_kl as gaussian_kl
from foreshock.simulators.exact import gaussian_w2_squared as gaussian_w2_squared
from foreshock.simulators.exact import gibbs_density as gibbs_density
from foreshock.simulators.exact import ou_consolidation as ou_consolidation
from foreshock.simulators.exact import ou_entropy_production as ou_entropy_production
from foreshock.simulators.exact import ou_entropy_rate as ou_entropy_rate
from foreshock.simulators.exact import ou_kl as ou_kl
from foreshock.simulators.exact import ou_kl_rate as ou_kl_rate
from foreshock.simulators.exact import ou_mean as ou_mean
from foreshock.simulators.exact import ou_stationary_variance as ou_stationary_variance
from foreshock.simulators.exact import ou_variance as ou_variance
from foreshock.simulators.exact import ou_w2_squared as ou_w2_squared
from foreshock.simulators.exact_kramers import (
    log_mean_first_passage_time as log_mean_first_passage_time,
)
from foreshock.simulators.exact_kramers import mean_first_passage_time as mean_first_passage_time
from foreshock.simulators.exact_kramers import well_decay_rate as well_decay_rate
from foreshock.simulators.exact_levy import cauchy_quartic_density as cauchy_quartic_density
from foreshock.simulators.exact_levy import getoor_exit_time as getoor_exit_time
from foreshock.simulators.exact_levy import imkeller_pavlyukevich_rate as imkeller_pavlyukevich_rate
from foreshock.simulators.exact_levy import ou_levy_scale as ou_levy_scale
from foreshock.simulators.exact_levy import sphere_cosine as sphere_cosine
from foreshock.simulators.exact_levy import stable_tail_constant as stable_tail_constant
from foreshock.simulators.exact_linear import chain_variance as chain_variance
from foreshock.simulators.exact_linear import convergence_bound as convergence_bound
from foreshock.simulators.exact_linear import lyapunov_covariance as lyapunov_covariance
from foreshock.simulators.exact_linear import (
    lyapunov_entropy_production as lyapunov_entropy_production,
)
from foreshock.simulators.exact_linear import ring_entropy_production as ring_entropy_production
from foreshock.simulators.exact_linear import (
    rotational_entropy_production as rotational_entropy_production,
)
from foreshock.simulators.exact_linear import sgd_temperature as sgd_temperature
from foreshock.simulators.exact_linear import stationary_energy as stationary_energy
from foreshock.simulators.exact_linear import tilted_ring_velocity as tilted_ring_velocity
from foreshock.simulators.exact_published import drift_entropy_product as drift_entropy_product
from foreshock.simulators.exact_published import fisher_limit as fisher_limit
from foreshock.simulators.exact_published import kl_rate as kl_rate
from foreshock.simulators.exact_published import mixing_time as mixing_time
from foreshock.simulators.exact_published import (
    published_drift_entropy_bound as published_drift_entropy_bound,
)
from foreshock.simulators.exact_published import (
    published_effective_temperature as published_effective_temperature,
)
from foreshock.simulators.exact_published import (
    published_entropy_production as published_entropy_production,
)
from foreshock.simulators.exact_published import (
    published_exploration_radius as published_exploration_radius,
)
from foreshock.simulators.exact_published import published_fisher_limit as published_fisher_limit
from foreshock.simulators.exact_published import published_kl_rate as published_kl_rate
from foreshock.simulators.exact_published import published_kl_rate_proof as published_kl_rate_proof
from foreshock.simulators.exact_published import published_mixing_time as published_mixing_time
from foreshock.simulators.exact_published import published_reset_count as published_reset_count
from foreshock.simulators.exact_published import (
    published_talagrand_bound as published_talagrand_bound,
)
from foreshock.simulators.exact_published import talagrand_bound as talagrand_bound
from foreshock.simulators.exact_resets import drift_passage_cv as drift_passage_cv
from foreshock.simulators.exact_resets import drift_reset_passage_time as drift_reset_passage_time
from foreshock.simulators.exact_resets import optimal_reset_rate as optimal_reset_rate
from foreshock.simulators.exact_resets import reset_density as reset_density
from foreshock.simulators.exact_resets import reset_passage_time as reset_passage_time
from foreshock.simulators.exact_resets import reset_slope as reset_slope
from foreshock.simulators.eyring_kramers import eyring_kramers_rate as eyring_kramers_rate
from foreshock.simulators.eyring_kramers import eyring_kramers_rate_nd as eyring_kramers_rate_nd
from foreshock.simulators.eyring_kramers import finite_barrier_ratio as finite_barrier_ratio
from foreshock.simulators.fields import divergence as divergence
from foreshock.simulators.grid import drift_grid as drift_grid
from foreshock.simulators.grid import energy_grid as energy_grid
from foreshock.simulators.grid_cells import Grid as Grid
from foreshock.simulators.grid_cells import point_mass as point_mass
from foreshock.simulators.grid_cells import rate_matrix as rate_matrix
from foreshock.simulators.grid_cells import total_mass as total_mass
from foreshock.simulators.grid_cells import with_resets as with_resets
from foreshock.simulators.grid_cells import with_target as with_target
from foreshock.simulators.grid_entropy import density_entropy as density_entropy
from foreshock.simulators.grid_entropy import entropy_production as entropy_production
from foreshock.simulators.grid_entropy import face_flux as face_flux
from foreshock.simulators.grid_entropy import free_energy as free_energy
from foreshock.simulators.grid_entropy import relative_entropy as relative_entropy
from foreshock.simulators.grid_fractional import StableGrid as StableGrid
from foreshock.simulators.grid_fractional import exit_time as exit_time
from foreshock.simulators.grid_fractional import jump_matrix as jump_matrix
from foreshock.simulators.grid_fractional import stable_evolve as stable_evolve
from foreshock.simulators.grid_fractional import stable_grid as stable_grid
from foreshock.simulators.grid_fractional import stable_stationary as stable_stationary
from foreshock.simulators.grid_plane import drift_plane as drift_plane
from foreshock.simulators.grid_plane import energy_plane as energy_plane
from foreshock.simulators.grid_solvers import committor as committor
from foreshock.simulators.grid_solvers import evolve as evolve
from foreshock.simulators.grid_solvers import mean_first_passage as mean_first_passage
from foreshock.simulators.grid_solvers import spectrum as spectrum
from foreshock.simulators.grid_solvers import stationary as stationary
from foreshock.simulators.harmonic import StochasticHarmonic as StochasticHarmonic
from foreshock.simulators.harmonic import Training as Training
from foreshock.simulators.harmonic import recovered_diffusion as recovered_diffusion
from foreshock.simulators.harmonic import train as train
from foreshock.simulators.inertia import BAOAB as BAOAB
from foreshock.simulators.inertia import HeavyBall as HeavyBall
from foreshock.simulators.landscapes import KWells as KWells
from foreshock.simulators.landscapes import MullerBrown as MullerBrown
from foreshock.simulators.landscapes import Ring as Ring
from foreshock.simulators.landscapes import TiltedRing as TiltedRing
from foreshock.simulators.learning_rate import LearningRate as LearningRate
from foreshock.simulators.learning_rate import learning_rate as learning_rate
from foreshock.simulators.levy import ExactStableOU as ExactStableOU
from foreshock.simulators.levy import StableNoise as StableNoise
from foreshock.simulators.levy import StableOnChart as StableOnChart
from foreshock.simulators.levy import isotropic_stable as isotropic_stable
from foreshock.simulators.levy import positive_stable as positive_stable
from foreshock.simulators.levy import symmetric_stable as symmetric_stable
from foreshock.simulators.metrics import Chart as Chart
from foreshock.simulators.metrics import ConformalChart as ConformalChart
from foreshock.simulators.metrics import GeodesicWalk as GeodesicWalk
from foreshock.simulators.metrics import NormalChart as NormalChart
from foreshock.simulators.metrics import RiemannianBrownian as RiemannianBrownian
from foreshock.simulators.metrics import poincare_disk as poincare_disk
from foreshock.simulators.metrics import sphere as sphere
from foreshock.simulators.named_schedules import corrected_schedules as corrected_schedules
from foreshock.simulators.named_schedules import (
    published_code_schedules as published_code_schedules,
)
from foreshock.simulators.named_schedules import published_schedules as published_schedules
from foreshock.simulators.noise_control import AdaptiveNoise as AdaptiveNoise
from foreshock.simulators.noise_control import NoiseState as NoiseState
from foreshock.simulators.particles import Engine as Engine
from foreshock.simulators.particles import State as State
from foreshock.simulators.passage import Boundary as Boundary
from foreshock.simulators.passage import PassageTimes as PassageTimes
from foreshock.simulators.passage import coordinate_boundary as coordinate_boundary
from foreshock.simulators.passage import first_passage as first_passage
from foreshock.simulators.passage_estimates import exponential_rate as exponential_rate
from foreshock.simulators.passage_estimates import mean_passage_time as mean_passage_time
from foreshock.simulators.passage_estimates import poisson_interval as poisson_interval
from foreshock.simulators.passage_estimates import survival_curve as survival_curve
from foreshock.simulators.potentials import DoubleWell as DoubleWell
from foreshock.simulators.potentials import Potential as Potential
from foreshock.simulators.potentials import Quadratic as Quadratic
from foreshock.simulators.potentials import Quartic as Quartic
from foreshock.simulators.potentials import Tilted as Tilted
from foreshock.simulators.published_fokker_planck import (
    FokkerPlanckDynamics as FokkerPlanckDynamics,
)
from foreshock.simulators.recording import Recorded as Recorded
from foreshock.simulators.recording import RunStoppedError as RunStoppedError
from foreshock.simulators.recording import run_engine as run_engine
from foreshock.simulators.resets import CloudReset as CloudReset
from foreshock.simulators.resets import PointReset as PointReset
from foreshock.simulators.schedules import Constant as Constant
from foreshock.simulators.schedules import Cosine as Cosine
from foreshock.simulators.schedules import Exponential as Exponential
from foreshock.simulators.schedules import InverseTime as InverseTime
from foreshock.simulators.schedules import Logarithmic as Logarithmic
from foreshock.simulators.schedules import OverRate as OverRate
from foreshock.simulators.schedules import Product as Product
from foreshock.simulators.schedules import Schedules as Schedules
from foreshock.simulators.schedules import constant_schedules as constant_schedules
from foreshock.simulators.sde import EulerMaruyama as EulerMaruyama
from foreshock.simulators.sde import LeimkuhlerMatthews as LeimkuhlerMatthews
from foreshock.simulators.sde import SamplePath as SamplePath
from foreshock.simulators.sde import Stepper as Stepper
from foreshock.simulators.sde import integrate as integrate
from foreshock.simulators.steppers import CubicSplitting as CubicSplitting
from foreshock.simulators.steppers import ExactOU as ExactOU
from foreshock.simulators.steppers import TamedEuler as TamedEuler
from foreshock.simulators.steppers import cubic_flow as cubic_flow

__all__ = [
    "AdaptiveNoise",
    "BAOAB",
    "Barrier",
    "Boundary",
    "Chart",
    "CloudReset",
    "ConformalChart",
    "Constant",
    "Cosine",
    "CubicSplitting",
    "DecoderPotential",
    "DiffusionTensor",
    "DoubleWell",
    "Dynamics",
    "Engine",
    "Epoch",
    "EulerMaruyama",
    "ExactOU",
    "ExactStableOU",
    "Exponential",
    "FokkerPlanckDynamics",
    "GeodesicWalk",
    "GradientFlow",
    "Grid",
    "HeavyBall",
    "InverseTime",
    "Isotropic",
    "ItoProcess",
    "KWells",
    "Langevin",
    "LearningRate",
    "LeimkuhlerMatthews",
    "Logarithmic",
    "MullerBrown",
    "NoiseState",
    "NormalChart",
    "OverRate",
    "ParticleFisher",
    "PassageTimes",
    "PointReset",
    "Potential",
    "Product",
    "Quadratic",
    "Quartic",
    "Recorded",
    "RiemannianBrownian",
    "Ring",
    "RunStoppedError",
    "SamplePath",
    "Schedules",
    "SharedFisher",
    "SharedMatrix",
    "StableGrid",
    "StableNoise",
    "StableOnChart",
    "State",
    "StateDependentLangevin",
    "Stepper",
    "StochasticHarmonic",
    "TamedEuler",
    "Tilted",
    "TiltedRing",
    "Training",
    "cauchy_quartic_density",
    "chain_variance",
    "committor",
    "consolidation",
    "constant_schedules",
    "convergence_bound",
    "coordinate_boundary",
    "corrected_engine",
    "corrected_schedules",
    "cubic_flow",
    "density_entropy",
    "divergence",
    "drift_entropy_product",
    "drift_grid",
    "drift_passage_cv",
    "drift_plane",
    "drift_reset_passage_time",
    "energy_grid",
    "energy_plane",
    "entropy_production",
    "escape_time",
    "evolve",
    "exit_time",
    "exponential_rate",
    "eyring_kramers_rate",
    "eyring_kramers_rate_nd",
    "face_flux",
    "finite_barrier_ratio",
    "first_passage",
    "fisher_limit",
    "free_diffusion_radius",
    "free_energy",
    "gaussian_entropy",
    "gaussian_kl",
    "gaussian_w2_squared",
    "getoor_exit_time",
    "gibbs_density",
    "imkeller_pavlyukevich_rate",
    "integrate",
    "isotropic_stable",
    "jump_matrix",
    "kl_rate",
    "largest_curvature",
    "learning_rate",
    "log_mean_first_passage_time",
    "lyapunov_covariance",
    "lyapunov_entropy_production",
    "mean_first_passage",
    "mean_first_passage_time",
    "mean_passage_time",
    "mixing_time",
    "optimal_reset_rate",
    "ou_consolidation",
    "ou_entropy_production",
    "ou_entropy_rate",
    "ou_kl",
    "ou_kl_rate",
    "ou_levy_scale",
    "ou_mean",
    "ou_stationary_variance",
    "ou_variance",
    "ou_w2_squared",
    "poincare_disk",
    "point_mass",
    "poisson_interval",
    "positive_stable",
    "published_code_schedules",
    "published_drift_entropy_bound",
    "published_effective_temperature",
    "published_entropy_production",
    "published_exploration_radius",
    "published_fisher_limit",
    "published_kl_rate",
    "published_kl_rate_proof",
    "published_mixing_time",
    "published_reset_count",
    "published_schedules",
    "published_talagrand_bound",
    "rate_matrix",
    "recovered_diffusion",
    "regime",
    "relative_entropy",
    "relax",
    "reset_density",
    "reset_passage_time",
    "reset_slope",
    "ring_entropy_production",
    "rotational_entropy_production",
    "run_engine",
    "sgd_temperature",
    "spectrum",
    "sphere",
    "sphere_cosine",
    "stable_evolve",
    "stable_grid",
    "stable_stationary",
    "stable_tail_constant",
    "stationary",
    "stationary_energy",
    "string_method",
    "survival_curve",
    "symmetric_stable",
    "talagrand_bound",
    "tilted_ring_velocity",
    "total_mass",
    "train",
    "train_epoch",
    "well_decay_rate",
    "with_resets",
    "with_target",
]
