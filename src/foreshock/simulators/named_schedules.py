"""The schedules of the document "fokker_planck", of its code, and corrected, by name.

What differs between them, and why, is in the table of `foreshock.simulators.schedules`.
"""

from __future__ import annotations

from foreshock.simulators.schedules import (
    Constant,
    Exponential,
    InverseTime,
    Logarithmic,
    OverRate,
    Product,
    Schedules,
)


def published_schedules(
    rate: float = 0.01,
    tau: float = 1000.0,
    beta: float = 1e-5,
    diffusion: float = 1.0,
    tau_diffusion: float = 500.0,
) -> Schedules:
    """The schedules of the text of "fokker_planck", with the numbers of its code where it has them.

    lambda = beta/eta stands in the text only, without a number; the code keeps lambda at its
    `lambda_reg` = .001, see `published_code_schedules`. The default of beta is .001 eta_0, so that
    the two agree at t = 0. The temperature starts at D/eta = 100: nearly free diffusion.

    Args:
        rate: eta_0.
        tau: Time scale of the learning rate.
        beta: Numerator of lambda = beta/eta.
        diffusion: D_0.
        tau_diffusion: Time scale of the diffusion.

    Returns:
        The schedules.

    Examples:
        >>> found = published_schedules()
        >>> round(found.temperature(0.0), 3), round(found.entropy(9000.0), 3)
        (100.001, 0.01)
    """
    eta = InverseTime(rate, tau)
    return Schedules("published", eta, Exponential(diffusion, tau_diffusion), OverRate(beta, eta))


def published_code_schedules(
    rate: float = 0.01,
    tau: float = 1000.0,
    entropy: float = 0.001,
    diffusion: float = 1.0,
    tau_diffusion: float = 500.0,
) -> Schedules:
    """The schedules of the code of "fokker_planck", whose entropy weight is constant.

    Args:
        rate: eta_0.
        tau: Time scale of the learning rate, `tau_eta` there.
        entropy: lambda, `lambda_reg` there.
        diffusion: D_0.
        tau_diffusion: Time scale of the diffusion, `tau_D` there.

    Returns:
        The schedules.

    Examples:
        >>> published_code_schedules().entropy(9000.0)
        0.001
    """
    noise = Exponential(diffusion, tau_diffusion)
    return Schedules("published code", InverseTime(rate, tau), noise, Constant(entropy))


def corrected_schedules(
    rate: float = 0.01, tau: float = 1000.0, entropy: float = 0.0, depth: float = 1.0
) -> Schedules:
    """The same learning rate, a constant entropy weight, and noise that anneals to the Gibbs law.

    T(t) = depth / log(e + s) + entropy at s = eta_0 tau log(1 + t/tau), the time that the particles
    feel. Annealing goes on for ever, but s grows as log t: where it shall get far, use a constant
    rate with a `Logarithmic` diffusion.

    Args:
        rate: eta_0.
        tau: Time scale of the learning rate.
        entropy: lambda, constant.
        depth: c, at least the depth of the deepest minimum that is not global.

    Returns:
        The schedules.

    Examples:
        >>> found = corrected_schedules(rate=1.0, tau=1.0, depth=2.0, entropy=0.5)
        >>> [round(found.temperature(t), 3) for t in (0.0, 1e3, 1e6)]
        [2.5, 1.383, 1.213]
    """
    eta = InverseTime(rate, tau)
    return Schedules("corrected", eta, Product(eta, Logarithmic(depth, eta)), Constant(entropy))


#: Those with a history, by name.
SCHEDULES = {
    "published": published_schedules,
    "published code": published_code_schedules,
    "corrected": corrected_schedules,
}
