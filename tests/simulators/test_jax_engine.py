"""One set of laws for both engines, torch and JAX, and what only JAX promises.

Particles and results cross as numpy arrays or by DLPack, in float64 unless a test says otherwise.
Where JAX is missing its tests are skipped, but in CI they fail.

Their time is that of the compiler, so they share programs: wells are (20,000, 2), decoders
(40,000, 3) and scores (600, 3) wherever the subject allows.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreshock.density import Selection
from foreshock.simulators import (
    Constant,
    InverseTime,
    Isotropic,
    ParticleFisher,
    Schedules,
    SharedFisher,
    SharedMatrix,
    constant_schedules,
)
from tests.simulators.both_engines import FALLING, JAX, NAMES, World, normal, potential_of

ROOT = Path(__file__).parents[2]


WALK = World(constant_schedules(0.5, 0.4, 0.2), 0.01, shape=SharedFisher(0.6))
WATCHED = Selection(0.5, 0.6)


def test_t1_ornstein_uhlenbeck_cloud_has_the_moments_of_the_chain(backend) -> None:
    """m <- (1 - eta k dt) m, s <- (1 - eta k dt)^2 s + 2 (D + eta lambda) dt, within 4.5 se."""
    n, dt, eta, base, lam, k = 20_000, 0.02, 0.5, 0.4, 0.6, 2.0
    world = World(constant_schedules(eta, base, lam), dt, stiffness=k)
    z = 1.5 + 0.5 * normal(n, 2, seed=1)
    mean, variance, keep = 1.5, 0.25, 1 - eta * k * dt
    for _ in range(30):
        mean, variance = keep * mean, keep**2 * variance + 2 * (base + eta * lam) * dt
    assert 0.3 < mean < 1.2  # halfway
    found = backend.walk(world, z, 30, seed=2)
    assert (abs(found.mean(0) - mean) < 4.5 * math.sqrt(variance / n)).all()
    assert (abs(found.var(0) - variance) < 4.5 * variance * math.sqrt(2 / n)).all()


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        (Isotropic(), "gibbs"),
        (ParticleFisher(0.6), "published"),
        (ParticleFisher(0.6), "gibbs"),
        (SharedFisher(0.6), "published"),
        (SharedFisher(0.6), "gibbs"),
    ],
)
def test_t6_noise_of_a_step_has_covariance_2_d_dt(backend, shape, mode: str) -> None:
    """40,000 clones: mean mu dt, covariance 2 D dt, D = D_0 (I + gamma J'J/sigma^2) + eta lambda.

    Within 4.5 standard errors; J, div F (over all signs) by torch's automatic differentiation.
    """
    n, dt, eta, base, lam = 40_000, 0.01, 0.5, 0.8, 0.3
    world = World(constant_schedules(eta, base, lam), dt, shape=shape, mode=mode)
    z = np.tile([[0.3, -0.5, 0.8]], (n, 1))
    exact, one = potential_of(world, 1, 3), torch.from_numpy(z[:1])
    gradient, fisher = exact.gradient(one)[0].numpy(), exact.fisher(one)[0].numpy()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    slopes = torch.cat([exact.fisher_divergence(one, sign[None]) for sign in signs]).numpy()
    gamma = getattr(shape, "gamma", 0.0)
    tensor = (base + eta * lam) * np.eye(3) + base * gamma * fisher
    drift, scatter = -eta * gradient, 0.0
    if mode == "gibbs":
        drift = -(tensor @ gradient) / (base / eta + lam)
        if isinstance(shape, ParticleFisher):
            drift = drift + base * gamma * slopes.mean(0)
            scatter = base * gamma * slopes.std(0)
    moved = backend.walk(world, z, 1, seed=21) - z
    diagonal = 2 * dt * tensor.diagonal()
    # A shared F is one draw for all, of relative error sqrt(2/n) in a direction.
    slack = math.sqrt(2 / n) if isinstance(shape, SharedFisher) else 0.0
    bound = np.sqrt(diagonal / n) + dt * (scatter / math.sqrt(n) + slack * abs(drift).max())
    assert (abs(moved.mean(0) - dt * drift) < 4.5 * bound).all()
    error = np.sqrt((np.outer(diagonal, diagonal) + (2 * dt * tensor) ** 2) / n)
    bound = 4.5 * (error + slack * diagonal.max()) + np.square(dt * scatter).max()
    assert (abs(np.cov(moved.T) - 2 * dt * tensor) < bound).all()


def test_entropy_weight_adds_to_the_temperature(backend) -> None:
    """Stationary variance of the chain near T/k = (D/eta + lambda)/k; the published sign subtracts.

    Exactly 2 (D + eta lambda) dt / (1 - (1 - eta k dt)^2); 150 steps forget the start to e^-6.
    """
    n, dt, eta, base, lam, k = 20_000, 0.02, 0.5, 0.5, 0.75, 2.0
    world = World(constant_schedules(eta, base, lam), dt, stiffness=k)
    variance = backend.walk(world, np.ones((n, 2)), 150, seed=3).var()
    exact = 2 * (base + eta * lam) * dt / (1 - (1 - eta * k * dt) ** 2)
    assert variance == pytest.approx(exact, rel=4.5 * math.sqrt(1 / n) + math.exp(-6))
    assert variance > 5 * (base / eta - lam) / k


def test_entropy_weight_is_that_much_more_diffusion(backend) -> None:
    z = normal(20_000, 2, seed=4)
    one = World(constant_schedules(0.5, 0.25, 0.5), 0.02, stiffness=2.0)
    other = World(constant_schedules(0.5, 0.5, 0.0), 0.02, stiffness=2.0)
    assert (backend.walk(one, z, 5, seed=5) == backend.walk(other, z, 5, seed=5)).all()


def test_schedules_are_read_at_the_time_of_the_step(backend) -> None:
    """Noise-free descent with eta(t) = 1/(1 + t): product of 1 - 2 dt/(1 + k dt)."""
    still = Schedules("own", InverseTime(1.0, 1.0), Constant(0.0), Constant(0.0))
    exact = math.prod(1 - 2 * 0.02 / (1 + k * 0.02) for k in range(20))
    found = backend.walk(World(still, 0.02, stiffness=2.0), np.ones((20_000, 2)), 20, seed=0)
    assert float(found[0, 0]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("shape", [ParticleFisher(0.6), SharedFisher(0.6)])
def test_no_noise_at_all_is_gradient_descent(backend, shape) -> None:
    n, dt = 40_000, 0.01
    z = normal(n, 3, seed=6)
    world = World(constant_schedules(0.5, 0.0), dt, shape=shape)
    gradient = potential_of(world, n, 3).gradient(torch.from_numpy(z)).numpy()
    found = backend.walk(world, z, 1, seed=7)
    np.testing.assert_allclose(found, z - 0.5 * dt * gradient, rtol=1e-10, atol=1e-12)


def test_a_run_is_determined_by_its_seed(backend) -> None:
    z = normal(40_000, 3, seed=10)
    world = World(constant_schedules(), 0.01, shape=ParticleFisher(0.6))
    one, again = backend.walk(world, z, 2, seed=11), backend.walk(world, z, 2, seed=11)
    assert (one == again).all()
    assert (one != backend.walk(world, z, 2, seed=12)).all()


def walkers() -> tuple[Any, Any, Any]:
    """The engine of `WALK`, its start and a key."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    start = jax_engine.State(jnp.asarray(normal(600, 3, seed=18)))
    return JAX.engine(WALK, 600), start, jax.random.key(2)


@cache
def watched_run(devices: int) -> Any:
    """Four steps of `WALK` with three records."""
    import jax

    from foreshock.simulators import jax_engine

    engine, start, key = walkers()
    if devices > 1:
        engine, start = jax_engine.shard(engine, start, jax.devices()[:devices])
    return jax_engine.run(engine, start, key, steps=4, every=2, selection=WATCHED)


def test_a_run_is_its_steps_and_goes_on_where_another_ended(with_jax) -> None:
    """Equal to rounding: the compiler may order sums of a step otherwise within a loop.

    The first half is observed and the second is not: to look is not to touch.
    """
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    engine, state, key = walkers()
    half = watched_run(1)
    rest = jax_engine.run(engine, half.final, key, steps=4, every=2)
    assert half.times == pytest.approx([0, 0.02, 0.04])
    assert rest.times == pytest.approx([0.04, 0.06, 0.08])
    path = [state.z]
    for _ in range(8):
        state = jax_engine.step(engine, state, key)
        path.append(state.z)
    assert state.steps == rest.final.steps == 8
    exact = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(half.path, jnp.stack(path[:5:2]), **exact)
    np.testing.assert_allclose(rest.path, jnp.stack(path[4::2]), **exact)
    np.testing.assert_allclose(rest.final.z, state.z, **exact)


def test_what_a_run_observes_is_the_plug_in_at_its_records(with_jax) -> None:
    """With the drift and the D that make the next step."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_motion, jax_score

    engine, _, key = walkers()
    found, rates = watched_run(1), jnp.array([0.5, 0.4, 0.2])

    @jax.jit
    def moving(z: Any, k: Any) -> Any:
        own = jax.random.split(jax.random.fold_in(key, k))[0]
        now = jax_motion.motion(jax_motion.law(engine), engine.potential.targets, z, own, rates)
        return now.drift, now.level * now.matrix

    for k, z in enumerate(found.path):
        drift, diffusion = moving(z, 2 * k)
        expected = jax_score.flow(jax_score.fit_score(z, WATCHED), drift, diffusion, refits=0)
        for name in NAMES:
            assert found.observables[name][k].value == pytest.approx(expected[name].value, rel=1e-9)
            assert math.isnan(found.observables[name][k].low)  # no bars are claimed


def test_a_shared_fisher_of_one_output_is_exact(with_jax) -> None:
    """Random signs: the score J'e/sigma of one output has s s' = J'J/sigma^2 for either sign."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_motion

    z, sigma, gamma = normal(40, 3, seed=22), 0.7, 0.6
    engine = jax_motion.Engine(
        jax_motion.Decoder(lambda z: jnp.sin(z).sum(1, keepdims=True), jnp.zeros((40, 1)), sigma),
        constant_schedules(),
        0.01,
        SharedFisher(gamma),
    )
    rates = jnp.array([0.5, 0.4, 0.2])
    targets, rule = engine.potential.targets, jax_motion.law(engine)
    matrix = jax.jit(lambda z, k: jax_motion.motion(rule, targets, z, k, rates).matrix)
    found = matrix(jnp.asarray(z), jax.random.key(0))
    jacobian = np.cos(z)
    fisher = jacobian.T @ jacobian / len(z) / sigma**2
    exact = np.eye(3) + gamma * 0.4 / (0.4 + 0.5 * 0.2) * fisher
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_other_schedules_and_targets_are_not_compiled_anew(with_jax) -> None:
    """Another dt is, which shows that it would be noticed."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    def decode(z: Any) -> Any:
        traced.append(z.shape)
        return z

    traced: list[Any] = []
    z, counts = jnp.ones((4, 2)), []
    for schedules, targets, dt in (
        (constant_schedules(), z, 0.02),
        (constant_schedules(0.7, 0.3), 2 * z, 0.02),
        (constant_schedules(), z, 0.03),
    ):
        engine = jax_engine.Engine(jax_engine.Decoder(decode, targets), schedules, dt)
        before = len(traced)
        jax_engine.step(engine, jax_engine.State(z), jax.random.key(0))
        counts.append(len(traced) - before)
    assert counts[1] < min(counts[0], counts[2])


#: In a process of its own, which has two devices.
ELSEWHERE = """
import json, sys
import foreshock.density, foreshock.simulators
named = ["jax" in sys.modules]
from foreshock.simulators import jax_score
named.append("jax" in sys.modules)
import jax
from tests.simulators.test_jax_engine import watched_run
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
found = watched_run(2)
print(json.dumps({
    "named": named,
    "block": jax_score.chosen_block(found.final.z, None),
    "parts": [part.data.shape for part in found.final.z.addressable_shards],
    "path": found.path.tolist(),
    "observables": {name: [one.value for one in row] for name, row in found.observables.items()},
}))
"""


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """What `ELSEWHERE` printed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    device = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **device},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_particles_on_two_devices_walk_the_path_of_one(with_jax, elsewhere) -> None:
    """Random numbers do not depend on devices, sums over particles do by rounding.

    Each device computes the kernel rows of its own particles, one alone takes them in blocks.
    """
    alone = watched_run(1)
    assert elsewhere["parts"] == [[300, 3], [300, 3]] and elsewhere["block"] == 600
    np.testing.assert_allclose(elsewhere["path"], alone.path, rtol=1e-10, atol=1e-12)
    assert set(elsewhere["observables"]) == set(NAMES)
    for name, values in elsewhere["observables"].items():
        expected = [one.value for one in alone.observables[name]]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(values, expected, rtol=1e-8)


def test_jax_is_imported_by_name_only(with_jax, elsewhere) -> None:
    """Not with the simulators; the second shows that it would be noticed."""
    assert elsewhere["named"] == [False, True]


def test_without_jax_the_module_says_what_to_type(monkeypatch) -> None:
    for name in ("jax_engine", "jax_motion", "jax_score"):
        monkeypatch.delitem(sys.modules, f"foreshock.simulators.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ModuleNotFoundError, match=r"Type: pip install 'foreshock\[jax\]'"):
        importlib.import_module("foreshock.simulators.jax_engine")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda j, e, s, k: j.run(e, s, k, steps=5, every=2), "multiple of `every`. Got 5 and 2"),
        (lambda j, e, s, k: j.run(e, s, k, steps=0), "`steps` of `run` must be at least 1"),
        (
            lambda j, e, s, k: j.run(e, s, k, steps=1, selection=Selection(components=2)),
            "is that of a mixture",
        ),
        (
            lambda j, e, s, k: j.run(j.Engine(e.potential, e.schedules, 3.0), s, k, steps=1),
            r"curvature 1, so eta \* dt must stay below",
        ),
        (lambda j, e, s, k: j.run(e, j.State(s.z * math.nan), k, steps=1), "Some hold nan or inf"),
        (lambda j, e, s, k: j.run(e, j.State(s.z[:0]), k, steps=1), r"Got \(0, 2\) of float64"),
        (lambda j, e, s, k: j.run(e, j.State(s.z[:, :0]), k, steps=1), r"Got \(6, 0\) of"),
        (lambda j, e, s, k: j.run(e, s, k, steps=3.0), "at least 1 and a whole number. Got 3.0"),
        (lambda j, e, s, k: j.Engine(e.potential, e.schedules, 0.0), "`dt` of `Engine` must be"),
        (
            lambda j, e, s, k: j.Engine(e.potential, e.schedules, 0.1, SharedFisher(0.1)),
            "couples the noise to a decoder",
        ),
        (
            lambda j, e, s, k: j.Engine(e.potential, e.schedules, 0.1, SharedMatrix(torch.eye(2))),
            "the torch engine has more",
        ),
        (lambda j, e, s, k: j.Decoder(lambda z: z, s.z[0]), "one row per particle"),
        (
            lambda j, e, s, k: j.step(
                j.Engine(j.Decoder(lambda z: z[:, :1], s.z), e.schedules, 0.1), s, k
            ),
            r"maps \(6, 2\) to \(6, 1\), but the targets are \(6, 2\)",
        ),
        (
            lambda j, e, s, k: j.step(
                j.Engine(j.Decoder(lambda z: z, s.z[:2]), e.schedules, 0.1, SharedFisher(0.1)),
                j.State(s.z[:2]),
                k,
            ),
            "needs more than 2 particles; there are 2",
        ),
        (
            lambda j, e, s, k: j.step(
                j.Engine(j.Decoder(lambda z: z, s.z), e.schedules, 0.1, SharedFisher(-50.0)), s, k
            ),
            "positive definite only for gamma",
        ),
        (
            lambda j, e, s, k: j.step(
                j.Engine(lambda z: 1e308 * (10 * z**2).sum(1), e.schedules, 0.1), s, k
            ),
            "the drift outran the step",
        ),
        (lambda j, e, s, k: j.Engine([], e.schedules, 0.1), "must be hashable"),
        (
            lambda j, e, s, k: j.step(j.Engine(e.potential, FALLING, 0.1), j.State(s.z, 20), k),
            "rate of the `schedules` of `Engine` must be positive",
        ),
        (
            lambda j, e, s, k: j.shard(e, j.State(s.z[:5]), [None, None]),
            "5 particles cannot be dealt out evenly to 2 devices. Use 4 particles",
        ),
    ],
)
def test_unfit_input_is_refused(with_jax, call, sentence: str) -> None:
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    engine = JAX.engine(World(constant_schedules(), 0.1, stiffness=1.0), 6)
    state = jax_engine.State(jnp.asarray(normal(6, 2, seed=19)))
    with pytest.raises(ValueError, match=sentence):
        call(jax_engine, engine, state, jax.random.key(0))


def hump(t: float) -> float:
    """A learning rate of 1, and 25 for 1 <= t < 1.6."""
    return 25.0 if 1 <= t < 1.6 else 1.0


def test_the_largest_rate_of_the_run_decides_in_both_engines(with_jax) -> None:
    """dt eta k = 2.5 for six steps: a stable start, and |z| grows 1.5-fold a step then."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine, run_engine
    from foreshock.simulators import particles as torch_engine

    late = Schedules("own", hump, Constant(0.01), Constant(0.0))
    world, z = World(late, 0.1, stiffness=1.0), normal(6, 2, seed=19)
    engine, state = JAX.engine(world, 6), jax_engine.State(jnp.asarray(z))
    sentence = r"unstable at t = 1: the stiffest mode has curvature 1, .* Use dt < 0.08"
    with pytest.raises(ValueError, match=sentence):
        jax_engine.run(engine, state, jax.random.key(0), steps=20, every=10)
    jax_engine.run(engine, state, jax.random.key(0), steps=10, every=10)  # it ends before
    twin = torch_engine.Engine(potential_of(world, 6, 2), late, 0.1)
    with pytest.raises(ValueError, match=sentence):
        run_engine(twin, torch.from_numpy(z), 20, generator=torch.Generator(), observed=False)


def test_a_jax_run_that_came_to_a_steep_place_is_refused(with_jax) -> None:
    """Slope 1 and, behind 3, 31: k = 961 there, and dt = .01 throws particles back and forth."""
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    def cliff(z: Any) -> Any:
        return z + 30 * jax.nn.softplus(8 * (z - 3)) / 8

    targets = jnp.concatenate([jnp.zeros((100, 1)), jnp.full((100, 1), 8.0)])
    state, key = jax_engine.State(jnp.zeros((200, 1))), jax.random.key(0)
    potential, schedules = jax_engine.Decoder(cliff, targets), constant_schedules(diffusion=0.05)
    for every in (50, 400):
        with pytest.raises(ValueError, match=r"of \d+ particles looked at have come to: .* Use dt"):
            jax_engine.run(
                jax_engine.Engine(potential, schedules, 0.01), state, key, steps=400, every=every
            )
    fine = jax_engine.Engine(potential, schedules, 2e-4)
    jax_engine.run(fine, state, key, steps=400, every=400)
    behind = jax_engine.State(jnp.concatenate([state.z[:100], jnp.full((100, 1), 3.2)]))
    with pytest.raises(ValueError, match="unstable: the stiffest"):  # the first 16 are fine
        jax_engine.run(jax_engine.Engine(potential, schedules, 0.01), behind, key, steps=1)


def test_a_jax_step_with_bias_is_warned_of(with_jax) -> None:
    import jax
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    engine = JAX.engine(World(constant_schedules(), 1.92, stiffness=1.0), 6)
    with pytest.warns(RuntimeWarning, match="makes the variance 25 times the exact one"):
        jax_engine.run(engine, jax_engine.State(jnp.zeros((6, 2))), jax.random.key(0), steps=1)


def test_the_share_of_f_in_the_mobility_is_that_of_the_torch_engine(with_jax) -> None:
    """A = 3: F = H = 9. D = 1 + F + 9, T = 10: mobility (10 + 9)/10 = 1.9, limit 2/17.1 = .117."""
    import jax.numpy as jnp

    from foreshock.simulators import jax_engine

    schedules, state = constant_schedules(1.0, 1.0, 9.0), jax_engine.State(jnp.zeros((4, 1)))
    potential = jax_engine.Decoder(lambda p: 3 * p, jnp.zeros((4, 1)))
    for shape in (SharedFisher(1.0), ParticleFisher(1.0)):
        jax_engine.check_stable(jax_engine.Engine(potential, schedules, 0.116, shape), state)
        with pytest.raises(ValueError, match="curvature 17.1"):
            jax_engine.check_stable(jax_engine.Engine(potential, schedules, 0.118, shape), state)
