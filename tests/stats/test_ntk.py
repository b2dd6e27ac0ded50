"""NTK summary: closed forms, scale invariance, thresholds, the paired rate, and its coverage."""

import math

import numpy as np
import pytest

from foreshock.stats.ntk import SERIES, ntk_summary
from foreshock.types import Flag
from tests import oracles

EPSILON = 1e-4


def kernel(seed: int, n: int = 32, d: int = 200) -> np.ndarray:
    j = np.random.default_rng(seed).standard_normal((n, d))
    return j @ j.T / n


def test_values_and_errors_are_the_naive_ones() -> None:
    k = kernel(0)
    out, state = ntk_summary(k, epsilon=EPSILON)
    assert tuple(out) == SERIES and state is not None
    assert out["ntk/log_det"].value == pytest.approx(oracles.ntk_log_det(k, EPSILON), rel=1e-9)
    se = oracles.ntk_log_det_se(k, EPSILON, 8)
    half = 2.3646242510102993 * se  # t_7(.975)
    assert out["ntk/log_det"].high - out["ntk/log_det"].value == pytest.approx(half, rel=1e-8)
    share = np.linalg.eigvalsh(k) / np.trace(k)
    entropy = -(share * np.log(share)).sum()
    assert out["ntk/effective_rank"].value == pytest.approx(math.exp(entropy))
    assert out["ntk/stable_rank"].value == pytest.approx(1 / share.max())
    assert out["ntk/log_scale"].value == pytest.approx(math.log(np.trace(k) / 32))


def test_closed_form_of_equicorrelated_examples() -> None:
    # K = (1-r) I + r 11': eigenvalues 1-r (n-1 times) and 1 + (n-1) r, mean diagonal 1.
    n, r = 24, 0.3
    out, _ = ntk_summary((1 - r) * np.eye(n) + r, epsilon=EPSILON)
    expected = (n - 1) * math.log(1 - r + EPSILON) + math.log(1 + (n - 1) * r + EPSILON)
    assert out["ntk/log_det"].value == pytest.approx(expected)
    assert out["ntk/stable_rank"].value == pytest.approx(n / (1 + (n - 1) * r))


@pytest.mark.parametrize("factor", [1e-250, 7.0, 1e250])
def test_only_the_log_scale_sees_the_scale(factor: float) -> None:
    one, _ = ntk_summary(kernel(1), epsilon=EPSILON)
    other, _ = ntk_summary(kernel(1) * factor, epsilon=EPSILON)
    for name in ("ntk/log_det", "ntk/effective_rank", "ntk/stable_rank"):
        assert other[name].value == pytest.approx(one[name].value, rel=1e-9)
    shift = other["ntk/log_scale"].value - one["ntk/log_scale"].value
    assert shift == pytest.approx(math.log(factor), rel=1e-9)


def test_an_eigenvalue_fading_through_the_threshold() -> None:
    # The published sum of log λ over λ > 1e-6 moves by log 1e-6 = -13.8 when an eigenvalue rises
    # through the threshold. d log(x + ε)/d log x <= 1, so a rise of 1 % moves ours by < .01.
    def published(k: np.ndarray) -> float:
        values = np.linalg.eigvalsh(k)
        return float(np.log(values[values > 1e-6]).sum())

    def log_det(k: np.ndarray) -> float:
        return ntk_summary(k, epsilon=EPSILON)[0]["ntk/log_det"].value

    q = np.linalg.qr(np.random.default_rng(9).standard_normal((24, 24)))[0]
    below, above = (q @ np.diag([1.0] * 23 + [x]) @ q.T for x in (0.995e-6, 1.005e-6))
    assert published(above) - published(below) == pytest.approx(math.log(1e-6), abs=0.01)
    assert math.log(1e-6) == pytest.approx(-13.8, abs=0.02)
    assert abs(log_det(above) - log_det(below)) < 0.01


def test_the_rate_of_the_scale_is_apart() -> None:
    _, state = ntk_summary(kernel(5), epsilon=EPSILON)
    out, _ = ntk_summary(9 * kernel(5), epsilon=EPSILON, previous=state, dt=4)
    rate = out["ntk/log_scale_rate"]
    assert rate.value == pytest.approx(math.log(9) / 4)
    # The same factor for every example: nothing to be uncertain of.
    assert rate.high - rate.low < 1e-9


def test_rows_of_one_example_leave_together() -> None:
    # Two outputs that never mix and are alike: K ⊗ I has every eigenvalue twice.
    one, _ = ntk_summary(kernel(10, n=16), epsilon=EPSILON)
    two, _ = ntk_summary(np.kron(kernel(10, n=16), np.eye(2)), epsilon=EPSILON, rows=2)
    for end in ("value", "low", "high"):
        assert getattr(two["ntk/log_det"], end) == pytest.approx(
            2 * getattr(one["ntk/log_det"], end)
        )


def test_rank_deficient_kernel_is_read_not_refused() -> None:
    j = np.random.default_rng(2).standard_normal((32, 5))
    out, state = ntk_summary(j @ j.T, epsilon=EPSILON)
    assert state is not None and out["ntk/effective_rank"].value < 5
    assert out["ntk/log_det"].value == pytest.approx(
        oracles.ntk_log_det(j @ j.T, EPSILON), rel=1e-6
    )


def test_rate_is_the_paired_difference() -> None:
    a, b = kernel(3), 0.95 * kernel(3) + 0.05 * kernel(4)
    first, state = ntk_summary(a, epsilon=EPSILON)
    assert "needs a previous record" in first["ntk/log_det_rate"].reason
    second, _ = ntk_summary(b, epsilon=EPSILON, previous=state, dt=20)
    rate = second["ntk/log_det_rate"]
    change = second["ntk/log_det"].value - first["ntk/log_det"].value
    assert rate.value == pytest.approx(change / 20)
    # Pairing pays, and the null is that of a redrawn probe: sqrt(2) SE/dt.
    assert rate.null is not None
    width = second["ntk/log_det"].high - second["ntk/log_det"].value
    assert rate.null[1] == pytest.approx(math.sqrt(2) * width / 20)
    assert rate.high - rate.low < rate.null[1]


def test_no_change_reads_a_rate_of_zero() -> None:
    _, state = ntk_summary(kernel(5), epsilon=EPSILON)
    out, _ = ntk_summary(kernel(5) * 3.0, epsilon=EPSILON, previous=state, dt=1)
    assert abs(out["ntk/log_det_rate"].value) < 1e-9


def test_change_of_probe_or_of_epsilon_gives_no_rate() -> None:
    _, state = ntk_summary(kernel(6), epsilon=EPSILON)
    for k, epsilon in ((kernel(6, n=40), EPSILON), (kernel(6), 1e-3)):
        out, _ = ntk_summary(k, epsilon=epsilon, previous=state, dt=1)
        assert "another probe" in out["ntk/log_det_rate"].reason


def test_redrawn_probes_stay_inside_the_null_of_the_rate() -> None:
    # 150 pairs of independent probes of one model (spectrum j^-1, 400 dims). The null is a t_7 band
    # from a group jackknife, which is first order: nominal 95 %, at least 85 % asked (150 pairs:
    # sd .018 at .95).
    rng = np.random.default_rng(7)
    scale = np.arange(1, 401.0) ** -0.5
    inside = 0
    for _ in range(150):
        states, null = [], None
        for _ in range(2):
            j = rng.standard_normal((32, 400)) * scale
            out, state = ntk_summary(
                j @ j.T, epsilon=EPSILON, previous=states[-1] if states else None, dt=1
            )
            states.append(state)
            null = out["ntk/log_det_rate"]
        assert null is not None and null.null is not None
        inside += null.null[0] <= null.value <= null.null[1]
    assert inside / 150 > 0.85


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        pytest.param(np.full((16, 16), np.nan), "nan or inf", id="nan"),
        pytest.param(np.zeros((16, 16)), "is zero", id="zero"),
        pytest.param(np.diag([1.0] * 15 + [-0.1]), "< 0, which no Gram matrix has", id="not psd"),
    ],
)
def test_what_is_no_kernel_is_missing(matrix: np.ndarray, sentence: str) -> None:
    out, state = ntk_summary(matrix, epsilon=EPSILON)
    assert state is None and tuple(out) == SERIES
    assert all(sentence in e.reason and Flag.UNRESOLVED in e.flags for e in out.values())


def test_rounding_below_zero_is_no_offence() -> None:
    k = np.diag([1.0] * 15 + [-1e-14])
    out, _ = ntk_summary(k, epsilon=EPSILON)
    assert math.isfinite(out["ntk/log_det"].value)


def test_one_example_that_carries_everything() -> None:
    k = np.zeros((16, 16))
    k[0, 0] = 1.0
    out, _ = ntk_summary(k, epsilon=EPSILON)
    assert out["ntk/effective_rank"].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param({"kernel": np.eye(15)}, "n >= 16 for 8 groups", id="n"),
        pytest.param({"kernel": np.eye(17), "groups": 4, "rows": 2}, "`rows`", id="rows"),
        pytest.param({"kernel": np.eye(16), "epsilon": 0.0}, "`epsilon`", id="epsilon"),
        pytest.param({"kernel": np.eye(16), "groups": 2}, "`groups`", id="groups"),
        pytest.param({"kernel": np.tril(np.ones((16, 16)))}, "symmetric", id="symmetry"),
    ],
)
def test_the_door_is_checked(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ntk_summary(**({"epsilon": EPSILON} | arguments))


def test_rate_needs_dt() -> None:
    _, state = ntk_summary(kernel(8), epsilon=EPSILON)
    with pytest.raises(ValueError, match="The `dt` of `ntk_summary` must be positive"):
        ntk_summary(kernel(8), epsilon=EPSILON, previous=state)
