"""What the examples in docstrings share: those of the optional JAX backend need JAX."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Without JAX they are left out, but in CI they fail. `make jax` installs it.
collect_ignore_glob = []
if find_spec("jax") is None and os.environ.get("CI") != "true":
    collect_ignore_glob.append("foreshock/simulators/jax_*.py")
