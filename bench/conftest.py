"""Benchmarks import each other by name, whether they are run from the top of the project or from here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
