"""The Redis bus on real servers. The servers and the proxy are those of the fault tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
