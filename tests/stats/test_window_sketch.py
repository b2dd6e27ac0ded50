"""Error of a sketched window against the Wishart law, and the sentence that states it."""

import numpy as np

from foreshock.stats.window_sketch import sketch_errors, sketch_sentence


def test_tables_have_the_mean_and_the_variance_of_a_wishart_matrix() -> None:
    # E B = B, Var B_ij = (B_ii B_jj + B_ij²)/m (Wishart). 20,000 tables: a mean good to
    # sd/sqrt(20000), at 4.5 sd for 10 numbers, a variance to sqrt(2/20000) = 1 %.
    updates = np.random.default_rng(0).standard_normal((4, 6)) * [1, 2, 3, 4, 5, 6]
    table = updates @ updates.T
    found = sketch_errors(table, 5000, 1, draws=20_000)
    squares = np.diagonal(table)
    variance = (np.outer(squares, squares) + table**2) / 5000
    assert np.all(np.abs(found.mean(0) - table) < 4.5 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(found.var(0), variance, rtol=0.045)
    assert np.allclose(found, found.swapaxes(1, 2))


def test_a_small_singular_value_errs_by_its_own_share() -> None:
    # σ from 1 to 1e-5: each by 1/sqrt(2m) of itself, .7 % at m = 10,000; 2,000 tables, sd good to
    # 1.6 %, second order in 1/sqrt(m) 2 %, rounding 2^-53/1e-10 of the least.
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((4, 4)))[0]
    sigma = np.array([1.0, 1e-2, 1e-4, 1e-5])
    table = turn @ np.diag(sigma**2) @ turn.T
    found = np.sqrt(np.linalg.eigvalsh(sketch_errors(table, 10_000, 3, draws=2000))[:, ::-1])
    np.testing.assert_allclose((found / sigma).std(0), 1 / np.sqrt(20_000), rtol=0.1)


def test_no_sketch_no_error() -> None:
    assert sketch_errors(np.eye(3), None, 0).shape == (0, 3, 3) and not sketch_sentence(None)
    assert "4,096 dimensions" in sketch_sentence(4096) and "2.2 %" in sketch_sentence(4096)
