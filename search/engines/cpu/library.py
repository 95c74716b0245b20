"""Compiled kernels as files: kept by what they are made of, loaded only as they were built.

A library's digest is part of its name, so one that was damaged, or is being written, is no library.
What is loaded is a private copy: nobody can change it below a process that runs it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import tempfile
from pathlib import Path

from search.files import is_ours, replacing

log = logging.getLogger(__name__)

_MEMORY = Path("/proc/self/fd")


def find(folder: Path, name: str) -> bytes | None:
    """The library that was kept as ``name``, or None where there is none as it was built.

    Its name can be computed by anybody, and what is loaded runs as this user: one that others own,
    or can write, is none.
    """
    if not is_ours(folder):
        return None
    for file in _kept(folder, name):
        try:
            if is_ours(file) and file.name == _file_name(name, content := file.read_bytes()):
                return content
        except OSError:
            pass
        log.warning("%s is damaged, or not yours: kernels are compiled anew", file)
    return None


def keep(folder: Path, name: str, content: bytes) -> None:
    """Keep a library as ``name``, in one step, in place of damaged ones.

    Where nothing can be kept, or others could change it, a warning says so.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)  # made before, by another umask
        if not is_ours(folder):
            log.warning(
                "%s is another user's or a link: kernels are compiled for this process alone; name "
                "a folder of your own with EXITBITS_CACHE", folder,
            )  # fmt: skip
            return
        for file in _kept(folder, name):
            if file.is_symlink() or not file.is_dir():
                file.unlink()
        with replacing(folder / _file_name(name, content)) as partial:
            partial.write_bytes(content)
            partial.chmod(0o700)
    except OSError as error:
        log.warning(
            "kernels are compiled for this process alone, %s cannot be written (%s)",
            folder, error.strerror,
        )  # fmt: skip


def load(content: bytes) -> ctypes.CDLL:
    """Load a copy that no other process can reach by a name.

    Raises:
        OSError: when it cannot be loaded.
    """
    if hasattr(os, "memfd_create") and _MEMORY.is_dir():
        copy = os.memfd_create("exitbits")
        with os.fdopen(copy, "wb", closefd=False) as file:
            file.write(content)
        # Left open: a library is known by its path, and the next one must not have the same.
        return ctypes.CDLL(str(_MEMORY / str(copy)))
    # Not Linux, or without /proc. Nobody else can enter the folder.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(content)
        return ctypes.CDLL(str(path))


def _kept(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*.so"))


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.so"
