"""The Redis bus on real servers. Servers and proxy are those of the fault tests, which know the naive bus."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bus" / "conformance"))
