"""The published system of "fokker_planck" turned into the particle engine, and an epoch of it.

What is corrected is in the table of `foreshock.simulators.published_fokker_planck`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.detectors import PhaseTransition
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher
from foreshock.simulators.door import counts, movable
from foreshock.simulators.named_schedules import corrected_schedules
from foreshock.simulators.observing import observe
from foreshock.simulators.particles import Engine, State, motion, move, reset_now
from foreshock.simulators.published_fokker_planck import FokkerPlanckDynamics
from foreshock.simulators.resets import CloudReset
from foreshock.simulators.stability import check_again, check_run, looks
from foreshock.types import Estimate


def corrected_engine(
    system: FokkerPlanckDynamics,
    dimension: int,
    dt: float = 0.01,
    *,
    noise_scale: float = math.sqrt(0.5),
    boost_time: float = 0.1,
    refractory: float = 1.0,
) -> Engine:
    r"""The particle engine with the arguments of the published system.

    Kept: decoder, loss, eta(t), lambda (constant, as the code has it), gamma, alpha_reset with its
    stretch of 1.5, and beta_reset as a diffusion beta_reset D_0 added after a reset (the text adds
    beta_reset, the code calls it a multiplier; they agree at its D_0 = 1). Corrected: one target
    per particle, the entropy as diffusion, a Fisher matrix per particle, mode `gibbs`, rows that
    stay in place, and a temperature that starts at the published D_0/eta_0 and falls as
    1/log(e + int eta) instead of freezing the noise. That start is 100 with the published defaults:
    choose D_0 = eta_0 T for a T in the units of the loss.

    Args:
        system: The published system.
        dimension: d of the latents.
        dt: Time step.
        noise_scale: sigma of the decoder; the published score is that of sigma^2 = 1/2.
        boost_time: How long the added diffusion lasts; the document does not say.
        refractory: Time after a reset without another.

    Returns:
        An engine. A target of shape (x,) is shared, one of shape (n, x) goes row by row. A run
        refuses a decoder with kinks, such as ReLUs: div D lies on them.

    Examples:
        >>> system = FokkerPlanckDynamics(torch.nn.Linear(2, 3), torch.zeros(3), D_0=0.01)
        >>> round(corrected_engine(system, 2).schedules.temperature(0.0), 6)
        1.001
    """
    potential = DecoderPotential(
        system.decode,
        system.target_x,
        dimension,
        noise_scale,
        loss="mean-square",
        single_target=system.target_x.ndim == 1,
    )
    schedules = corrected_schedules(
        system.eta_0, system.tau_eta, system.lambda_reg, depth=system.D_0 / system.eta_0
    )
    resets = CloudReset(
        system.alpha_reset,
        1.5,
        boost=system.beta_reset * system.D_0,
        boost_time=boost_time,
        refractory=refractory,
    )
    return Engine(potential, schedules, dt, ParticleFisher(system.gamma), "gibbs", resets)


@dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch of the corrected engine, under the names of the published one.

    Args:
        c: Consolidation ratio at every step, by a fitted score.
        s_dot: Entropy production.
        loss: Mean energy.
        transitions: Steps at which the detector fired and the cloud was reset.
    """

    c: tuple[Estimate, ...]
    s_dot: tuple[Estimate, ...]
    loss: tuple[Estimate, ...]
    transitions: tuple[int, ...]


def train_epoch(
    engine: Engine,
    z_init: Tensor,
    n_steps: int = 100,
    *,
    generator: torch.Generator,
    detector: PhaseTransition | None = None,
) -> tuple[Tensor, Epoch]:
    """The epoch of the corrected engine: observables of every step, resets on a causal alarm.

    The observables of step k are those of the particles that make it, by one score fit each and
    without an interval for C and S_dot; `run_engine` gives these, at twenty fits a record.

    Args:
        engine: Such as `corrected_engine` gives; without a `CloudReset` nothing is reset.
        z_init: (n, d) Particles.
        n_steps: How many steps.
        generator: Source of all randomness.
        detector: Reads series called C, S_dot and loss; `PhaseTransition` at its defaults if None.

    Returns:
        Particles and the epoch. Particles no run can start from are refused, and a step that is
        unstable at the start or, at up to 8 looks, where the particles have come to.

    Examples:
        >>> system = FokkerPlanckDynamics(torch.nn.Linear(2, 3), torch.zeros(3), D_0=0.01)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(200, 2, generator=generator)
        >>> z, epoch = train_epoch(corrected_engine(system, 2), z, 3, generator=generator)
        >>> len(epoch.c), epoch.transitions, tuple(z.shape)
        (3, (), (200, 2))
    """
    counts("train_epoch", n_steps=n_steps)
    movable("train_epoch", "z_init", z_init, engine)
    schedules = check_run(engine, z_init, steps=n_steps)
    between, looked, look = looks(n_steps, z_init.shape[1]), 0, 0
    rule = detector or PhaseTransition("C", "S_dot", "loss")
    seen, state, transitions = rule.init(), State(z_init.detach().clone()), []
    readings: list[dict[str, Estimate]] = []
    for k in range(n_steps):
        if k - looked >= between:
            looked, look = k, look + 1
            check_again(engine, state.z, schedules[k : k + between], look=look)
        moved = motion(engine, state, generator)
        found, _ = observe(engine, state, moved, generator, refits=0, bounds=False)
        row = {"C": found["c"], "S_dot": found["entropy_production"], "loss": found["energy"]}
        readings.append(row)
        seen, alarm = rule.update(seen, k, row)
        if alarm is not None and isinstance(engine.resets, CloudReset):
            transitions.append(k)
            state = reset_now(engine, state, generator)
            moved = motion(engine, state, generator)
        state = move(engine, state, moved, generator)
    c, s_dot, loss = (tuple(row[name] for row in readings) for name in ("C", "S_dot", "loss"))
    return state.z, Epoch(c, s_dot, loss, tuple(transitions))
