"""``python -m foreshock``."""

import sys

from foreshock.cli import main

sys.exit(main())
