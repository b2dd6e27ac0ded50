"""JAX where it is there, and either engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.simulators.both_engines import JAX, Jax, Torch


@pytest.fixture
def with_jax() -> Iterator[None]:
    """JAX in double precision. Where it is missing a test is skipped, but in CI it fails."""
    if find_spec("jax") is None:
        missing = "This test needs JAX. Type: make jax"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    import jax

    # Most of the time of these tests is compilation, and nothing here is large.
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> Torch | Jax:
    """Either engine."""
    if request.param == "torch":
        return Torch()
    request.getfixturevalue("with_jax")
    return JAX
