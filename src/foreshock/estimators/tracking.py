"""The largest eigenvalue of a matrix that changes a little from call to call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foreshock.estimators.gradient_differences import disagreement
from foreshock.estimators.hvp import DIFFERENCES, Product
from foreshock.estimators.lanczos import TOLERANCE, Ritz, lanczos
from foreshock.estimators.probe_hessian import PartProduct, part_index
from foreshock.probe.groups import Groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.types import NAN, Estimate, Flag

#: Most products of one Lanczos run. A spectrum that needs more has no top eigenvalue to speak of.
MOST = 64
#: Length of the random vector that is added to a unit start, and of the second Ritz vector. Without
#: it a start that has converged stays on its eigenvector for ever, whatever overtakes it.
ADMIXTURE = 0.1
#: Products by differences serve where their error is at most this share of the tolerance.
ALLOWED = 0.3
#: Fewest products of a run, and by what the last must shrink the residual. Two eigenvalues within 3
#: to 7 % of each other, the warm start on the wrong one, show from the fourth product on, by a
#: residual that stops falling; with three, 2 to 3 % of error went unflagged.
LEAST = 4
FALLING = 0.8
#: Fewest products from a random start, on which a check rests: with four to six, some runs stopped
#: on the second eigenvalue, 17 % below the first.
LEAST_COLD = 8
#: Most products of a run by differences: with a kink at every other product none would converge.
MOST_DIFFERENCES = 16
#: Cosine to the vector of the last comparison below which there is another.
TURNED = 0.5
#: Ratio to the eigenvalue of the last comparison beyond which there is another.
GROWN = 1.5

#: Error of products by differences, and along what, where nothing can tell.
UNKNOWN: tuple[float, Tensor | None, float] = (math.inf, None, NAN)

EMPTY_GROUP = "The group {name!r} finds no trainable parameter."


@dataclass(frozen=True)
class CurvatureState:
    """What one measurement hands to the next: where to start, and when the last check was.

    Args:
        vectors: The two leading Ritz vectors, ``(2, d)``.
        count: Measurements made.
        checked_at: Step of the last cold check.
        off: Relative error of a product by differences at the last comparison with an exact one;
            inf before any, and where they may not serve.
        along: The vector of that comparison, ``(d,)``.
        at: The eigenvalue there.
        groups: States of the parts, by name.
    """

    vectors: Tensor | None = None
    count: int = 0
    checked_at: int = -1
    off: float = math.inf
    along: Tensor | None = None
    at: float = NAN
    groups: Mapping[str, CurvatureState] = field(default_factory=dict)


def track(
    product: Product,
    state: CurvatureState | None = None,
    *,
    step: int = 0,
    cold_every: int = 25,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    to_norm: bool = False,
) -> tuple[CurvatureState, Estimate]:
    """Largest eigenvalue of a symmetric matrix that changes from call to call.

    The start is v₁ + v₂/10 from the last call, with 10 % of random admixture. The first call
    and every ``cold_every``-th also run from a random start (the first from two) and take the
    larger value.

    A matrix that knows cheaper products (`Product.by_differences`) is asked for them. The first
    call and every check, which are exact, compare one with an exact product along the vector that
    was found. They serve between checks if their error is at most 30 % of the tolerance, and it
    widens the interval. Where since then the vector has turned by 60°, or the value has grown or
    shrunk by a half, they are compared again. Where their error has become larger, or a run of 16
    does not converge, the run is done again exactly, and they do not serve until the next check.

    Args:
        product: v ↦ Hv, with its dimension, device and dtype. Call within `quiet`.
        state: From the previous call; ``None`` at the first.
        step: For the sentence that says when the last cold check was.
        cold_every: Distance of cold checks, in calls.
        tolerance: Relative error at which Lanczos stops.
        seed: Seed of the random starts.
        to_norm: Whether the tolerance is relative to the norm of the matrix instead of θ.

    Returns:
        Next state, and θ with interval θ ± residual; flagged ``not_converged`` where Lanczos
        stopped short, or where two starts of a check disagree. ``n`` is the number of products of
        Lanczos, lost runs included, comparisons not.
        ``null``, at a check, is the span of the starts' values.

    Examples:
        >>> from foreshock.estimators.hvp import hessian
        >>> from foreshock.probe.quiet import quiet
        >>> from foreshock.probe.view import ModelView
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> with quiet(0):
        ...     view = ModelView(model)
        ...     product, _, _ = hessian(view, lambda m, x: m(x).pow(2).sum() / 2, x)
        ...     _, top = track(product)
        >>> round(top.value, 4)
        9.0
    """
    state = state or CurvatureState()
    if state.vectors is not None and state.vectors.shape[1] != product.dimension:
        state = CurvatureState()  # parameters were frozen or unfrozen: another matrix
    check = state.vectors is None or state.count % cold_every == 0
    limit = ALLOWED * tolerance
    starts = _starts(product, state, check, seed)

    def run(matrix: Product, start: Start, most: int) -> Ritz:
        return lanczos(
            matrix,
            start.vector,
            most,
            tolerance=tolerance,
            least=LEAST if start.warm else LEAST_COLD,
            falling=FALLING,
            to_norm=to_norm,
        )

    quick = product.by_differences() if check or state.off <= limit else None
    runs: list[Ritz] = []
    comparison, widening, lost = (state.off, state.along, state.at), 0.0, 0
    if quick is not None and not check:
        runs = [run(quick, starts[0], MOST_DIFFERENCES)]
        if _moved(runs[0], state.along, state.at):
            comparison = _compare(product, quick, runs[0], by_exact=False)
        widening = comparison[0]
        if not (runs[0].converged and widening <= limit):
            lost, runs, widening = runs[0].steps, [], 0.0
            comparison = UNKNOWN
    if not runs:
        for start in starts:
            runs.append(run(product, start, MOST))
            if not math.isfinite(runs[-1].value):
                break
        if check:
            comparison = _compare(product, quick, _best(runs), by_exact=True)
    best = _best(runs)
    after = CurvatureState(
        vectors=best.vectors if math.isfinite(best.value) else None,
        count=state.count + 1,
        checked_at=step if check else state.checked_at,
        off=comparison[0],
        along=comparison[1],
        at=comparison[2],
        groups=state.groups,
    )
    return after, _estimate(state, after, runs, check, product.method, widening, lost)


class Start(NamedTuple):
    """Where a run of Lanczos starts, and whether that is from what the last call found."""

    vector: Tensor
    warm: bool


def _starts(product: Product, state: CurvatureState, check: bool, seed: int) -> list[Start]:
    """Where Lanczos starts: from the last vectors, at random, or both."""
    generator = torch.Generator(device=product.device).manual_seed(seed * 1_000_003 + state.count)

    def random() -> Tensor:
        shape, kind = product.dimension, product.dtype
        noise = torch.randn(shape, generator=generator, device=product.device, dtype=kind)
        return noise.div_(torch.linalg.vector_norm(noise))

    starts = []
    if state.vectors is not None:
        vectors = state.vectors.to(product.dtype)
        start = vectors[0]
        if len(vectors) > 1:
            start = torch.add(start, vectors[1], alpha=ADMIXTURE)
        start = start / torch.linalg.vector_norm(start)
        starts.append(Start(start.add_(random(), alpha=ADMIXTURE), warm=True))
    if check:
        starts.append(Start(random(), warm=False))
    if state.vectors is None:
        starts.append(Start(random(), warm=False))
    return starts


def _best(runs: list[Ritz]) -> Ritz:
    return max(runs, key=lambda one: (math.isfinite(one.value), one.value))


def _moved(run: Ritz, along: Tensor | None, at: float) -> bool:
    """Whether vector or eigenvalue have left those of the last comparison: by 60°, by a half."""
    if along is None or not math.isfinite(run.value):
        return True
    # The error is relative to θ, but truncation does not shrink with it.
    if not abs(at) / GROWN <= abs(run.value) <= abs(at) * GROWN:
        return True
    found = run.vectors[0].to(along.dtype)
    cosine = torch.dot(found, along) / (found.norm() * along.norm())
    return not abs(float(cosine)) >= TURNED


def _compare(
    product: Product, quick: Product | None, run: Ritz, *, by_exact: bool
) -> tuple[float, Tensor | None, float]:
    """Error of products by differences, along what, and its eigenvalue; inf if nothing can tell."""
    # A run knows the image of its vector, so one product of the other kind is enough.
    if quick is None or run.image is None:  # no such products, or one was not finite
        return UNKNOWN
    along = run.vectors[0]
    exact, other = (run.image, quick(along)) if by_exact else (product(along), run.image)
    off = disagreement(exact, other)
    # Without a second derivative the "exact" product is one of differences, too; it knows by now.
    return UNKNOWN if product.method == "differences" else (off, along, run.value)


def _estimate(
    state: CurvatureState,
    after: CurvatureState,
    runs: list[Ritz],
    check: bool,
    method: str,
    widening: float,
    lost: int,
) -> Estimate:
    best = _best(runs)
    if not math.isfinite(best.value):
        return Estimate.missing("The Hessian of the probe's loss is not finite.")
    allowed = best.tolerance * best.scale
    flags, sentences = Flag.NONE, []
    if not best.converged:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            f"Lanczos stopped after {best.steps} products with a residual of "
            f"{best.residual:.2g}: an eigenvalue lies within it, the largest may be another."
        )
    elif not all(run.converged for run in runs):
        flags |= Flag.NOT_CONVERGED
        sentences.append("The cold check did not converge, so the value may not be the largest.")
    elif check and max(abs(run.value - best.value) for run in runs) > allowed:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            "A cold start and the other start disagree: another direction overtook since the "
            f"check at step {state.checked_at}."
            if state.checked_at >= 0
            else "Two random starts disagree; the larger is given."
        )
    if method == "differences":
        flags |= Flag.BELOW_PRECISION
        sentences.append(DIFFERENCES)
    if not flags:  # no flag, but what the number claims depends on it
        sentences.append(f"The largest eigenvalue by the cold check at step {after.checked_at}.")
    if widening:
        sentences.append(
            f"Products are differences of gradients, {100 * widening:.2g} % off an exact one "
            "at the last comparison."
        )
    half = best.residual + widening * abs(best.value)
    return Estimate(
        best.value,
        best.value - half,
        best.value + half,
        n=lost + sum(run.steps for run in runs),
        flags=flags,
        reason=" ".join(sentences),
        null=(min(r.value for r in runs), max(r.value for r in runs)) if check else None,
    )


def track_blocks(
    found: Mapping[str, PartProduct | None],
    states: Mapping[str, CurvatureState],
    series: str,
    options: Mapping[str, Any],
) -> tuple[dict[str, CurvatureState], dict[str, Estimate]]:
    """`track` for every block, each from its own state.

    Args:
        found: As `blocks` gives them.
        states: Of the earlier call, by part.
        series: Name of the series; parts are written behind its ``@``.
        options: Of `track`.

    Returns:
        Next states, and estimates by series.
    """
    after, scalars = {}, {}
    for name, block in found.items():
        if block is None:
            scalars[f"{series}@{name}"] = Estimate.missing(EMPTY_GROUP.format(name=name))
        else:
            after[name], scalars[f"{series}@{name}"] = track(block, states.get(name), **options)
    return after, scalars


def blocks(product: Product, groups: Groups, moment: Moment) -> dict[str, PartProduct | None]:
    """The diagonal blocks of a matrix over the weights that belong to parts of the model.

    Args:
        product: The whole matrix.
        groups: As an observable keeps them.
        moment: For its view.

    Returns:
        Name of the part to its block; ``None`` for a part that finds no trainable parameter.
    """
    found = resolve_groups(groups, moment.view)
    indices = {name: part_index(moment.view, members) for name, members in found.items()}
    return {name: PartProduct(product, i) if len(i) else None for name, i in indices.items()}
