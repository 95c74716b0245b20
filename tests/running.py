"""How tests run the real command in processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command_line(arguments: Sequence[str | Path]) -> list[str]:
    """The command as a list for subprocess."""
    return [sys.executable, "-m", "studies.cli", *map(str, arguments)]


def command_env() -> dict[str, str]:
    """An environment in which the command finds the project and no setting of the person's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EXITBITS_")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
