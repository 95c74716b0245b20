"""Where what can be computed again is kept between runs, and what machine it belongs to."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from search.errors import BadInput


def default_cache_folder() -> Path:
    """``$EXITBITS_CACHE``, else ``exitbits`` in the user's cache folder."""
    if named := os.environ.get("EXITBITS_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "exitbits"
    try:
        return Path.home() / ".cache" / "exitbits"
    except RuntimeError:  # no HOME, and a user that the system does not know, as in containers
        return Path(tempfile.gettempdir()) / f"exitbits-{os.getuid()}"


def expanded(path: str) -> Path:
    """A path, with the home that a ``~`` at its beginning stands for.

    Raises:
        BadInput: when nobody knows that home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(
            f"the path {path!r} cannot be read (no home is known for it): write it in full"
        ) from None


def processor() -> bytes:
    """What this machine's processor is and can: machines of a cluster may share one folder."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    return b"\n".join(
        sorted({x for x in lines if x.startswith((b"flags", b"Features", b"model name"))})
    )
