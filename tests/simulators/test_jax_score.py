"""Score and observables: one set of laws for torch and JAX, and their agreement to rounding.

As in `test_jax_engine`, scores are (600, 3) wherever the subject allows: programs are shared.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.density import Selection, fit_score, flow
from foreshock.types import Flag
from tests.density.clouds import mixing
from tests.simulators.both_engines import NAMES, normal


def test_t1_observables_of_an_ornstein_uhlenbeck_cloud(backend) -> None:
    """C, cosine, entropy production and dH/dt of N(1, 1/4) in x^2/2 at D = 1, within 10 %.

    The scatter of I, the noisiest, is sqrt(2/(n d)) = 3 %.
    """
    n, d, s, m = 600, 3, 0.25, 1.0
    x = m + math.sqrt(s) * normal(n, d, seed=d)
    a, i = d * (s + m**2), d / s
    truth = {
        "c": math.sqrt(a / i),
        "cosine": d / math.sqrt(a * i),
        "irreversibility": (a - 2 * d + i) / (a + i),
        "entropy_production": a - 2 * d + i,
        "entropy_rate": i - d,
    }
    found = backend.flow(x, -x, 1.0, Selection())
    assert set(found) == set(truth)
    for name, value in truth.items():
        assert found[name].value == pytest.approx(value, rel=0.1), name


@pytest.mark.parametrize("selection", [Selection(), Selection(0.4, 0.8, pull=0.9)])
def test_t9_observables_do_not_depend_on_the_frame(backend, selection) -> None:
    """z -> A z, D -> A D A': C, its cosine, the entropy production and dH/dt stay."""
    x, a = 0.5 + normal(600, 3, seed=8), mixing(3, 2).numpy()
    here = backend.flow(x, -x, 1.0, selection)
    there = backend.flow(x @ a.T, -x @ a.T, a @ a.T, selection)
    for name in NAMES:
        assert there[name].value == pytest.approx(here[name].value, rel=1e-7), name
        assert there[name].low == pytest.approx(here[name].low, rel=1e-7, abs=1e-9), name


def test_t10_score_moves_with_the_cloud_and_not_with_its_units(backend) -> None:
    """s(z + c) = s(z) and s(3 z) = s(z)/3."""
    z, selection = normal(600, 3, seed=9), Selection(0.5, 0.7)
    here = backend.score(z, selection)
    np.testing.assert_allclose(backend.score(z + 5.0, selection), here, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(3 * backend.score(3 * z, selection), here, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(shrinkage=0.2),
        Selection(0.4, 0.8, shrinkage=0.1, pull=0.9),
    ],
)
def test_score_gauges_and_bars_are_those_of_torch(with_jax, selection) -> None:
    """Same formulas, other code: equal to rounding, in blocks that do not divide n."""
    import jax.numpy as jnp

    from foreshock.simulators import jax_score

    z = torch.from_numpy(normal(600, 3, seed=13) @ mixing(3, 1).numpy())
    theirs = fit_score(z, selection=selection)
    ours = jax_score.fit_score(jnp.from_dlpack(z), selection, block=256)
    torch.testing.assert_close(torch.from_dlpack(ours.values), theirs.values)
    verdict = ours.validity
    for name in ("ess", "j_loo", "j_gauss", "stein", "stein_error", "leverage", "shrinkage"):
        assert getattr(verdict, name) == pytest.approx(getattr(theirs.validity, name), rel=1e-9)
    assert (verdict.valid, verdict.reason) == (theirs.validity.valid, theirs.validity.reason)
    tensor = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.5]]).double()
    expected = flow(theirs, -z, tensor, bounds=False)
    found = jax_score.flow(ours, -jnp.from_dlpack(z), tensor.numpy())
    pairs = [(found["c"], expected.consolidation)]
    pairs += [(found[name], getattr(expected, name)) for name in NAMES[1:]]
    for one, other in pairs:
        assert one.value == pytest.approx(other.value, rel=1e-9)
        assert one.high == pytest.approx(other.high, rel=1e-9)


def test_score_in_float32_loses_only_rounding(with_jax) -> None:
    """Pivots .1 and more, kernel terms of order 1/h^2: 1e-3 of the largest score."""
    import jax.numpy as jnp

    from foreshock.simulators import jax_score

    z, selection = normal(600, 3, seed=14), Selection(0.4, 0.8)
    exact = jax_score.fit_score(jnp.asarray(z), selection).values
    single = jax_score.fit_score(jnp.asarray(z, jnp.float32), selection).values
    assert single.dtype == jnp.float32
    assert float(abs(single - exact).max()) < 1e-3 * float(abs(exact).max())


def test_a_score_that_cannot_be_believed_refuses_its_observables(with_jax) -> None:
    import jax.numpy as jnp

    from foreshock.simulators import jax_score

    lonely = jax_score.fit_score(jnp.asarray(normal(600, 3, seed=15)), Selection(0.05, 1.0))
    flat = jnp.asarray(normal(600, 1, seed=16)) * jnp.ones((1, 3))
    singular = jax_score.fit_score(flat, Selection())
    for fitted, sentence in ((lonely, "effective neighbours"), (singular, "not finite")):
        found = jax_score.flow(fitted, -fitted.particles, 1.0)["entropy_production"]
        assert math.isnan(found.value) and Flag.INVALID_DENSITY in found.flags
        assert sentence in found.reason
