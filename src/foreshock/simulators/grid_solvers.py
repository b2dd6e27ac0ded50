r"""What a `Grid` does in time and at rest: steady states, evolution, spectrum, passages.

Everything is linear algebra on the generator A of a Markov jump process, so the properties hold
on the grid itself and not only in the limit: mass to rounding, p >= 0 (backward Euler, with any
step), relative entropy never grows.

Sources: R. Bank et al., IEEE Trans. Electron Devices 32, 1992 (1985) (TR-BDF2); A. Al-Mohy and
N. Higham, SIAM J. Sci. Comput. 33, 488 (2011) (exponential).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh_tridiagonal
from scipy.sparse import coo_array, csc_array, diags_array, eye_array, sparray
from scipy.sparse.linalg import eigsh, expm_multiply, splu

from foreshock.simulators.door import Array, not_negative
from foreshock.simulators.grid_cells import Grid, checked, rate_matrix, with_target

Method = Literal["exponential", "backward_euler", "tr_bdf2"]
Progress = Callable[[int, int], None]

#: Largest mismatch of log rates around a loop that is rounding and not a force.
BALANCE = 1e-8


def _solver(symmetric: bool, matrix: sparray) -> Callable[[Array], Array]:
    """Sparse LU of an M-matrix or its transpose, whose pattern is symmetric or not (resets)."""
    if not symmetric:
        return splu(csc_array(matrix)).solve
    # An M-matrix needs no pivoting, so a symmetric pattern can use a symmetric ordering, which
    # fills in less; dense rows, as resets have, would fill it completely.
    return splu(
        csc_array(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    ).solve


def log_weights(grid: Grid) -> Array | None:
    r"""Log of the cell probabilities that balance every face, or ``None``: a force drives the grid.

    Detailed balance, pi_tail forward = pi_head backward, fixes log pi up to a constant along any
    path; it exists exactly where every loop closes, to 1e-8. Absorbing cells and resets are left
    aside.

    Args:
        grid: The grid.

    Returns:
        Log probabilities, normalised, of the grid's shape.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> x = np.arange(4.0)
        >>> log_weights(drift_grid(x, 1.0, 1.0, period=4.0)) is None
        True
        >>> np.exp(log_weights(drift_grid(x, 0.0, 1.0))).round(3)
        array([0.167, 0.333, 0.333, 0.167])
    """
    with np.errstate(divide="ignore"):
        difference = np.log(grid.forward) - np.log(grid.backward)
    if not np.all(np.isfinite(difference)):
        return None  # a rate underflowed: one-way, so nothing balances it
    if grid.is_chain:
        potential = np.append(0.0, np.cumsum(difference))
    else:
        n, faces = grid.volume.size, np.arange(grid.tail.size)
        signs = np.concatenate((-np.ones(faces.size), np.ones(faces.size)))
        incidence = coo_array(
            (signs, (np.tile(faces, 2), np.concatenate((grid.tail, grid.head)))),
            shape=(faces.size, n),
        ).tocsc()
        # Least squares over all faces with the first cell as zero; the residual is the force.
        free = csc_array(incidence[:, 1:])
        potential = np.append(0.0, _solver(True, free.T @ free)(free.T @ difference))
        if np.abs(incidence @ potential - difference).max() > BALANCE:
            return None
    potential = potential - potential.max()
    return (potential - math.log(np.exp(potential).sum())).reshape(grid.shape)


def stationary(grid: Grid, *, iterations: int = 50) -> Array:
    r"""Stationary density.

    With detailed balance it is written down, exact at the nodes. Otherwise (a driven ring or
    plane, resets) it is the null vector of the generator by inverse iteration, with a sparse LU:
    positive, and accurate to about 1e-16 |A| over the relaxation rate. Between the wells of a ring
    that was 5e-14, 4e-11 and 7e-10 at barriers of 5, 10 and 15 T; beyond it is refused.

    Args:
        grid: The grid, without absorbing cells.
        iterations: Most inverse iterations; 2 or 3 are usual.

    Returns:
        The density, of mass 1.

    Raises:
        ValueError: If cells absorb, or the iteration does not settle.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> x = np.linspace(-1, 1, 3)
        >>> stationary(energy_grid(x, x**2, 1.0)).round(4)
        array([0.2689, 0.7311, 0.2689])
    """
    if not grid.live.all():
        raise ValueError(
            "`stationary` needs a grid without absorbing cells: there everything is absorbed in "
            "the end. Use `spectrum` for the decay and `mean_first_passage` for the time."
        )
    balanced = None if grid.reset_rate else log_weights(grid)
    if balanced is not None:
        return np.exp(balanced) / grid.volume
    matrix = rate_matrix(grid)
    # A shift far below every relaxation rate but above rounding: (A - e) is an M-matrix, whose
    # inverse is positive.
    shift = 1e-10 * float(np.abs(matrix.diagonal()).mean())
    solve = _solver(grid.reset_rate == 0, shift * eye_array(grid.volume.size) - matrix)
    # Two starts: one alone would seem to settle where the slowest mode is below the shift.
    volume = grid.volume.ravel()
    current = np.stack((volume, volume * np.arange(1.0, volume.size + 1)), axis=1)
    current /= current.sum(0)
    apart = math.inf
    for _ in range(iterations):
        current = solve(current)
        current /= current.sum(0)
        apart = float(np.abs(current[:, 0] - current[:, 1]).sum())
        if apart < 1e-13:
            break
    if apart > 1e-9:
        raise ValueError(
            f"`stationary` did not settle in {iterations} iterations: two starts are still "
            f"{apart:.1e} of the mass apart. The relaxation is slower than rounding resolves; "
            "raise the temperature or lower the barrier."
        )
    return current[:, 0].reshape(grid.shape) / grid.volume


def evolve(
    grid: Grid,
    density: ArrayLike,
    time: float,
    *,
    method: Method = "exponential",
    steps: int = 1,
    progress: Progress | None = None,
) -> Array:
    r"""The density after a time.

    - ``"exponential"``: exp(A t) p by Taylor polynomials: exact in time to rounding, its cost
      grows with t D/h^2.
    - ``"backward_euler"``: order 1 in t/steps, positive at any step.
    - ``"tr_bdf2"``: order 2, damps stiff modes, one LU; not positive when a step is long against
      h^2/D and the density is rough.

    All three keep the mass where nothing absorbs, up to rounding: about 1e-16 of the longest step
    times the largest rate, 4 D/h^2.

    Args:
        grid: The grid.
        density: At time 0.
        time: t >= 0.
        method: How.
        steps: Equal steps of the two implicit methods.
        progress: Called after each of their steps with (done, steps).

    Returns:
        The density at t; 0 in absorbing cells.

    Raises:
        ValueError: If there is no such method, or less than one step.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> x = np.linspace(-6, 6, 121)
        >>> grid = energy_grid(x, x**2 / 2, 1.0)
        >>> start = np.exp(-((x - 2) ** 2) / 2) / np.sqrt(2 * np.pi)
        >>> late = evolve(grid, start, np.log(2.0))
        >>> round(float((x * late * grid.volume).sum()), 3)
        1.001
    """
    not_negative("evolve", time=time)
    p = checked(grid, "evolve", density)
    if method not in ("exponential", "backward_euler", "tr_bdf2"):
        raise ValueError(
            'The `method` of `evolve` must be "exponential", "backward_euler" or "tr_bdf2". '
            f"Got {method!r}."
        )
    if steps < 1:
        raise ValueError(f"The `steps` of `evolve` must be at least 1. Got {steps}.")
    alive = grid.live.ravel()
    matrix = rate_matrix(grid)
    m = (p * grid.volume).ravel()[alive]
    if method == "exponential":
        # scipy draws from numpy's global generator to estimate a norm; the caller's is put back.
        drawn = np.random.get_state()
        try:
            m = expm_multiply(matrix * time, m)
        finally:
            np.random.set_state(drawn)
    elif method == "backward_euler":
        solve = _solver(grid.reset_rate == 0, eye_array(m.size) - matrix * (time / steps))
        for done in range(steps):
            m = solve(m)
            if progress is not None:
                progress(done + 1, steps)
    else:
        m = _tr_bdf2(grid, matrix, m, time / steps, steps, progress)
    result = np.zeros(alive.size)
    result[alive] = m
    return result.reshape(grid.shape) / grid.volume


def _tr_bdf2(
    grid: Grid, matrix: csc_array, m: Array, dt: float, steps: int, progress: Progress | None
) -> Array:
    """Trapezoid to gamma dt, then BDF2 to dt; gamma = 2 - sqrt 2 makes both matrices equal."""
    gamma = 2 - math.sqrt(2)
    half = csc_array(matrix * (gamma * dt / 2))
    solve = _solver(grid.reset_rate == 0, eye_array(m.size) - half)
    whole = 1 / (gamma * (2 - gamma))
    for done in range(steps):
        between = solve(m + half @ m)
        m = solve(whole * between - (whole - 1) * m)
        if progress is not None:
            progress(done + 1, steps)
    return m


def spectrum(grid: Grid, count: int = 6) -> Array:
    r"""The smallest decay rates of a grid with detailed balance, in increasing order.

    The first is 0 where nothing absorbs. The generator is symmetrised with the square roots of
    its rates; a chain uses a tridiagonal solver, anything else a Lanczos iteration. The rates are
    absolute to about 1e-16 of the largest, 4 D/h^2: an escape rate below that is rounding, and
    `mean_first_passage`, which has no such limit on a chain, is the way to it.

    Args:
        grid: The grid, with or without absorbing cells.
        count: How many.

    Returns:
        (count,) Rates, 1/time.

    Raises:
        ValueError: If there is a force or a reset (eigenvalues are then complex), or a rate is 0.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> free = drift_grid(np.linspace(0, np.pi, 201), 0.0, 1.0)
        >>> abs(spectrum(free, 3)).round(3)
        array([0., 1., 4.])
    """
    if not (np.all(grid.forward > 0) and np.all(grid.backward > 0)):
        raise ValueError(
            "`spectrum` cannot balance a jump whose rate is 0 in one direction: neighbouring nodes "
            "differ by more than 745 T in energy. Refine the grid, or cut it where U is that high."
        )
    if grid.reset_rate or log_weights(grid) is None:
        raise ValueError(
            "`spectrum` needs detailed balance, and a force or a reset breaks it here: the "
            "eigenvalues are complex. Use scipy.sparse.linalg.eigs on `rate_matrix(grid)`."
        )
    matrix = rate_matrix(grid)
    size = int(grid.live.sum())
    if not 1 <= count <= size:
        raise ValueError(
            f"The `count` of `spectrum` must be between 1 and the {size} live cells. Got {count}."
        )
    diagonal = -matrix.diagonal()
    if grid.is_chain:
        alive = np.flatnonzero(grid.live)
        linked = np.flatnonzero(np.diff(alive) == 1)
        between = np.zeros(size - 1)
        faces = alive[linked]
        between[linked] = -np.sqrt(grid.forward[faces] * grid.backward[faces])
        rates = eigh_tridiagonal(
            diagonal, between, eigvals_only=True, select="i", select_range=(0, count - 1)
        )
        return np.asarray(rates, np.float64)
    jumps = csc_array(matrix + diags_array(diagonal))
    symmetric = diags_array(diagonal) - csc_array(jumps.multiply(jumps.T)).power(0.5)
    if count >= size - 1:  # Lanczos gives no more than size - 1
        return np.linalg.eigvalsh(symmetric.toarray())[:count]
    shift = -1e-3 * float(diagonal.mean())
    start = np.sqrt(np.arange(1.0, size + 1))  # fixed, and in no symmetry class
    values = eigsh(
        csc_array(symmetric),
        k=count,
        sigma=shift,
        v0=start,
        return_eigenvectors=False,
    )
    return np.sort(values)


def mean_first_passage(grid: Grid) -> Array:
    r"""Mean time until absorption from every node: A' T = -1 on the live cells, one solve.

    On a chain without resets, with one run of absorbing cells, it is a sum of positive terms
    instead, exact to rounding across any barrier. Resets are included where the grid has them.

    Args:
        grid: A grid with absorbing cells, from `walls=` or `with_target`.

    Returns:
        Times, 0 in the absorbing cells.

    Raises:
        ValueError: If nothing absorbs, or part of the grid cannot reach what does.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> walls = ("reflecting", "absorbing")
        >>> mean_first_passage(drift_grid(np.linspace(0, 1, 5), 0.0, 1.0, walls=walls))
        array([0.5    , 0.46875, 0.375  , 0.21875, 0.     ])
    """
    if grid.live.all():
        raise ValueError(
            "`mean_first_passage` needs somewhere to arrive. Mark it with "
            "`with_target(grid, mask)`, or build the grid with an absorbing wall."
        )
    times = np.zeros(grid.volume.size)
    alive = grid.live.ravel()
    absorbing = np.flatnonzero(~alive)
    first, last = int(absorbing[0]), int(absorbing[-1])
    if grid.is_chain and not grid.reset_rate and absorbing.size == last - first + 1:
        return _chain_times(grid, first, last)
    matrix = rate_matrix(grid)
    times[alive] = _solver(grid.reset_rate == 0, -matrix.T)(np.ones(int(alive.sum())))
    if not np.all(np.isfinite(times)) or times.min() < 0:
        raise ValueError(
            "`mean_first_passage` found no finite times: part of the grid cannot reach the target "
            "within what rounding resolves."
        )
    return times.reshape(grid.shape)


def _chain_times(grid: Grid, first: int, last: int) -> Array:
    """Mean times to the cells first..last of a chain, by differences from the reflecting ends."""
    n = grid.volume.size
    times = np.zeros(n)
    gaps = np.zeros(n)
    for i in range(first):  # forward T_i - T_{i+1}: 1 + what comes back from below
        back = grid.backward[i - 1] * gaps[i - 1] if i else 0.0
        gaps[i] = (1 + back) / grid.forward[i]
    times[:first] = np.cumsum(gaps[:first][::-1])[::-1]
    gaps[:] = 0.0
    for i in range(n - 1, last, -1):
        back = grid.forward[i] * gaps[i + 1] if i < n - 1 else 0.0
        gaps[i] = (1 + back) / grid.backward[i - 1]
    times[last + 1 :] = np.cumsum(gaps[last + 1 :])
    return times


def committor(grid: Grid, source: ArrayLike, target: ArrayLike) -> Array:
    r"""Probability of reaching the target before the source, from every node.

    A' q = 0 between them, q = 0 in the source, 1 in the target; cells that absorb already count
    as lost (q = 0).

    Args:
        grid: The grid, without resets.
        source: Mask of the cells where q = 0.
        target: Mask of the cells where q = 1.

    Returns:
        q, of the grid's shape.

    Raises:
        ValueError: If the sets overlap or one is empty, or the grid has resets.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> x = np.linspace(0, 1, 5)
        >>> committor(drift_grid(x, 0.0, 1.0), x == 0, x == 1)
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    a, b = np.asarray(source, bool), np.asarray(target, bool)
    if a.shape != grid.shape or b.shape != grid.shape or not (a.any() and b.any()) or (a & b).any():
        raise ValueError(
            f"The `source` and `target` of `committor` must be two masks of shape {grid.shape}, "
            "each with a cell, without a common one."
        )
    if grid.reset_rate:
        raise ValueError("`committor` is of the diffusion alone. Pass the grid without resets.")
    between = with_target(grid, a | b).live.ravel()
    full = rate_matrix(replace(grid, live=np.ones(grid.shape, bool)))
    inside = np.flatnonzero(between)
    backward = csc_array(full.T)[inside]
    gain = csc_array(backward) @ b.ravel().astype(np.float64)
    q = np.zeros(grid.volume.size)
    q[b.ravel()] = 1.0
    between_them = csc_array(csc_array(backward)[:, inside])
    q[inside] = _solver(grid.reset_rate == 0, -between_them)(gain)
    return np.clip(q, 0.0, 1.0).reshape(grid.shape)
