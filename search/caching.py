"""Where what can be computed again is kept between runs, and what machine it belongs to."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def default_cache_folder() -> Path:
    """``$EXITBITS_CACHE``, else ``exitbits`` in the user's cache folder."""
    if named := os.environ.get("EXITBITS_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "exitbits"


def processor() -> bytes:
    """What this machine's processor is and can: machines of a cluster may share one folder."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    return b"\n".join(
        sorted({x for x in lines if x.startswith((b"flags", b"Features", b"model name"))})
    )
