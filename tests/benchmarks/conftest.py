"""Makes `runs_of_agents` importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
