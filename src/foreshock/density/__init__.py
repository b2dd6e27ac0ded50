"""Densities of particle clouds: score, flow, transport. Functions on tensors; no state.

The score grad log rho is what turns positions and a drift into consolidation, entropy production
and flux. Everything that rests on it carries its validity record. All of it is for
dz = mu dt + sqrt(2 D) dW read in the sense of Itô.
"""

from foreshock.density.divergence import drift_divergence as drift_divergence
from foreshock.density.divergence import ito_divergence as ito_divergence
from foreshock.density.energy import entropy as entropy
from foreshock.density.energy import fdt_ratio as fdt_ratio
from foreshock.density.energy import free_energy as free_energy
from foreshock.density.flow import Flow as Flow
from foreshock.density.flow import flow as flow
from foreshock.density.flow import flow_of_known_score as flow_of_known_score
from foreshock.density.flow import velocity as velocity
from foreshock.density.flux import PlaneFlux as PlaneFlux
from foreshock.density.flux import flux as flux
from foreshock.density.flux import plane_flux as plane_flux
from foreshock.density.moves import MeasuredFlow as MeasuredFlow
from foreshock.density.moves import measured_flow as measured_flow
from foreshock.density.score import Score as Score
from foreshock.density.score import fit_score as fit_score
from foreshock.density.score_record import Selection as Selection
from foreshock.density.score_record import Validity as Validity
from foreshock.density.transport import bures as bures
from foreshock.density.transport import quantile_w2_squared as quantile_w2_squared
from foreshock.density.transport import w2 as w2
from foreshock.density.variational import production_bound as production_bound

__all__ = [
    "Flow",
    "MeasuredFlow",
    "PlaneFlux",
    "Score",
    "Selection",
    "Validity",
    "bures",
    "drift_divergence",
    "entropy",
    "fdt_ratio",
    "fit_score",
    "flow",
    "flow_of_known_score",
    "flux",
    "free_energy",
    "ito_divergence",
    "measured_flow",
    "plane_flux",
    "production_bound",
    "quantile_w2_squared",
    "velocity",
    "w2",
]
