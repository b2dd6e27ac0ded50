"""W2 between clouds against closed forms, a linear programme, and two samples of one law."""

import math
import os

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from foreshock.density import bures, quantile_w2_squared, w2
from foreshock.types import Flag
from tests.density.clouds import gaussian


@pytest.mark.parametrize("method", ["bures", "sliced"])
@pytest.mark.parametrize("d, null", [(2, 0.3), (8, 0.2), (32, 0.3)])
def test_distance_of_two_widths_and_its_null(method, d, null) -> None:
    x, y = gaussian(1024, d, 1, variance=0.25), gaussian(1024, d, 2)
    generator = torch.Generator().manual_seed(3)
    found = w2(x, y, generator=generator, method=method, splits=20, directions=32)
    exact = 0.5 * math.sqrt(d)
    # 40 draws at d = 2 scattered over .91 to 1.07, at d = 8 over .95 to 1.02.
    assert found.value / exact == pytest.approx(1, abs=0.12 if d == 2 else 0.06)
    assert found.low < exact < found.high and found.resolved
    assert 0 < found.null[1] / exact < null


@pytest.mark.parametrize("method", ["bures", "sliced"])
def test_two_samples_of_one_law_are_not_resolved(method) -> None:
    x, y = gaussian(400, 8, 4), gaussian(400, 8, 5)
    generator = torch.Generator().manual_seed(6)
    found = w2(x, y, generator=generator, method=method, splits=20, directions=32)
    assert Flag.UNRESOLVED in found.flags and "one law" in found.reason
    # Uncorrected it would read bias: sqrt(d (d + 3)/(2 n)) = .33 or so for the moments alone.
    assert abs(found.value) < 0.2


def test_bures_of_matrices_that_do_not_commute() -> None:
    # Against the optimal map T = S^-1/2 (S^1/2 S' S^1/2)^1/2 S^-1/2: W2^2 = tr((T - 1) S (T - 1)).
    generator = torch.Generator().manual_seed(7)
    a, b = (torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)).unbind()
    one, other = a @ a.T, b @ b.T

    def power(m, p):
        values, vectors = torch.linalg.eigh(m)
        return (vectors * values**p) @ vectors.T

    root, inverse = power(one, 0.5), power(one, -0.5)
    gap = inverse @ power(root @ other @ root, 0.5) @ inverse - torch.eye(4)
    expected = float((gap @ one @ gap).trace())
    zero = torch.zeros(4)
    assert bures(zero, one, zero, other) ** 2 == pytest.approx(expected, rel=1e-10)
    assert bures(zero, one, zero, one) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n, m", [(7, 7), (6, 4), (3, 5)])
def test_quantile_distance_is_the_optimal_assignment(n, m) -> None:
    generator = torch.Generator().manual_seed(n * m)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(m, 2, generator=generator, dtype=torch.float64)
    # Every particle split into equal parts, so that both have as many: a plain assignment.
    parts = math.lcm(n, m)
    for k in range(2):
        many, others = x[:, k].repeat_interleave(parts // n), y[:, k].repeat_interleave(parts // m)
        cost = (many[:, None] - others).square().numpy()
        rows, columns = linear_sum_assignment(cost)
        expected = cost[rows, columns].mean()
        assert float(quantile_w2_squared(x, y)[k]) == pytest.approx(expected, rel=1e-12)


def test_sliced_distance_of_a_shift_is_the_shift() -> None:
    # sqrt(d E (u . m)^2) = |m|; scatter of 512 directions: sqrt(2 (d-1)/(d+2)/512) = .05 of |m|^2.
    x = gaussian(300, 5, 8)
    y = x + torch.tensor([1.0, 0, 0, 0, 2.0])
    generator = torch.Generator().manual_seed(9)
    found = w2(x, y, generator=generator, directions=512, splits=2)
    assert found.value**2 == pytest.approx(5, rel=4 * 0.05)


def test_exact_distance_is_the_optimal_assignment_and_shows_its_bias() -> None:
    if os.environ.get("CI") != "true":  # in CI it fails where POT is missing
        pytest.importorskip("ot")
    x, y = gaussian(60, 8, 10, variance=0.25), gaussian(60, 8, 11)
    found = w2(x, y, generator=torch.Generator().manual_seed(12), method="exact", splits=5)
    cost = torch.cdist(x.double(), y.double()).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    assert found.value**2 == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    assert found.value > 1.1 * math.sqrt(2)  # published at n = 1024: 1.31
    assert found.null[1] > 0.7 * found.value


def test_without_pot_the_exact_distance_says_what_to_type(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'foreshock\[ot\]'"):
        x = gaussian(50, 2, 0)
        w2(x, x, generator=torch.Generator(), method="exact")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(y=torch.zeros(50, 3)), "at least 40"),
        (dict(x=torch.zeros(10, 2)), "at least 40"),
        (dict(x=torch.full((50, 2), torch.inf)), "finite"),
        (dict(method="sinkhorn"), "must be one of"),
        (dict(directions=1), "at least 2"),
    ],
)
def test_bad_input_is_refused(change, message) -> None:
    x = gaussian(50, 2, 0)
    with pytest.raises(ValueError, match=message):
        w2(**{"x": x, "y": x, "generator": torch.Generator(), **change})


def test_sliced_interval_holds_what_directions_were_not_drawn() -> None:
    # Six times wider along one of 16 axes: what a direction sees of it scatters.
    stretch = torch.ones(16)
    stretch[0] = 6.0
    generator = torch.Generator().manual_seed(13)
    held = 0
    x, y = gaussian(150, 16, 14), gaussian(150, 16, 15) * stretch
    many = w2(x, y, generator=generator, directions=512, splits=2)
    for _ in range(20):
        found = w2(x, y, generator=generator, directions=16, splits=2)
        # The same clouds: only the directions differ, so the interval must be wide for them alone.
        held += found.low <= many.value <= found.high
        assert found.high**2 - found.low**2 > 0.3 * many.value**2
    assert held >= 17


def test_orthogonal_directions_measure_a_shift_exactly() -> None:
    x = gaussian(300, 16, 16)
    shift = torch.zeros(16)
    shift[0] = 2.0
    found = w2(x, x + shift, generator=torch.Generator().manual_seed(17), splits=2)
    # Equal clouds but for the shift: nothing is left but the null that is subtracted, about .2.
    assert found.value**2 == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("method", ["bures", "sliced"])
def test_equal_laws_with_heavy_tails_are_resolved_at_their_level(method) -> None:
    generator = torch.Generator().manual_seed(18)
    resolved = 0
    for _ in range(40):
        x, y = (
            torch.randn(100, 2, generator=generator)
            / torch.randn(100, 3, 2, generator=generator).square().mean(1).sqrt()
            for _ in range(2)
        )
        found = w2(x, y, generator=generator, method=method, splits=39, directions=8)
        resolved += found.resolved
    # One side of a permutation test of level 1/40: 1 expected, 6 or more has probability .04 %.
    assert resolved <= 5


@pytest.mark.parametrize("method", ["sliced", "bures"])
def test_paired_clouds_share_their_sampling(method: str) -> None:
    """The same particles, not moved: 0, where the bias of independent clouds would be taken off."""
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    still = w2(x, x, generator=g, method=method, paired=True)
    assert still.value == pytest.approx(0.0, abs=1e-6) and not still.resolved
    assert w2(x, x, generator=g, method=method).value < -0.3  # what it would be
    # Shrunk to a half: W2 of N(0, I) and N(0, I/4) is sqrt(d)/2, and all particles moved alike.
    found = w2(x, x / 2, generator=g, method=method, paired=True)
    assert found.low < math.sqrt(8) / 2 < found.high
    with pytest.raises(ValueError, match="same particles"):
        w2(x, x[:100], generator=g, method=method, paired=True)


@pytest.mark.parametrize("method", ["sliced", "bures"])
def test_a_certain_shift_of_the_same_particles_is_resolved_and_rest_is_not(method: str) -> None:
    false = seen = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(100, 2, generator=generator)
        jitter = 0.05 * torch.randn(100, 2, generator=generator)
        kinds = dict(generator=generator, method=method, paired=True, directions=4)
        # Exchangeable pairs: one side of a test of level 1/41; more than 5 of 40 has .05 %.
        false += w2((x + jitter) / 1.0, x - jitter, **kinds).resolved
        if seed < 8:
            # The mean moves by .1, 14 of its standard errors; independent clouds need .3.
            found = w2(x, x + 0.1 * torch.tensor([1.0, 0.0]) + jitter, **kinds)
            seen += found.resolved
            assert found.value == pytest.approx(0.1, abs=0.03)
            assert (found.value > found.null[1]) == found.resolved
    assert seen == 8 and false <= 5


@pytest.mark.parametrize(
    "change, message",
    [
        ({1: -torch.eye(2)}, "`covariance_a` .* positive semidefinite. Got the eigenvalue -1"),
        ({3: torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "`covariance_b` .* eigenvalue -1"),
        ({1: torch.tensor([[1.0, 5.0], [0.0, 1.0]])}, "`covariance_a` .* must be symmetric"),
        ({1: torch.full((2, 2), torch.nan)}, "`covariance_a` of `bures` contains nan or inf"),
        ({2: torch.tensor([0.0, torch.inf])}, "`mean_b` .* contains nan or inf"),
        ({3: torch.eye(3)}, r"of one d. Got \(2,\), \(2, 2\), \(2,\), \(3, 3\)"),
        ({0: torch.zeros(1, 2)}, r"needs means \(d,\)"),
    ],
)
def test_no_law_has_such_moments(change, message) -> None:
    moments = [torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(2)]
    for place, value in change.items():
        moments[place] = value
    with pytest.raises(ValueError, match=message):
        bures(*moments)


def test_rounded_moments_of_few_particles_are_still_taken() -> None:
    # 10 particles in 40 dimensions: singular, with float32 eigenvalues of either sign around 0.
    x = 100 * torch.randn(10, 40, generator=torch.Generator().manual_seed(19))
    covariance = torch.cov(x.T)
    assert float(torch.linalg.eigvalsh(covariance)[0]) < 0
    assert bures(x.mean(0), covariance, x.mean(0), 4 * covariance) == pytest.approx(
        float(covariance.trace()) ** 0.5, rel=1e-3
    )


@pytest.mark.parametrize("method", ["sliced", "bures"])
@pytest.mark.parametrize("unit", [2.0**83, 2.0**-90])  # 1e25, whose square no float32 holds
def test_a_distance_scales_with_the_unit_of_the_coordinates(method: str, unit: float) -> None:
    x, y = gaussian(60, 3, 20), gaussian(60, 3, 21) + 1
    one, other = (
        w2(x * by, y * by, generator=torch.Generator().manual_seed(22), method=method)
        for by in (1.0, unit)
    )
    assert one.resolved and other.resolved
    told = (other.value, other.low, other.high, *other.null)
    expected = (one.value, one.low, one.high, *one.null)
    assert [v / unit for v in told] == pytest.approx(expected, rel=1e-5)


def test_what_is_wrong_with_a_cloud_is_said() -> None:
    x, generator = gaussian(50, 2, 0), torch.Generator()
    with pytest.raises(ValueError, match="floating-point numbers. Got torch.int64"):
        w2(torch.ones(50, 2, dtype=torch.int64), x, generator=generator)
    broken = x.clone()
    broken[3:5, 1] = torch.nan
    with pytest.raises(ValueError, match="nan or inf in 0 of 50 .* of `x` and 2 of 50 of `y`"):
        w2(x, broken, generator=generator)
    # Finite numbers whose sum is not are a cloud.
    huge = torch.full((50, 2), 3e38) * torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    assert math.isfinite(w2(huge, huge.flip(1), generator=generator).value)


@pytest.mark.parametrize(("n", "d"), [(20, 50), (1000, 10)])
def test_bures_takes_moments_that_were_taken_in_float32(n: int, d: int) -> None:
    cloud = gaussian(n, d, seed=3).float()
    mean, covariance = cloud.mean(0).double(), torch.cov(cloud.T).double()
    assert bures(mean, covariance, mean, covariance) < 1e-2
