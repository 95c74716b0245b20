"""Where what can be computed again is kept between runs, and what machine it belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
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
    except OSError:  # not Linux
        return f"{platform.processor()} {platform.machine()} {_brand()}".encode()
    return b"\n".join(
        sorted({x for x in lines if x.startswith((b"flags", b"Features", b"model name"))})
    )


def _brand() -> str:
    """The processor as macOS names it, which elsewhere says "arm" of all of them; else nothing."""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
