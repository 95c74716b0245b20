"""Where what can be computed again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_folder() -> Path:
    """``$EXITBITS_CACHE``, else ``exitbits`` in the user's cache folder."""
    if named := os.environ.get("EXITBITS_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "exitbits"
