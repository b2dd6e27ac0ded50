"""What signal.md derives around C and p: one-liners, as written; see `stats.published`."""

from __future__ import annotations

import math


def lv_signal(signal: float, diffusion_trace: float) -> float:
    r"""Drift of the Lyapunov function: LV = -|mu|^2 + Tr(D). signal.md, 7.3.

    **Wrong with it**: the generator gives -|mu|^2 + Tr(D H): the Hessian is missing, and with it
    the units. D is not the gradient covariance either, so LV < 0 is not C > 1.

    Args:
        signal: |mu|^2.
        diffusion_trace: Tr(D).

    Returns:
        LV; negative is called stable.

    Examples:
        >>> lv_signal(1.0, 2.0)
        1.0
    """
    return -signal + diffusion_trace


def lambda_eff_signal(lr: float, p: float, mu: float) -> float:
    r"""Effective rate: lambda_eff = eta p/(1 - p) mu = eta C mu. signal.md, 10.1.

    **Wrong with it**: C has no upper limit, so the contraction factor 1 - lambda_eff becomes
    negative and "bounds" a loss below its minimum; with mu a gradient it has the units of theta.

    Args:
        lr: eta.
        p: p < 1.
        mu: Mean gradient magnitude on the manifold.

    Returns:
        lambda_eff.

    Examples:
        >>> round(lambda_eff_signal(0.1, 0.75, 1.0), 3)
        0.3
    """
    return lr * p / (1 - p) * mu


def convergence_signal(gap: float, rate: float, steps: int, *, halved: bool) -> float:
    r"""Bound on the excess loss: (1 - lambda_eff)^t gap (10.1), or (1 - lambda_eff/2)^t gap (13.3).

    signal.md; the remainder R(eta^2) of 10.1 has no formula and is left out.

    **Wrong with it**: the two sections differ by a factor 2 in the rate, and one small step on
    x^2/2 from x = 1 violates the first at every C > 2 and the second at every C > 4.

    Args:
        gap: L(theta_0) - L*.
        rate: lambda_eff.
        steps: t.
        halved: Whether to take the form of 13.3.

    Returns:
        The bound.

    Examples:
        >>> [convergence_signal(1.0, 0.5, 2, halved=h) for h in (False, True)]
        [0.25, 0.5625]
    """
    return gap * (1 - (rate / 2 if halved else rate)) ** steps


def mu_pl_signal(grad_squared: float, gap: float) -> float:
    r"""Largest constant of the Polyak-Lojasiewicz inequality here: |grad|^2 / (2 (L - L*)).

    signal.md, 10.1.

    **Wrong with it**: claimed to be kept away from 0 by C > 1 (10.2), but C compares the gradient
    with its noise, not with the excess loss: next to a saddle with little noise C is huge and this
    is 0. L* is not known in training.

    Args:
        grad_squared: |grad L|^2.
        gap: L - L* > 0.

    Returns:
        mu_PL.

    Examples:
        >>> mu_pl_signal(4.0, 2.0)
        1.0
    """
    return grad_squared / (2 * gap)


def order_parameter_signal(p: float) -> float:
    r"""Order parameter p - 1/2. signal.md, 13.4.

    **Wrong with it**: an order parameter is 0 in the disordered phase; this one is not 0 but
    anything down to -1/2 there, and the batch size moves it.

    Args:
        p: p.

    Returns:
        p - 1/2.

    Examples:
        >>> order_parameter_signal(0.75)
        0.25
    """
    return p - 0.5


def type_two_error_signal(p: float) -> float:
    r"""Type II error of "this step does not help": 1 - p. signal.md, 13.2.

    **Wrong with it**: no test and no level is named; at C = 0 a test of level .05 misses with .95,
    not 1, and at fixed C the error depends on d.

    Args:
        p: p.

    Returns:
        1 - p.

    Examples:
        >>> type_two_error_signal(0.75)
        0.25
    """
    return 1 - p


def mutual_information_signal(c: float) -> float:
    r"""Information of a gradient about mu, up to a factor: log(1 + C). signal.md, 13.1.

    **Wrong with it**: the Gaussian channel has sum_i log(1 + s_i/n_i)/2, which is proportional to
    log(1 + C) in isotropic problems only; nothing happens at C = 1.

    Args:
        c: C > -1.

    Returns:
        log(1 + C), in nats.

    Examples:
        >>> round(mutual_information_signal(1.0), 4)
        0.6931
    """
    return math.log1p(c)


def ticket_ratio_signal(
    dimension: int, d_h: float, signal: float, signal_subnetwork: float
) -> float:
    r"""Ratio of C of a pruned and a full network: (d/d_H) |mu|^2/|mu_sub|^2. signal.md, 9.3.

    **Wrong with it**: the signal ratio is upside down: a subnetwork that keeps less of the signal
    scores higher; and d/d_H with d_H < 2 exceeds d/2 in every network.

    Args:
        dimension: d.
        d_h: d_H.
        signal: |mu|^2 of the full network.
        signal_subnetwork: |mu_sub|^2 > 0.

    Returns:
        The ratio.

    Examples:
        >>> ticket_ratio_signal(30, 1.5, 1.0, 1.0)
        20.0
    """
    return dimension / d_h * signal / signal_subnetwork
