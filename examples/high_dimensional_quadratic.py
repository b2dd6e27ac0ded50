"""
A quadratic in many dimensions
==============================

The dynamics of the document *langevin* on a bowl in 200 dimensions, where everything is known: the
energy at rest is T d/2, the loss falls at the rate 2ηλ a step, and the
diffusion can be read back from the path. Three published rules are shown beside it, with what they
read.
"""

from __future__ import annotations

import numpy as np
import torch

from foreshock.simulators.exact_linear import chain_variance, stationary_energy
from foreshock.simulators.harmonic import StochasticHarmonic, recovered_diffusion, train
from foreshock.simulators.potentials import Quadratic
from foreshock.stats.published_langevin import d_parameters_langevin

DIMENSION, LR, TEMPERATURE, REPLICAS = 200, 0.01, 0.05, 64
generator = torch.Generator().manual_seed(0)
curvature = torch.linspace(0.5, 4.0, DIMENSION, dtype=torch.float64)
bowl = Quadratic(curvature)
optimizer = StochasticHarmonic(bowl, LR, TEMPERATURE)

# %%
# Falling, then resting
# ---------------------

start = 3 + torch.randn(REPLICAS, DIMENSION, dtype=torch.float64, generator=generator)
run = train(optimizer, start, 1500, generator=generator, every=10)
loss = run.loss.mean(1)
error = run.loss[-1].std() / REPLICAS**0.5

# Equipartition, and the small surplus 1/(1 - lr k/2) that a step of finite length adds.
gibbs = stationary_energy(DIMENSION, TEMPERATURE)
stiffness = curvature.numpy()
chain = float((stiffness * chain_variance(LR, stiffness, TEMPERATURE, LR)).sum() / 2)
print(f"energy at rest {loss[-1]:.4f} +- {error:.4f}; T d/2 = {gibbs:.4f}, this chain {chain:.4f}")
assert abs(loss[-1] - chain) < 3 * error
assert chain / gibbs - 1 < 0.013

# %%
# The corrected consolidation ratio tells the two apart by itself: above 1 the mean loss falls, at 1
# it rests. The published one rests at tr(H)/d, here 2.25, whatever happens.

resting = next(int(s) for s, r in zip(run.steps, run.regimes, strict=True) if r == "stationary")
print(f"falling until step {resting}, stationary after; ratio at the end {run.ratio[-1].value:.3f}")
assert run.regimes[5] == "falling" and run.regimes[-1] == "stationary"
assert abs(float(run.published[-20:].mean()) - 2.25) < 0.1

# %%
# The rate
# --------
# In one direction of curvature k the loss above rest falls as (1 − ηk)²ᵗ, which is
# exp(−2ηkt) for a small step: twice the published rate.

pure = StochasticHarmonic(Quadratic(2.0, dimension=DIMENSION), LR, 0.0)
down = train(pure, start, 100, generator=generator, every=100)
rate = -float((down.loss[1].mean() / down.loss[0].mean()).log()) / 100
print(f"rate per step {rate:.5f}; 2 lr k = {2 * LR * 2.0:.5f}; published lr k = {LR * 2.0:.5f}")
assert abs(rate + 2 * np.log(1 - LR * 2.0)) < 1e-9
assert abs(rate / (2 * LR * 2.0) - 1) < 0.011

# %%
# The diffusion
# -------------

path = train(optimizer, run.path[-1], 200, generator=generator)
found = recovered_diffusion(path, optimizer)
published = d_parameters_langevin(path.path[:, 0].numpy())
print(
    f"D from increments {found.value:.5f} [{found.low:.5f}, {found.high:.5f}], true {TEMPERATURE}"
)
print(f"D as published, Var(theta)/T: {published:.6f}")
assert found.low < TEMPERATURE < found.high
assert published < 0.01 * TEMPERATURE

# %%
# The picture
# -----------

import matplotlib.pyplot as plt  # noqa: E402

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.semilogy(run.steps, loss, color="#0072B2", label=f"mean of {REPLICAS} replicas")
left.axhline(chain, color="#1D2126", ls="--", lw=1, label="exact at rest")
left.set(xlabel="step", ylabel="loss", title=f"{DIMENSION} dimensions")
left.legend(frameon=False)
ratio = np.array([(r.value, r.low, r.high) for r in run.ratio])
right.fill_between(run.steps, ratio[:, 1], ratio[:, 2], color="#009E73", alpha=0.25, lw=0)
right.semilogy(run.steps, ratio[:, 0], color="#009E73", label="corrected, 95 %")
right.semilogy(run.steps, run.published.mean(1), color="#D55E00", label="as published")
right.axhline(1, color="#1D2126", ls="--", lw=1)
right.set(xlabel="step", ylabel="C", title="Consolidation ratio")
right.legend(frameon=False)
