"""Score and flow of a cloud in JAX: `foreshock.density` with a given selection, traceable by jit.

Import it by name; nothing else in Foreshock imports JAX (extra ``foreshock[jax]``). Arrays go to
torch and back without a copy: ``torch.from_dlpack(z)``, ``jax.numpy.from_dlpack(tensor)``.

Everything is computed in the type of the particles, covariances too, where torch takes float64 for
these. A cloud whose correlation matrix has a pivot below 10 sqrt(eps) (3e-3 in float32) is refused;
``jax.config.update("jax_enable_x64", True)`` moves that to 1.5e-7.

Whether a cloud is Gaussian is not tested here, as torch does: where no kernel acts, choose with
`foreshock.density.fit_score` first, whose record says so.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from foreshock.density import Selection, Validity
from foreshock.density.groups import folds
from foreshock.density.jackknife import BAD, jackknife
from foreshock.density.score_gaussian import LEVERAGE_MARGIN, square_bias
from foreshock.density.score_record import judge
from foreshock.types import Estimate

try:
    import jax  # pyrefly: ignore[missing-import]
    import jax.numpy as jnp  # pyrefly: ignore[missing-import]
    from jax import Array  # pyrefly: ignore[missing-import]
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "The JAX backend needs JAX, which is an extra. Type: pip install 'foreshock[jax]'."
    ) from missing

#: Rows of the kernel matrix at a time.
BLOCK = 512
#: Accelerators multiply float32 with fewer digits unless told otherwise; a Gram matrix needs them.
_dot = partial(jnp.matmul, precision="highest")


class Gauges(NamedTuple):
    """Numbers of a `Validity`, as scalars that jit can return."""

    ess: Array
    j_loo: Array
    j_gauss: Array
    stein: Array
    stein_error: Array
    leverage: Array


class Fitted(NamedTuple):
    """A score at the particles it was fitted to.

    Attributes:
        particles: (n, d).
        values: (n, d) Score at particle i without particle i; nan where nothing could be fitted.
        gauges: What `validity` judges.
        selection: What it was fitted with.
        block: Rows of the kernel matrix at a time.
    """

    particles: Array
    values: Array
    gauges: Gauges
    selection: Selection
    block: int

    @property
    def validity(self) -> Validity:
        """Whether it can be believed, by the rules of `foreshock.density.fit_score`."""
        return judged(self.gauges, self.selection, *self.particles.shape)


def fit_score(z: Array, selection: Selection, *, block: int | None = None) -> Fitted:
    """Gaussian score + weight * kernel residual, leave-one-out, as `density.fit_score` defines it.

    The selection is given, since choosing is host work: `Selection()` is the Gaussian alone, and
    ``density.fit_score(torch.from_dlpack(z)).selection`` chooses. Equal to torch's up to rounding.

    Cost: 2 n d^2, and with an active residual 4 n^2 d + n^2 exponentials; memory block * n.

    Args:
        z: (n, d) Particles, n >= 4, floats.
        selection: Bandwidth, weight, pull and shrinkage; not of a mixture.
        block: Rows of the kernel matrix at a time; None for 512 on one device, and for all on
            several, where each computes those of its own particles.

    Returns:
        The score and its gauges.

    Raises:
        ValueError: If the particles are no finite floats (n >= 4, d), or the selection is unfit.

    Examples:
        >>> import jax
        >>> z = jax.random.normal(jax.random.key(0), (2000, 3))
        >>> fitted = fit_score(z, Selection())
        >>> fitted.validity.valid, bool(abs(fitted.values + z).max() < 0.3)
        (True, True)
    """
    rows = chosen_block(z, block)
    check_selection("fit_score", selection, rows)
    if z.ndim != 2 or len(z) < 4 or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(
            "The particles `z` of `fit_score` must be floats (n, d) with n >= 4. "
            f"Got {z.shape} of {z.dtype}; flatten every particle to one row."
        )
    if not bool(jnp.isfinite(z).all()):
        raise ValueError("The particles `z` of `fit_score` must be finite. Drop those that left.")
    values, gauges = _fit_compiled(z, numbers(selection), bool(selection.weight), rows)
    return Fitted(z, values, gauges, selection, rows)


def flow(
    fitted: Fitted, drift: Array, diffusion: float | Array, *, refits: int = 20
) -> dict[str, Estimate]:
    """C, cosine, irreversibility, entropy production and dH/dt, as `density.flow` defines them.

    Intervals and bias correction by the delete-group jackknife of that function (the same
    groups), with its coverage; no lower bound. `refits=0` gives plug-ins without
    bars.

    Args:
        fitted: The score.
        drift: (n, d) b = mu - div D, Itô.
        diffusion: D: a number or (d, d), symmetric positive definite.
        refits: Groups of the jackknife, 0 or at least 5.

    Returns:
        `c`, `cosine`, `irreversibility`, `entropy_production`, `entropy_rate`.

    Raises:
        ValueError: If a shape does not fit, D is not symmetric positive definite or `refits` is out
            of range.

    Examples:
        N(1, 1/4) falling in x^2/2 at D = 1 produces s + m^2 - 2 + 1/s = 3.25.

        >>> import jax
        >>> x = 1 + jax.random.normal(jax.random.key(0), (4000, 1)) / 2
        >>> found = flow(fit_score(x, Selection()), -x, 1.0)
        >>> found["entropy_production"].low < 3.25 < found["entropy_production"].high
        True
    """
    z = fitted.particles
    n, d = z.shape
    if refits and not 5 <= refits <= n:
        raise ValueError(
            f"The `refits` of `flow` must be 0 or lie between 5 and n. Got {refits} of {n}."
        )
    if drift.shape != z.shape or not bool(jnp.isfinite(drift).all()):
        raise ValueError(
            f"The `drift` must be finite and {z.shape}, a row per particle. Got {drift.shape}."
        )
    tensor = np.asarray(diffusion, np.float64)
    if tensor.shape not in ((), (d, d)):
        raise ValueError(
            f"The `diffusion` must be a number or ({d}, {d}). Got {tensor.shape}; for a D of every "
            "particle's own use `foreshock.density.flow`."
        )
    whole = tensor * np.eye(d) if tensor.ndim == 0 else tensor
    lopsided = np.abs(whole - whole.T).max() > 1e-4 * np.abs(whole).max()
    if not np.isfinite(whole).all() or lopsided or np.linalg.eigvalsh(whole)[0] <= 0:
        raise ValueError(
            "The `diffusion` must be symmetric positive definite and finite. A direction without "
            "noise has no score term; project it out, or add a small multiple of the identity."
        )
    given = jnp.asarray(tensor, z.dtype)
    validity = fitted.validity
    if not validity.valid:
        return refused(validity.reason, n)
    all_of_them = _means_compiled(fitted.values, drift, given)
    parts, points, drifts = [], np.asarray(z), np.asarray(drift)
    group_of = folds(n, max(refits, 1)).numpy()
    for group in range(refits):
        keep = group_of != group
        part = fit_score(jnp.asarray(points[keep]), fitted.selection, block=fitted.block)
        found = np.asarray(_means_compiled(part.values, jnp.asarray(drifts[keep]), given))
        parts.append(unbiased(found, int(keep.sum()), d, fitted.selection))
    whole = unbiased(np.asarray(all_of_them), n, d, fitted.selection)
    return summary(whole, parts, n, validity.bias)


def unbiased(found: np.ndarray, n: int, d: int, selection: Selection) -> np.ndarray:
    """The means (A, X, I) with I unbiased where the score is one Gaussian's, as torch has it."""
    if selection.weight or selection.shrinkage:
        return found
    return found / np.array([1.0, 1.0, square_bias(n, d)])


def summary(
    whole: np.ndarray, parts: list[np.ndarray], n: int, bias: str = ""
) -> dict[str, Estimate]:
    """Observables from the means (A, X, I) of `means`, and of the cloud without each group."""

    def estimate(name: str) -> Estimate:
        values = [_observables(part)[name] for part in parts]
        return jackknife(_observables(whole)[name], values, n, bias=bias)

    return {name: estimate(name) for name in _observables(whole)}


def refused(reason: str, n: int) -> dict[str, Estimate]:
    """The same names, all missing for one reason."""
    gone = Estimate.missing(reason, flags=BAD, n=n)
    return dict.fromkeys(_observables(np.ones(3)), gone)


def judged(gauges: Gauges, selection: Selection, n: int, d: int) -> Validity:
    """The verdict on gauges that jit has returned."""
    ess, j_loo, j_gauss, stein, stein_error, leverage = (float(value) for value in gauges)
    found = Validity(
        True, "", ess, j_loo, j_gauss, stein, stein_error, selection.shrinkage, leverage
    )
    return judge(found, n, d)


def check_selection(owner: str, selection: Selection, block: int) -> None:
    """Refuse a selection that has no kernel residual to give, and an impossible block."""
    if selection.components:
        raise ValueError(
            f"The `selection` of `{owner}` is that of a mixture, which JAX does not fit here. "
            "Choose one with `foreshock.density.fit_score(z, 'residual')`."
        )
    if not 0 <= selection.shrinkage <= 1 or not 0 < selection.bandwidth < math.inf:
        raise ValueError(
            f"The `selection` of `{owner}` needs 0 <= shrinkage <= 1 and a positive bandwidth. "
            f"Got {selection}."
        )
    if block < 1:
        raise ValueError(f"The `block` of `{owner}` must be positive. Got {block}.")


def chosen_block(z: Array, block: int | None) -> int:
    """Rows at a time where nothing was said; blocks of spread particles would take turns."""
    if block is not None:
        return block
    return BLOCK if len(z.sharding.device_set) == 1 else len(z)


def numbers(selection: Selection) -> tuple[float, float, float, float]:
    """What is traced of a selection, so that another one need not be compiled anew."""
    return selection.bandwidth, selection.weight, selection.pull, selection.shrinkage


def fit(z: Array, choice: tuple, active: bool, block: int) -> tuple[Array, Gauges]:
    """`fit_score` for use within jit: (n, d) values and gauges.

    Args:
        z: (n, d) Particles.
        choice: `numbers` of a selection.
        active: Whether its weight is not 0.
        block: Rows at a time.

    Returns:
        Values and gauges, nan where the covariance is singular.
    """
    bandwidth, weight, pull, shrinkage = (jnp.asarray(part, z.dtype) for part in choice)
    n, d = z.shape
    centred = z - z.mean(0)
    scale = jnp.sqrt((centred**2).sum(0) / (n - 1))
    # Standardised first, so that the units of the coordinates do not spoil the factor.
    centred, eye = centred / scale, jnp.eye(d, dtype=z.dtype)
    correlation = (1 - shrinkage) * _dot(centred.T, centred) / (n - 1) + shrinkage * eye
    factor = jnp.linalg.cholesky(correlation)
    resolved = jnp.diagonal(factor).min() > 10 * math.sqrt(jnp.finfo(z.dtype).eps)
    inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    inverse = jnp.where(resolved, inverse, jnp.nan)
    y = _dot(centred, inverse.T)
    # The Gaussians without particle i, at particle i, by the rank-one downdate.
    kept = 1 - shrinkage
    leverage = (y**2).sum(1) * (kept * n / (n - 1) ** 2)
    room = jnp.maximum(1 - leverage, LEVERAGE_MARGIN)
    hartlap = 1 - kept * (d + 1) / (n - 2)
    scores = y * (-hartlap * n * (n - 2) / (n - 1) ** 2 / room)[:, None]
    divergence = -hartlap * (n - 2) / (n - 1) * (d + leverage / room)
    j_gauss = _hyvarinen(scores, divergence)
    ess = jnp.asarray(jnp.inf, z.dtype)
    if active:
        mean, spread, neighbours = _kernel_sums(y, bandwidth, block)
        kernel = (mean - y) / bandwidth**2
        kernel_divergence = -d / bandwidth**2 + spread / bandwidth**4
        smooth = weight / (1 + bandwidth**2)
        scores = pull * scores + weight * kernel + smooth * y
        divergence = pull * divergence + weight * kernel_divergence + smooth * d
        ess = jnp.sort(neighbours)[(n - 1) // 2]  # the lower median, as torch takes it
    gauges = Gauges(
        ess,
        _hyvarinen(scores, divergence),
        j_gauss,
        (scores * y).sum(1).mean(),
        (y**2).sum(1).std(ddof=1) / math.sqrt(n),
        leverage.max(),
    )
    return _dot(scores, inverse) / scale, gauges


def means(scores: Array, drift: Array, diffusion: Array) -> Array:
    """A = E[b . D^-1 b], X = E[b . s] and I = E[s . D s], of which all observables are functions.

    Args:
        scores: (n, d) s.
        drift: (n, d) b.
        diffusion: D: () or (d, d).

    Returns:
        (3,).
    """
    if diffusion.ndim:
        solved = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(diffusion), drift.T).T
        pulled = _dot(scores, diffusion)
    else:
        solved, pulled = drift / diffusion, scores * diffusion
    pairs = ((drift, solved), (drift, scores), (scores, pulled))
    return jnp.stack([(left * right).sum(1).mean() for left, right in pairs])


_fit_compiled = jax.jit(fit, static_argnames=("active", "block"))
_means_compiled = jax.jit(means)


def _observables(found: np.ndarray) -> dict[str, float]:
    a, x, i = (float(part) for part in found)
    production = a - 2 * x + i
    return {
        "c": math.sqrt(a / i) if i > 0 else math.nan,
        "cosine": x / math.sqrt(a * i) if a * i > 0 else math.nan,
        "irreversibility": production / (a + i) if a + i > 0 else math.nan,
        "entropy_production": production,
        "entropy_rate": i - x,
    }


def _hyvarinen(scores: Array, divergence: Array) -> Array:
    return (0.5 * (scores**2).sum(1) + divergence).mean()


def _kernel_sums(y: Array, bandwidth: Array, block: int) -> tuple[Array, Array, Array]:
    """(n, d) weighted means, (n,) spreads about them and effective neighbours, leave-one-out."""
    n, d = y.shape
    norms = (y**2).sum(1)
    offset = -0.5 * norms / bandwidth**2

    def rows(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        queries, index = part
        # |q|^2 is the same for a whole row: it cancels in the softmax.
        logits = _dot(queries, y.T) / bandwidth**2 + offset
        logits = jnp.where(index[:, None] == jnp.arange(n), -jnp.inf, logits)
        weights = jax.nn.softmax(logits, axis=1)
        mean = _dot(weights, y)
        spread = _dot(weights, norms) - (mean**2).sum(1)
        return mean, spread, 1 / (weights**2).sum(1)

    if block >= n:
        return rows((y, jnp.arange(n)))
    count = -(-n // block)
    padded = jnp.pad(y, ((0, count * block - n), (0, 0))).reshape(count, block, d)
    found = jax.lax.map(rows, (padded, jnp.arange(count * block).reshape(count, block)))
    mean, spread, neighbours = (part.reshape(count * block, *part.shape[2:])[:n] for part in found)
    return mean, spread, neighbours
