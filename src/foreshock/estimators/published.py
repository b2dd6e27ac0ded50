"""Published quantities that need tensors or a model, exactly as written.

Their companions on numbers are in `foreshock.stats.published`. Nothing here is recommended: each
docstring says what is wrong, and `tests/published` shows it by a number. No preset contains the
observables built on them (`PublishedLevy`, `PublishedSignal`, `PublishedLangevin`,
`PublishedEdge`); a user asks for one by name. They carry no uncertainty, since none was published:
their intervals are nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.curvature import hessian
from foreshock.estimators.ntk import ntk_gram
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView
from foreshock.stats import published as pub
from foreshock.types import SeriesInfo


def series(name: str, title: str, formula: str, source: str, *, unit: str = "1") -> SeriesInfo:
    """A published series: no null was published, and the oracle is the transcription."""
    return SeriesInfo(
        f"published/{name}",
        title,
        unit,
        "no null was published",
        formula=formula,
        oracle="literal transcription in tests/published",
        source=source,
    )


def lambda_power(
    view: ModelView,
    loss: Callable[..., Any],
    batches: Sequence[Any],
    *,
    products: int,
    seed: int,
) -> float:
    r"""Power iteration for λ_max from a random start: v <- Hv/|Hv|, then v'Hv.

    levy.md's listing takes 5 iterations and one more product (``products=6``) on one batch;
    signal.md's `estimate_lambda_max` 20 products, the mean over up to 5 batches.

    **Wrong with it**: it finds the eigenvalue of largest *size*, so a spectrum +2, -2.2 reads -2.2,
    and with a wide spectrum a handful of iterations has not converged; no residual says so. Each
    call starts anew.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batches: The batches whose Hessians are averaged.
        products: Hessian-vector products, the one of the Rayleigh quotient included.
        seed: Seed of the start, one normal number a weight in the order of the parameters.

    Returns:
        The Rayleigh quotient; nan if an iterate vanishes or is not finite.

    Raises:
        ValueError: If ``products`` is below 1 or there is no batch.

    References:
        levy.md, Implementation; signal.md, 11.6.

    Examples:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> value = lambda_power(
        ...     ModelView(model), lambda m, x: m(x).pow(2).sum() / 2, [x], products=20, seed=0
        ... )
        >>> round(value, 4)
        9.0
    """
    if products < 1 or not batches:
        raise ValueError(
            "`lambda_power` needs at least one product and one batch. "
            f"Got {products} and {len(batches)}."
        )
    with quiet(seed):
        start = [torch.randn_like(p) for p in view.parameters]
        maps = [hessian(view, loss, batch)[0] for batch in batches]

        def product(v: Tensor) -> Tensor:
            return torch.stack([one(v) for one in maps]).mean(0)

        return power_iteration(product, torch.cat([part.reshape(-1) for part in start]), products)


def power_iteration(product: Callable[[Tensor], Tensor], start: Tensor, products: int) -> float:
    r"""The iteration of `lambda_power` on any symmetric matrix known by its products.

    **Wrong with it**: as there.

    Args:
        product: v to Hv, on flat vectors.
        start: (d,) Where it starts, of any length.
        products: Hessian-vector products, the one of the Rayleigh quotient included.

    Returns:
        The Rayleigh quotient; nan if an iterate vanishes or is not finite.

    Examples:
        >>> matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
        >>> round(power_iteration(lambda v: matrix @ v, torch.ones(2), products=20), 6)
        3.0
    """
    v = start.double()
    v = v / v.norm()
    for _ in range(products - 1):
        image = product(v)
        v = image / image.norm()
    return (v @ product(v)).item()


class Consolidation(NamedTuple):
    """Output of signal.md's listing: the plug-in signal, the noise, and C with its 1e-10."""

    signal: float
    noise: float
    c: float


def consolidation_ratio(gradients: Sequence[Sequence[Tensor]]) -> Consolidation:
    r"""signal.md's `compute_consolidation_ratio`: C = |mean|²/(Σ var + 1e-10) of n gradients.

    **Wrong with it**: |mean|² overestimates |μ|² by V/n, so C is biased by +1/n (.05 at n = 20)
    and pure noise reads 1/n; the 1e-10 makes it depend on the unit of the loss.

    Args:
        gradients: n >= 2 gradients, each one tensor a parameter.

    Returns:
        |mean|², the summed unbiased variance, and C.

    Raises:
        ValueError: If there are fewer than 2 gradients.

    References:
        signal.md, 11.1.

    Examples:
        >>> consolidation_ratio([[torch.tensor([1.0])], [torch.tensor([3.0])]])
        Consolidation(signal=4.0, noise=2.0, c=1.9999999999)
    """
    if len(gradients) < 2:
        raise ValueError(
            "`consolidation_ratio` needs at least 2 gradients for a variance. "
            f"Got {len(gradients)}."
        )
    signal = torch.zeros((), dtype=torch.float64, device=gradients[0][0].device)
    noise = torch.zeros_like(signal)
    for parts in zip(*gradients, strict=True):
        rows = torch.stack([part.reshape(-1) for part in parts]).double()
        signal += rows.mean(0).square().sum()
        noise += rows.var(0).sum()
    s, v = torch.stack([signal, noise]).tolist()
    return Consolidation(s, v, s / (v + 1e-10))


def metric_log_det(view: ModelView, probe: Probe, inputs: Tensor) -> float:
    r"""levy.md's ρ: Σ log λ over the eigenvalues above 1e-6 of G = (1/n) Σ ∇f ∇f'.

    Taken from the n x n Gram, which has the same non-zero eigenvalues as the d x d matrix of the
    listing, in float64; the listing's float32 adds rounding near the threshold.

    **Wrong with it**: an eigenvalue that crosses 1e-6 moves ρ by 13.8 without learning; the rest is
    mostly the output scale.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs; the listing takes the first 32.

    Returns:
        ρ; nan if a gradient is not finite.

    References:
        levy.md, observable 3.

    Examples:
        >>> probe = Probe(loss=lambda m, x: m(x).sum(), batches=[torch.eye(2)])
        >>> view = ModelView(torch.nn.Linear(2, 1, bias=False))
        >>> round(metric_log_det(view, probe, torch.eye(2)), 4)  # two eigenvalues of 1/2
        -1.3863
    """
    gram = ntk_gram(view, probe, inputs).cpu().numpy()
    if not np.isfinite(gram).all():
        return math.nan
    return pub.rho_levy(np.linalg.eigvalsh(gram))
