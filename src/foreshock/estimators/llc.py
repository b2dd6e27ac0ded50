"""Local learning coefficient: Langevin chains around the weights, on copies of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, batch_size
from foreshock.stats.llc import SERIES, llc_summary
from foreshock.types import Estimate, Readings, SeriesInfo

#: ε(nβ h_max + γ) where the step is chosen here: the stiffest direction then reads 5 % too much
#: (`llc_quadratic`), the others less, and it forgets its start in 10 steps.
RELATIVE_STEP = 0.2
#: Power iterations for h_max. From below, so the step errs on the long side by the missing part.
ITERATIONS = 8


class Chains(NamedTuple):
    """Losses along the chains, on the device.

    ``losses`` and ``log_ratios`` are (C, T), ``initial`` and ``step`` scalars, all float64.
    """

    losses: Tensor
    log_ratios: Tensor
    initial: Tensor
    step: Tensor


def sgld(
    view: ModelView,
    probe: Probe,
    batches: Sequence[Any],
    *,
    n_beta: float,
    gamma: float = 100.0,
    step: float | None = None,
    chains: int = 4,
    burn_in: int = 15,
    draws: int = 30,
    seed: int = 0,
) -> Chains:
    """Langevin chains around the live weights w*, on copies: the live ones are never written.

    w' = w − (ε/2)(nβ ∇L(w) + γ(w − w*)) + √ε ξ with L the mean loss over all the batches, so the
    gradient carries no noise of its own. Every chain has a generator of its own. The weights move
    in float32 at least; a 16-bit model is evaluated at their rounding.

    Args:
        view: The live weights.
        probe: For its ``loss``, a mean over examples.
        batches: What L is the mean of; joined into one batch where they are tensors that fit.
        n_beta: nβ, the weight of the loss.
        gamma: Localisation γ > 0.
        step: ε; by default 0.2/(nβ h + γ), h the largest |eigenvalue| of the Hessian that 8 power
            iterations find.
        chains: How many chains.
        burn_in: Moves dropped from each.
        draws: Moves kept of each.
        seed: Seed of the generators.

    Returns:
        The chains. Cost: ``chains * (burn_in + draws)`` gradients, and 8 products with the Hessian
        where the step is chosen here. Memory: a few copies of the weights.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> probe = Probe(loss=lambda m, x: m(x).square().mean(), batches=[torch.ones(9, 1)])
        >>> sgld(view, probe, probe.draw(0), n_beta=9.0).losses.shape
        torch.Size([4, 30])
    """
    joined = _joined(batches)
    weights = [batch_size(batch) or 1 for batch in joined]
    shapes = [p.shape for p in view.parameters]
    kinds = [p.dtype for p in view.parameters]
    wide = torch.float64 if torch.float64 in kinds else torch.float32
    origin = torch.cat([p.reshape(-1).to(wide) for p in view.parameters])
    sizes = [s.numel() for s in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = [
            part.view(shape).to(kind)
            for part, shape, kind in zip(flat.split(sizes), shapes, kinds, strict=True)
        ]
        values = [
            view.loss(parts, probe.loss, b).double() * w
            for b, w in zip(joined, weights, strict=True)
        ]
        return torch.stack(values).sum() / sum(weights)

    def value_and_gradient(flat: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        leaf = flat.detach().requires_grad_()
        value = loss(leaf)
        if not value.requires_grad:
            return value, torch.zeros_like(leaf)
        gradient = torch.autograd.grad(value, leaf, create_graph=create_graph)[0]
        return value, gradient if create_graph else gradient.detach()

    with quiet(seed):
        private = torch.Generator(origin.device).manual_seed(seed)
        initial, start = value_and_gradient(origin)
        initial = initial.detach()
        if step is None:
            h = _stiffness(loss, origin, private)
            epsilon = RELATIVE_STEP / (n_beta * h + gamma)
        else:
            epsilon = torch.tensor(step, dtype=torch.float64, device=origin.device)
        half, root = (epsilon / 2).to(wide), epsilon.sqrt().to(wide)
        losses, ratios = [], []
        for chain in range(chains):
            generator = torch.Generator(origin.device).manual_seed(seed * 1_000_003 + chain + 1)
            at, value, force = origin, initial, n_beta * start
            for move in range(burn_in + draws):
                noise = torch.randn(
                    origin.shape, generator=generator, dtype=wide, device=origin.device
                )
                moved = at - half * force + root * noise
                new_value, gradient = value_and_gradient(moved)
                new_value = new_value.detach()
                new_force = n_beta * gradient + gamma * (moved - origin)
                if move >= burn_in:
                    losses.append(new_value)
                    ratios.append(
                        n_beta * (value - new_value)
                        + gamma / 2 * (_square(at - origin) - _square(moved - origin))
                        - _square(at - moved + half * new_force) / (2 * epsilon)
                        + _square(noise) / 2
                    )
                at, value, force = moved, new_value, new_force
    return Chains(
        torch.stack(losses).view(chains, draws),
        torch.stack(ratios).view(chains, draws),
        initial,
        epsilon,
    )


def _square(x: Tensor) -> Tensor:
    """Squared norm, in float64."""
    return torch.linalg.vector_norm(x, dtype=torch.float64) ** 2


def _stiffness(loss: Any, origin: Tensor, generator: torch.Generator) -> Tensor:
    """Largest |eigenvalue| of the Hessian by power iteration, on the device."""
    leaf = origin.detach().requires_grad_()
    value = loss(leaf)
    zero = torch.zeros((), dtype=torch.float64, device=origin.device)
    if not value.requires_grad:
        return zero
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    if not gradient.requires_grad:  # linear in the weights
        return zero
    direction = torch.randn(
        origin.shape, generator=generator, dtype=origin.dtype, device=origin.device
    )
    size = zero
    for _ in range(ITERATIONS):
        direction = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)
        (direction,) = torch.autograd.grad(gradient, leaf, direction, retain_graph=True)
        size = torch.linalg.vector_norm(direction, dtype=torch.float64)
    return size


def _joined(batches: Sequence[Any]) -> list[Any]:
    """The batches as one, where all are tensors (or nests of them) of the same further shape."""
    flat = [pytree.tree_flatten(batch) for batch in batches]
    first, spec = flat[0]
    same = all(other == spec and len(leaves) == len(first) for leaves, other in flat)
    if not same or not all(isinstance(x, Tensor) and x.ndim for leaves, _ in flat for x in leaves):
        return list(batches)
    if any(
        x.shape[1:] != y.shape[1:] or x.dtype != y.dtype
        for leaves, _ in flat
        for x, y in zip(leaves, first, strict=True)
    ):
        return list(batches)
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return [pytree.tree_unflatten([torch.cat(column) for column in columns], spec)]


@dataclass(frozen=True)
class LocalLearningCoefficient:
    """How many directions the loss pins down around the weights: half their number, counted softly.

    ``llc/lambda`` = nβ(E[L] − L(w*)), the mean over Langevin chains around the weights w* that feel
    the loss with weight nβ = n/log n and a spring γ/2 |w − w*|²; L is the mean loss over the probe
    batches of the step and n the number of their examples. A regular model of d weights reads d/2
    as n → ∞ and γ → 0, a singular one less. It falls where training finds a simpler solution.
    ``llc/r_hat`` (split R-hat), ``llc/ess`` (effective draws) and ``llc/acceptance`` (what a
    Metropolis test of the moves would accept) tell whether the chains can be believed;
    ``llc/trace`` holds their losses.

    The interval is the sampler's alone: t over independent chains. Not in it, and read off
    `foreshock.stats.llc.llc_quadratic`: a direction counts nβh/(nβh + γ)/2, so at the default γ
    what is flatter than γ/nβ hardly counts; the step adds up to 5 % in the stiffest direction; at
    finite n a singular model differs from its coefficient by terms of order 1/log n. Directions
    with relaxation times 2/(ε(nβh + γ)) beyond the chain have not spread yet: split R-hat above 1.2
    flags the drift of short chains. Compare values of one γ, nβ and step with each other, over
    time, not with a theorem. During training the weights are no minimum: λ < 0 is then kept and
    flagged.

    Cost: ``chains * (burn_in + draws)`` + 24 gradients of all probe batches: 204 as it stands.
    These chains are short, and say so: they last about one relaxation time of a flat direction, and
    below three the estimate is flagged `not_converged`, since the loss that flat directions have
    not reached yet is missing from it. On a quadratic with curvatures 100 and twenty times 0.5 they
    read 0.8 for 6.2, with 20 equal ones 7.5 for 7.2. A referee takes ``burn_in=200, draws=400``,
    which on quadratics of 20 directions (nβ = 100, γ = 10) held the closed form in 95 %.

    Args:
        chains: Independent chains, at least 2.
        burn_in: Moves dropped.
        draws: Moves kept, at least 4.
        gamma: Localisation γ.
        n_beta: nβ; 0 for n/log n.
        step: Step size ε; 0 to choose it from the curvature.

    Raises:
        ValueError: If an argument cannot be used.

    Examples:
        >>> LocalLearningCoefficient(draws=200).price > LocalLearningCoefficient().price
        True
    """

    chains: int = 4
    burn_in: int = 15
    draws: int = 30
    gamma: float = 100.0
    n_beta: float = 0.0
    step: float = 0.0
    name: str = "llc"
    needs: frozenset[str] = frozenset({"probe"})
    stride: int = 0

    def __post_init__(self) -> None:
        for field, least in (("chains", 2), ("burn_in", 0), ("draws", 4)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `LocalLearningCoefficient` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )
        if not self.gamma > 0:
            raise ValueError(
                "The `gamma` of `LocalLearningCoefficient` must be positive: without it the chains "
                f"wander off along flat directions. Got {self.gamma}."
            )
        for field in ("n_beta", "step"):
            if not getattr(self, field) >= 0:
                raise ValueError(
                    f"The `{field}` of `LocalLearningCoefficient` must not be negative. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def price(self) -> float:
        """Gradients of all probe batches, some six steps each: more examples than in a batch."""
        return 6.0 * (self.chains * (self.burn_in + self.draws) + 3 * ITERATIONS)

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        source = "Lau, Furman, Wang, Murfet & Wei 2023, arXiv:2308.12108"
        return (
            SeriesInfo(
                "llc/lambda",
                "local learning coefficient",
                "1",
                "half the number of weights: a regular model",
                formula="nβ(E[L] − L(w*)) over Langevin chains localised by γ/2 |w − w*|²",
                oracle="closed form on quadratics; quadrature of w1^2k1 w2^2k2 at finite nβ, γ",
                source=source,
            ),
            SeriesInfo(
                "llc/r_hat",
                "split R-hat of the chains",
                "1",
                "1: chains agree",
                formula="sqrt((n−1)/n + B/W) over half chains",
                oracle="naive twin; 1 on independent draws",
                source="Gelman et al. 2013",
            ),
            SeriesInfo(
                "llc/ess",
                "effective draws of the chains",
                "draws",
                "chains × draws: independent draws",
                formula="C T / (1 + 2 Σ ρ_k), Geyer's initial positive sequence",
                oracle="C T (1−φ)/(1+φ) on autoregressive chains",
                source="Geyer 1992",
            ),
            SeriesInfo(
                "llc/acceptance",
                "acceptance a Metropolis test would have",
                "1",
                "1: a vanishing step",
                formula="mean of min(1, π(w')q(w|w') / π(w)q(w'|w)) over the moves",
                oracle="the ratio written out for Gaussian targets",
                source="Roberts & Tweedie 1996",
            ),
            SeriesInfo(
                "llc/trace",
                "loss along the chains",
                "loss",
                "flat after burn-in",
                array=True,
                formula="L at every kept draw, one row a chain",
                oracle="its mean is that of llc/lambda",
                source=source,
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Sample at one moment."""
        assert moment.probe is not None
        batches = moment.view.draw(moment.probe, moment.step)
        sizes = [batch_size(batch) for batch in batches]
        n = sum(size for size in sizes if size is not None)
        if not self.n_beta and (None in sizes or n < 2):
            sentence = "The number of examples of the probe is not known, or is 1; pass `n_beta`."
            return state, Readings(dict.fromkeys(SERIES, Estimate.missing(sentence, n=n)))
        n_beta = self.n_beta or n / math.log(n)
        found = sgld(
            moment.view,
            moment.probe,
            batches,
            n_beta=n_beta,
            gamma=self.gamma,
            step=self.step or None,
            chains=self.chains,
            burn_in=self.burn_in,
            draws=self.draws,
            seed=(moment.view.seed * 1_000_003 + moment.step) % 2**40,
        )
        count = self.chains * self.draws
        host = (
            torch.cat(
                [
                    found.losses.ravel(),
                    found.log_ratios.ravel(),
                    torch.stack([found.step, found.initial]),
                ]
            )
            .cpu()
            .numpy()
        )
        losses = host[:count].reshape(self.chains, self.draws)
        scalars = llc_summary(
            losses,
            float(host[-1]),
            n_beta,
            host[count:-2],
            relaxations=float(host[-2]) * self.gamma / 2 * (self.burn_in + self.draws),
        )
        return state, Readings(scalars, {"llc/trace": losses})
