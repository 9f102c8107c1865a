"""Lets the tests of this folder import their helpers as `tests.ascendc.*`."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
