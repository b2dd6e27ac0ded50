"""The asymptotic rate of escape: its limit, its reduction to one dimension, what it refuses."""

import numpy as np
import pytest

from foreshock.simulators import eyring_kramers as kramers


def well(x: np.ndarray) -> np.ndarray:
    return (x**2 - 1) ** 2


def tilted(x: np.ndarray) -> np.ndarray:
    return x**4 / 4 - x**2 / 2 + 0.15 * x


def test_eyring_kramers_becomes_exact_as_one_over_the_barrier() -> None:
    excess = [kramers.finite_barrier_ratio(well, 1 / b, -1, 0, 8, 4) - 1 for b in (80, 160)]
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.02)


def test_the_saddle_formula_reduces_to_one_dimension_and_to_rotated_frames() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    well_hessian = turn @ np.diag([8.0, 1.0, 2.0, 3.0, 4.0]) @ turn.T
    saddle_hessian = turn @ np.diag([-4.0, 1.0, 2.0, 3.0, 4.0]) @ turn.T
    one = kramers.eyring_kramers_rate(8, 4, 1, 0.2, mobility=3.0)
    five = kramers.eyring_kramers_rate_nd(well_hessian, saddle_hessian, 1, 0.2, mobility=3.0)
    assert five == pytest.approx(one, rel=1e-10)
    # A channel that narrows at the saddle (transverse curvature x 4) is left half as often.
    narrow = kramers.eyring_kramers_rate_nd(np.diag([8.0, 1.0]), np.diag([-4.0, 4.0]), 1, 0.2)
    assert narrow == pytest.approx(kramers.eyring_kramers_rate(8, 4, 1, 0.2) / 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kramers.eyring_kramers_rate_nd(np.eye(2), np.eye(2), 1, 1), "exactly one"),
        (lambda: kramers.eyring_kramers_rate_nd(-np.eye(2), np.eye(2), 1, 1), "minimum"),
        (lambda: kramers.finite_barrier_ratio(tilted, 0.1, -1, 0, 2, 1), "symmetric"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
