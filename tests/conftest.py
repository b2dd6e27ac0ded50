"""What every test shares: one thread, and a browser where there is one.

The repository root is on the path (``pythonpath`` in pyproject.toml) and ``tests`` is a package, so
a test that needs a naive twin or a tiny model writes ``from tests.oracles import ...`` or
``from tests.cases import ...``. The folders below need no ``__init__.py``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

# Sums depend on how they are split over threads; one thread makes a test the same everywhere, and
# two test processes do not fight for two cores. Read by torch and BLAS when they are imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import pytest  # noqa: E402

if "torch" in sys.modules:  # a plugin was faster than the variables
    sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The machine's own Chromium. Without one a test is skipped, but in CI it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    missing = "This test looks at a page in Chromium. Install Debian's package `chromium`."
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
