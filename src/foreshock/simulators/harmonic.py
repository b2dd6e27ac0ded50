r"""Stochastic harmonic learning: gradient descent with Gaussian noise, watched by its own ratio.

The chain is theta' = theta - lr G^-1 grad L + sqrt(2 T lr) G^-1/2 xi. For small lr its stationary
law is exp(-L/T)/Z for every constant metric G. The published chain adds sqrt(2 D dt) xi to a drift
of -lr grad L, so its temperature is D dt/lr and not D; `StochasticHarmonic.published` says so once.

Document: langevin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from foreshock.simulators.consolidation_ratio import consolidation, laplacian, regime
from foreshock.simulators.door import counts, movable
from foreshock.simulators.dynamics import largest_curvature
from foreshock.simulators.noise_control import AdaptiveNoise
from foreshock.simulators.potentials import Potential
from foreshock.simulators.stepping import SOON
from foreshock.types import Estimate, Flag


@dataclass(frozen=True, eq=False)
class StochasticHarmonic:
    """Langevin dynamics as an optimizer, for any number of replicas at once.

    Args:
        potential: The loss, with gradient and Hessian.
        lr: Learning rate, or a schedule from the step to it (such as cosine annealing).
        temperature: T of the stationary law exp(-L/T), for lr small against 2/lambda_max: in a mode
            of curvature k the variance of the chain is 1/(1 - lr k/2) times T/k, twice at lr k = 1.
        metric: (d, d) A constant metric G, such as the Fisher matrix: the natural-gradient arm.
            Drift and noise are both preconditioned, so the stationary law stays.
        entropy: Weight of the entropy of the law in the free energy, which **adds** to the
            temperature (published with the opposite sign, as a term of the loss).

    Raises:
        ValueError: If the temperature is negative or the metric is not positive definite.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> bowl = Quadratic(1.0, dimension=10)
        >>> optimizer = StochasticHarmonic.published(bowl, lr=0.01, noise_scale=0.001)
        >>> round(optimizer.temperature, 6)
        0.1
        >>> theta = torch.ones(4, 10, dtype=torch.float64)
        >>> optimizer.step(theta, 0, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 10])
    """

    potential: Potential
    lr: float | Callable[[int], float]
    temperature: float
    metric: Tensor | None = None
    entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "entropy"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"The `{name}` of `StochasticHarmonic` must be finite and not negative. "
                    f"Got {value}. With 0 it is plain gradient descent."
                )
        if not callable(self.lr) and not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"The `lr` of `StochasticHarmonic` must be positive. Got {self.lr}.")
        if self.metric is not None:
            d = self.potential.dimension
            metric = torch.as_tensor(self.metric, dtype=torch.float64)
            fits = metric.shape == (d, d) and torch.allclose(metric, metric.T)
            if not fits or not bool(torch.linalg.eigvalsh(metric)[0] > 0):
                raise ValueError(
                    f"The `metric` of `StochasticHarmonic` must be a symmetric positive definite "
                    f"({d}, {d}) matrix. Got shape {tuple(metric.shape)}. Add a multiple of the "
                    "identity to a Fisher matrix that is singular."
                )
            object.__setattr__(self, "metric", metric)

    @classmethod
    def published(
        cls, potential: Potential, *, lr: float = 0.01, noise_scale: float = 0.01, dt: float = 1.0
    ) -> StochasticHarmonic:
        """The chain of the document, with its arguments; its temperature is noise_scale * dt / lr.

        The drift there has no dt, so `noise_scale` is no temperature: with lr = .01 and
        D = .001 a unit bowl has the variance .1005, not .001.

        Args:
            potential: The loss.
            lr: Learning rate.
            noise_scale: D.
            dt: Time of one step, which the document applies to the noise only.

        Returns:
            The same chain, its temperature stated.

        Raises:
            ValueError: If the learning rate is not positive.
        """
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"The `lr` of `StochasticHarmonic` must be positive. Got {lr}.")
        return cls(potential, lr, noise_scale * dt / lr)

    @cached_property
    def _lower(self) -> Tensor | None:
        """Cholesky factor of the metric, for all steps."""
        return None if self.metric is None else torch.linalg.cholesky(self.metric)

    def rate(self, step: int) -> float:
        """The learning rate at a step; one that a schedule makes negative is refused."""
        lr = float(self.lr(step)) if callable(self.lr) else float(self.lr)
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(
                f"The schedule `lr` of `StochasticHarmonic` gave {lr} at step {step}. "
                "A learning rate must be finite and not negative."
            )
        return lr

    def step(
        self, theta: Tensor, step: int, *, generator: torch.Generator, boost: Tensor | float = 1.0
    ) -> Tensor:
        """One update of every replica.

        Args:
            theta: (n, d) Parameters.
            step: Number of the step, for a schedule.
            generator: Source of the noise.
            boost: (n,) Factor on the temperature of each replica.

        Returns:
            (n, d) The new parameters.
        """
        lr = self.rate(step)
        drift = self.potential.gradient(theta)
        noise = torch.empty_like(theta).normal_(generator=generator)
        if self._lower is not None:
            lower = self._lower.to(theta)
            drift = torch.cholesky_solve(drift.T, lower).T
            # L' x = xi has the covariance (L L')^-1 = G^-1.
            noise = torch.linalg.solve_triangular(lower.T, noise.T, upper=True).T
        boost = torch.as_tensor(boost, dtype=theta.dtype, device=theta.device).reshape(-1, 1)
        scale = (2 * (self.temperature * boost + self.entropy) * lr).sqrt()
        return theta - lr * drift + scale * noise

    def check(self, theta: Tensor, steps: int = 1) -> None:
        """Refuse a learning rate at which the stiffest direction diverges.

        Looked for at the minima that the potential names, with every rate of a schedule, and at 32
        of the starts, with the rates of the first 20 d steps: after that the replicas are
        elsewhere, where the curvature is not known. Without named minima every rate is for the
        starts.

        Args:
            theta: (n, d) Where the run starts.
            steps: Updates to come.

        Raises:
            ValueError: If lr times the largest curvature in the metric is 2 or more at a step.
        """
        rates = [self.rate(step) for step in range(steps if callable(self.lr) else 1)]
        root: float | Tensor = 1.0
        if self.metric is not None:
            values, vectors = torch.linalg.eigh(self.metric)
            root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        starts = theta.double()
        minima = getattr(self.potential, "minima", ())
        parts = [(starts, rates[: SOON * starts.shape[1]] if minima else rates)]
        if minima:
            parts.append((torch.tensor(minima, dtype=torch.float64).to(starts), rates))
        for points, coming in parts:
            lr, stiffest = max(coming), largest_curvature(self.potential, points, root)
            if len(points) and lr * stiffest >= 2:
                when = f" at step {coming.index(lr)}" if lr > rates[0] else ""
                raise ValueError(
                    f"lr * lambda_max = {lr * stiffest:.3g} at the start or in a well{when}: "
                    "gradient descent diverges from 2 on. "
                    f"Take an `lr` below {2 / stiffest:.3g}."
                )


@dataclass(frozen=True, eq=False)
class Training:
    """A recorded run of `train`.

    Args:
        steps: (records,) Steps at which it was recorded.
        path: (records, n, d) Parameters.
        loss: (records, n) Losses.
        published: (records, n) The published C = |grad L|^2/(D d), D = the base temperature.
        ratio: One E|grad L|^2/(T E[lap L]) a record, over replicas, at the base temperature;
            flagged where a replica has come to where its step diverges, lr tr(H)/d >= 2.
        regimes: One label a record.
        factors: (records, n) Factor of the adaptive noise at that step.
        boosts: (n,) How often each replica was boosted.
    """

    steps: Tensor
    path: Tensor
    loss: Tensor
    published: Tensor
    ratio: tuple[Estimate, ...]
    regimes: tuple[str, ...]
    factors: Tensor
    boosts: Tensor


def train(
    optimizer: StochasticHarmonic,
    theta: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    noise: AdaptiveNoise | None = None,
    every: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Run the optimizer on replicas and record what it does.

    Args:
        optimizer: The chain.
        theta: (n, d) or (d,) Start; a single replica has no interval for the ratio.
        steps: Updates.
        generator: Source of the noise.
        noise: Adaptive noise, or none.
        every: Record every so many steps; the start and the end always.
        progress: Called with (steps done, steps).

    Returns:
        The record. A start that does not fit or is not finite, a count below 1 and a learning rate
        that is unstable there are refused (ValueError).

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> chain = StochasticHarmonic(Quadratic(1.0, dimension=2), lr=0.1, temperature=0.5)
        >>> start = torch.zeros(64, 2, dtype=torch.float64)
        >>> run = train(chain, start, 100, generator=torch.Generator().manual_seed(0), every=50)
        >>> run.steps.tolist(), run.path.shape, run.regimes[-1]
        ([0, 50, 100], torch.Size([3, 64, 2]), 'stationary')
    """
    theta = torch.atleast_2d(torch.as_tensor(theta))
    if not theta.is_floating_point():
        theta = theta.to(torch.get_default_dtype())
    movable("train", "theta", theta, optimizer)
    counts("train", steps=steps, every=every)
    optimizer.check(theta, steps)
    n, d = theta.shape
    temperature = optimizer.temperature + optimizer.entropy
    state = noise.init(n) if noise is not None else None
    factor = torch.ones(n)
    kept: list[tuple[int, Tensor, Tensor, Tensor, Estimate, Tensor]] = []
    for step in range(steps + 1):
        due = step % every == 0 or step == steps
        if noise is not None or due:
            gradients = optimizer.potential.gradient(theta)
            squared = gradients.square().sum(1)
            curved = laplacian(optimizer.potential, theta)
            if noise is not None and state is not None:
                state, factor = noise.update(state, step, _each(squared, curved, temperature))
            if due:
                published = squared / (temperature * d)  # infinite without noise
                found = consolidation(gradients, curved, temperature)
                if optimizer.metric is None:
                    found = _astray(found, optimizer.rate(min(step, steps - 1)) * curved / d)
                loss = optimizer.potential.energy(theta)
                kept.append((step, theta, loss, published, found, factor.clone()))
        if step < steps:
            theta = optimizer.step(theta, step, generator=generator, boost=factor)
            if progress is not None:
                progress(step + 1, steps)
    at, path, loss, published, ratio, factors = zip(*kept, strict=True)
    return Training(
        torch.tensor(at),
        torch.stack(path),
        torch.stack(loss),
        torch.stack(published),
        tuple(ratio),
        tuple(regime(r) for r in ratio),
        torch.stack(factors),
        state.boosts if state is not None else torch.zeros(n, dtype=torch.int64),
    )


def _astray(found: Estimate, steepness: Tensor) -> Estimate:
    """The ratio, unresolved if a step diverges: lr tr(H)/d is at most lr lambda_max."""
    bad = int((steepness >= 2).sum())
    if not bad:
        return found
    said = (
        f"{bad} of {len(steepness)} replicas are where lr * lambda_max >= 2 and a step diverges: "
        "the ratio is not that of a law. Take a smaller `lr`."
    )
    reason = f"{found.reason} {said}".strip()
    return replace(found, flags=found.flags | Flag.UNRESOLVED, reason=reason)


def _each(squared: Tensor, curved: Tensor, temperature: float) -> Tensor:
    """The corrected ratio of single replicas; infinite where there is no rest to compare with."""
    rest = temperature * curved
    return torch.where(rest > 0, squared / rest, torch.inf)


def recovered_diffusion(run: Training, optimizer: StochasticHarmonic) -> Estimate:
    r"""Diffusion from a path: E|dtheta + lr grad L|^2/(2 d lr) per unit of time lr.

    Unbiased at any lr, because the drift of each step is known. The published Var(theta)/T reads a
    third of D on free diffusion and 0 on a stationary one. Interval: chi-square, since increments
    minus drift are independent Gaussians; exact without adaptive noise and without a metric.

    Args:
        run: A record with `every=1`.
        optimizer: The chain that made it.

    Returns:
        D = T of the chain, from the steps with lr > 0: the others hold no noise. Missing if there
        are none.

    Raises:
        ValueError: If the record left steps out, or the chain has a metric.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> chain = StochasticHarmonic(Quadratic(1.0, dimension=2), lr=0.1, temperature=0.5)
        >>> start = torch.zeros(64, 2, dtype=torch.float64)
        >>> run = train(chain, start, 100, generator=torch.Generator().manual_seed(0))
        >>> found = recovered_diffusion(run, chain)
        >>> found.low < 0.5 < found.high
        True
    """
    if optimizer.metric is not None or bool((run.steps.diff() != 1).any()):
        raise ValueError(
            "`recovered_diffusion` needs every step of a chain without `metric`. "
            "Record with `every=1`."
        )
    from scipy.stats import chi2

    rates = torch.tensor([optimizer.rate(int(s)) for s in run.steps[:-1]], dtype=torch.float64)
    moved = rates > 0
    if not bool(moved.any()):
        return Estimate.missing("The learning rate was 0 at every step: nothing moved.")
    rates = rates[moved]
    _, n, d = run.path.shape
    starts = run.path[:-1][moved]
    drift = optimizer.potential.gradient(starts.reshape(-1, d)).reshape(-1, n, d)
    noise = run.path.diff(dim=0)[moved].double() + rates[:, None, None] * drift.double()
    degrees = noise.numel()
    value = float((noise.square() / (2 * rates[:, None, None])).mean())
    low, high = (float(value * degrees / chi2.ppf(q, degrees)) for q in (0.975, 0.025))
    found = Estimate(value, low, high, n=degrees)
    if bool((run.factors != 1).any()):
        reason = "The noise was boosted on the way; this is its average."
        return replace(found, flags=Flag.NONSTATIONARY, reason=reason)
    return found
