"""Score s = grad log rho of a cloud of particles, with a record of whether it can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import covariant
from foreshock.density.groups import folds
from foreshock.density.score_gaussian import Gaussian, fit_gaussian, leave_one_out
from foreshock.density.score_kernel import (
    KernelModel,
    kernel_divergence,
    kernel_score,
    kernel_sums,
    reference_bandwidth,
)
from foreshock.density.score_mixture import Mixture, fit_mixture
from foreshock.density.score_normality import departures
from foreshock.density.score_record import Selection, Validity, judge
from foreshock.density.score_select import BANDWIDTHS, hyvarinen, select

Method = Literal["residual", "gaussian", "kde", "mixture"]
METHODS = ("residual", "gaussian", "kde", "mixture")

#: Largest dimension of a plain kernel density: at d = 8 its relative error is .9.
KDE_DIMENSION = 3
#: Parts a mixture's leave-out values come from.
FOLDS = 5


@dataclass(frozen=True)
class Score:
    """grad log rho of particles, at them and elsewhere, and whether it can be believed.

    Nothing here is differentiable: all values are detached. `divergence` is in closed form.

    Args:
        particles: (n, d) z, what it was fitted to.
        whitened: (n, d) `values` in the coordinates of `whitening`.
        whitening: (d, d) W of y = W (z - m).
        log_values: (n,) log density without particle i, or None where there is no density.
        validity: Why to believe it, or not.
        selection: What was chosen; pass it back to skip the choice.
        method: Name of the method.
        model: What evaluates it elsewhere, or None if nothing could be fitted.
        block: Rows of the kernel matrix at a time.
    """

    particles: Tensor
    whitened: Tensor
    whitening: Tensor
    log_values: Tensor | None
    validity: Validity
    selection: Selection
    method: Method
    model: KernelModel | Mixture | None
    block: int = 256

    @property
    def values(self) -> Tensor:
        """(n, d) Score at particle i without particle i (mixture: without its fold).

        nan if nothing could be fitted. Multiplied out at each call, 2 n d^2: the scalars of a flow
        do not need it.
        """
        return self.covariant(torch.ones_like(self.whitening[0, 0]))

    def covariant(self, root: Tensor) -> Tensor:
        """(n, d) R's of every particle, whose squares are s . D s for D = R R'.

        Args:
            root: R of `foreshock.density.diffusion_tensor.rooted`: (), (d,), (d, d) or (n, d, d).

        Returns:
            The products, at the price of `values` unless every particle has its own R.
        """
        if root.dim() == 3:
            return covariant(root, self.values)
        with torch.autocast(root.device.type, enabled=False):  # that is for the user's network
            return self.whitened @ covariant(root, self.whitening)

    def at(self, queries: Tensor) -> Tensor:
        """Score at other points, by all particles.

        Args:
            queries: (m, d) Where.

        Returns:
            (m, d) grad log rho; nan if nothing could be fitted.

        Examples:
            >>> z = torch.linspace(-2, 2, 101)[:, None]
            >>> bool(torch.isclose(fit_score(z).at(torch.zeros(1, 1)), torch.zeros(1), atol=1e-6))
            True
        """
        if self.model is None:
            return torch.full_like(queries, torch.nan)
        return self.model.score(queries.detach())

    def divergence(self, queries: Tensor, metric: Tensor) -> Tensor:
        """tr(M grad s) at other points, by all particles.

        Args:
            queries: (m, d) Where.
            metric: (d, d) M, symmetric.

        Returns:
            (m,) The divergence of M s for constant M; nan if nothing could be fitted.

        Examples:
            >>> z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
            >>> round(float(fit_score(z).divergence(z[:1], torch.eye(2))), 1)
            -2.0
        """
        if self.model is None:
            return queries.new_full((len(queries),), torch.nan)
        return self.model.divergence(queries.detach(), metric)

    def log_density(self, queries: Tensor) -> Tensor:
        """Log density at other points, where the method has one.

        Args:
            queries: (m, d) Where.

        Returns:
            (m,) log rho, in 1/volume of the particles' own unit.

        Raises:
            ValueError: If the score has no normalised density.

        Examples:
            >>> z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
            >>> round(float(fit_score(z).log_density(torch.zeros(1, 1)).exp()), 1)
            0.4
        """
        result = None if self.model is None else self.model.log_density(queries.detach())
        if result is None:
            raise ValueError(
                "This score has no normalised density: a Gaussian with an active kernel residual "
                "is known up to a constant only. Fit one with `fit_score(z, 'mixture')`, "
                "or, for d <= 3, `fit_score(z, 'kde')`."
            )
        return result


def fit_score(
    z: Tensor,
    method: Method = "residual",
    *,
    bandwidth: float | None = None,
    shrinkage: float | None = None,
    selection: Selection | None = None,
    block: int = 256,
    most_components: int = 8,
    seed: int = 0,
    judged: bool = True,
) -> Score:
    r"""Score grad log rho of particles, leave-one-out, with its validity record.

    The default, ``"residual"``, is s = p s_G + lambda (s_h - s_{G,h}) in whitened coordinates:
    s_G the Gaussian score (inverse covariance times the Hartlap factor; Ledoit-Wolf shrinkage where
    n < 2 d + 10, which is a bias), s_h the score of a kernel density and s_{G,h} = -y/(1 + h^2)
    what s_h would be were the cloud Gaussian. So the kernel has to explain only what is not
    Gaussian. (h, lambda, p) minimise the leave-one-out Hyvärinen score J = mean(|s|^2/2 + div s):
    lambda and p in closed form, h the widest within a standard error of the best; lambda is 0 and p
    is 1 unless J falls by 2 standard errors. With n >= 2 d + 10 everything is equivariant:
    z -> A z maps s to A'^-1 s.
    ``"gaussian"`` is s_G, ``"kde"`` s_h with whitened h (d <= 3; leave-one-out), ``"mixture"`` a
    Gaussian mixture by BIC (scikit-learn), whose `values` come from 5 folds.

    Relative error at the particles (E of the squared error over E of the square), mean of 4 to 6
    seeds, n = 2048 (512):

    ==============================  ============  ============  ============
    target                          kde           gaussian      residual
    ==============================  ============  ============  ============
    N(0, I), d = 2                  .054 (.107)   .001 (.009)   .001 (.009)
    N, condition 100, d = 8         refused       .005 (.025)   .005 (.025)
    N(0, I), d = 32                 refused       .017 (.070)   .017 (.070)
    N(0, I), d = 128                refused       .069 (.34*)   .069 (.34*)
    N(+-2, 1), d = 1                .17 (.27)     .73 (.72)     .021 (.073)
    the same with N(0, 1), d = 2    .12 (.18)     .30 (.32)     .103 (.24**)
    the same with N(0, I), d = 8    refused       .072 (.086)   .080 (.086)
    ==============================  ============  ============  ============

    * .33 to .36: not shrunk towards the diagonal, which here is the truth but need not be.
    ** 8 seeds .19 to .34; kde .14 to .21, gaussian .30 to .36.

    Bias: for a Gaussian E s is right and E\|s\|^2 too large by about d/n. Cost: 2 n d^2, and per
    kernel evaluation 4 n^2 d + n^2 exponentials; the choice takes 7 of
    these, a reused `selection` one, or none where lambda = 0. Memory: O(n d + block n).

    Particles that are not finite floats (n >= 4, d) and arguments without sense are refused
    (ValueError); what is merely not believable is not, but says so in `validity`.

    Args:
        z: (n, d) Particles, n >= 4.
        method: ``"residual"``, ``"gaussian"``, ``"kde"`` or ``"mixture"``.
        bandwidth: h in units of the standard deviation (kde; or the only one for residual).
        shrinkage: Weight of the diagonal in the covariance, in [0, 1]; chosen if None.
        selection: `Score.selection` of an earlier fit, to skip all choices.
        block: Rows of the kernel matrix at a time.
        most_components: Largest number of mixture components tried.
        seed: Seed of the mixture's starts.
        judged: Whether skewness and kurtosis are computed; a refit of a judged cloud need not.

    Returns:
        The score. Where it cannot be believed `validity.valid` is False and says why.

    Raises:
        ValueError: If `shrinkage` does not lie in [0, 1].

    References:
        Hyvärinen, JMLR 6 (2005) 695; Chacon, Duong & Wand (2011); Hartlap, Simon & Schneider,
        A&A 464 (2007) 399; Ledoit & Wolf (2004). Corrects fokker_planck.md 12.1.

    Examples:
        >>> z = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> score = fit_score(z)
        >>> score.validity.valid, score.selection.weight  # Gaussian: no kernel needed
        (True, 0.0)
        >>> float((score.values + z).square().mean()) < 0.01
        True
    """
    _check(z, method, bandwidth, block)
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise ValueError(f"The `shrinkage` of `fit_score` must lie in [0, 1]. Got {shrinkage}.")
    z = z.detach()
    n, d = z.shape
    gaussian = fit_gaussian(z, selection.shrinkage if selection else shrinkage)
    if gaussian is None:
        reason = "The particles span no volume: their covariance is singular. Drop or merge axes."
        gone, eye = torch.full_like(z, torch.nan), torch.eye(d, dtype=z.dtype, device=z.device)
        invalid = Validity(False, reason)
        return Score(z, gone, eye, None, invalid, Selection(), method, None, block)
    if method == "mixture":
        return _fit_mixture(z, gaussian, selection, most_components, seed, block)
    y = gaussian.whiten(z)
    squares = y.square().sum(1)
    factors, divergence, leverage = leave_one_out(gaussian, squares)
    j_gauss = hyvarinen(squares * factors.square(), divergence)
    chosen = selection
    if method == "gaussian":
        chosen = Selection(shrinkage=gaussian.shrinkage)
    elif method == "kde":
        width = bandwidth or (selection.bandwidth if selection else reference_bandwidth(n, d))
        chosen = Selection(width, 1.0, shrinkage=gaussian.shrinkage)
    elif chosen is None:
        widths = BANDWIDTHS if bandwidth is None else (bandwidth / reference_bandwidth(n, d),)
        widths = tuple(width * reference_bandwidth(n, d) for width in widths)
        picked = select(y, squares, factors, divergence, widths, block)
        chosen = replace(picked, shrinkage=gaussian.shrinkage)
    ess, linear, log_values = math.inf, gaussian.hartlap, None
    if chosen.weight:
        h, weight = chosen.bandwidth, chosen.weight
        logs = method == "kde"
        sums = kernel_sums(y, y, h, leave_out=True, norms=squares, logs=logs, block=block)
        ess = float(sums.ess.median())
        if method == "kde":
            scores, divergence = kernel_score(y, sums, h)
            linear = 0.0
            constant = d * (math.log(h) + 0.5 * math.log(2 * math.pi)) + math.log(n - 1)
            log_values = gaussian.log_det - constant + sums.log_sum
        else:
            # lambda (E_w c - y)/h^2 + (p f + lambda/(1 + h^2)) y. The first difference alone may be
            # small where its terms are not: copies under a narrow kernel.
            smooth = weight / (1 + h * h)
            own = factors.mul_(chosen.pull).add_(smooth)
            scores = (sums.mean - y).mul_(weight / h**2).addcmul_(y, own[:, None])
            kernel = kernel_divergence(sums, h)
            divergence.mul_(chosen.pull).add_(kernel, alpha=weight).add_(smooth * d)
            linear = chosen.pull * linear - smooth
    else:
        scores = y * factors[:, None]
        log_values = _gaussian_logs(gaussian, squares)
    stein = float((scores * y).sum()) / n
    # Not for refits, which ask for values only. Shrunk, y is not white and they mean nothing.
    asked = judged and not chosen.weight and not gaussian.shrinkage
    normality = departures(y) if asked else (math.nan, math.nan)
    validity = judge(
        Validity(
            True,
            "",
            ess,
            hyvarinen(scores.square().sum(1), divergence),
            j_gauss,
            stein,
            float(squares.std()) / math.sqrt(n),
            gaussian.shrinkage,
            leverage,
            *normality,
        ),
        n,
        d,
        gaussian=not chosen.weight,
    )
    model = KernelModel(gaussian, y, linear, chosen.bandwidth, chosen.weight, block)
    whitening = gaussian.whitening
    return Score(z, scores, whitening, log_values, validity, chosen, method, model, block)


def _check(z: Tensor, method: str, bandwidth: float | None, block: int) -> None:
    """Refuses what no fit can use."""
    if method not in METHODS:
        raise ValueError(f"The `method` of `fit_score` must be one of {METHODS}. Got {method!r}.")
    if z.dim() != 2 or len(z) < 4 or z.shape[1] < 1 or not z.is_floating_point():
        raise ValueError(
            "The particles `z` of `fit_score` must be floats (n, d) with n >= 4. "
            f"Got {tuple(z.shape)} of {z.dtype}; flatten every particle to one row."
        )
    # A sum in double is finite only if every term is, and takes a tenth of the time of `isfinite`.
    if not math.isfinite(float(z.sum(dtype=torch.float64))):
        raise ValueError("The particles `z` of `fit_score` must be finite. Drop those that left.")
    if z.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"`fit_score` needs float32 or float64. Got {z.dtype}; use `z.float()`.")
    # Squared distances of whitened points are resolved to eps: below, weights are rounding.
    least = math.sqrt(torch.finfo(z.dtype).eps)
    if bandwidth is not None and not least < bandwidth < math.inf:
        raise ValueError(
            f"The `bandwidth` of `fit_score` must exceed {least:.1e} standard deviations, what "
            f"{z.dtype} resolves. Got {bandwidth}; leave it out to have it chosen."
        )
    if block < 1:
        raise ValueError(f"The `block` of `fit_score` must be positive. Got {block}.")
    if method == "kde" and z.shape[1] > KDE_DIMENSION:
        raise ValueError(
            f"`fit_score(method='kde')` is for d <= {KDE_DIMENSION}: at d = 8 a kernel score has a "
            f"relative error of .9. Got d = {z.shape[1]}; use the default, 'residual'."
        )


def _gaussian_logs(gaussian: Gaussian, squares: Tensor) -> Tensor:
    """(n,) Log density of the Gaussian without particle i, at it; covariance unbiased."""
    n, d = gaussian.n, gaussian.dimension
    leverage = squares * ((1 - gaussian.shrinkage) * n / (n - 1) ** 2)
    room = (1 - leverage).clamp(min=1e-6)
    # |y| under the smaller covariance, and its determinant, by the rank-one downdate.
    square = squares * (n / (n - 1)) ** 2 * (n - 2) / (n - 1) / room
    log_det = gaussian.log_det - 0.5 * (d * math.log((n - 1) / (n - 2)) + room.log())
    return log_det - 0.5 * square - 0.5 * d * math.log(2 * math.pi)


def _fit_mixture(
    z: Tensor, gaussian: Gaussian, selection: Selection | None, most: int, seed: int, block: int
) -> Score:
    """Mixture score; values by folds of every fifth particle."""
    n, d = z.shape
    y = gaussian.whiten(z)
    squares = y.square().sum(1)
    factors, divergence, leverage = leave_one_out(gaussian, squares)
    j_gauss = hyvarinen(squares * factors.square(), divergence)
    count = selection.components if selection else 0
    model, count = fit_mixture(y, count or None, most, seed)
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    log_values = torch.empty_like(y[:, 0])
    scores, divergence = torch.empty_like(y), torch.empty_like(y[:, 0])
    fold = folds(n, FOLDS, z.device)
    for k in range(FOLDS):
        out = fold == k
        part, _ = fit_mixture(y[~out], count, most, seed, model)
        scores[out], log_values[out] = part.score(y[out]), part.log_density(y[out])
        divergence[out] = part.divergence(y[out], eye)
    stein = float((scores * y).sum()) / n
    validity = judge(
        Validity(
            True,
            "",
            math.inf,
            hyvarinen(scores.square().sum(1), divergence),
            j_gauss,
            stein,
            float(squares.std()) / math.sqrt(n),
            gaussian.shrinkage,
            leverage,
            bias="The law need not be the mixture that was fitted, a bias no interval holds.",
        ),
        n,
        d,
    )
    # Back from whitened coordinates: m -> m W'^-1 + mean, P -> W' P W.
    inverse = torch.linalg.solve_triangular(gaussian.whitening, eye, upper=False)
    factors = gaussian.whitening.T @ model.factors
    # W' R has the right square but is not triangular; its determinant is needed as a triangle's.
    triangles = torch.linalg.cholesky(factors @ factors.mT)
    original = Mixture(model.log_weights, model.means @ inverse.T + gaussian.mean, triangles)
    return Score(
        z,
        scores,
        gaussian.whitening,
        log_values + gaussian.log_det,
        validity,
        Selection(components=count, shrinkage=gaussian.shrinkage),
        "mixture",
        original,
        block,
    )
