"""A machine that is no Linux, as far as our own code sees it: what macOS lacks is taken away.

Python reads the module as ``sitecustomize`` at the start of every process below a command.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from running import command_env

TAKEN_AWAY = """
import os, pathlib
for name in ("sched_getaffinity", "sched_setaffinity", "memfd_create", "fork", "forkpty"):
    vars(os).pop(name, None)
def _without_proc(method):
    def call(self, *arguments, **options):
        if str(self).startswith("/proc"):
            raise FileNotFoundError(2, "there is none", str(self))
        return method(self, *arguments, **options)
    return call
for name in ("read_text", "read_bytes", "readlink", "stat"):
    setattr(pathlib.Path, name, _without_proc(getattr(pathlib.Path, name)))
"""
# Apple's compiler refuses the option, and has no header.
COMPILER = """#!/bin/sh
for word; do
  if [ "$word" = -fopenmp ]; then
    echo "clang: error: unsupported option '-fopenmp'" >&2
    exit 1
  fi
done
exec {real} "$@"
"""


def compiler_without_openmp(folder: Path) -> Path:
    """A compiler that knows no OpenMP."""
    path = folder / "clang++"
    path.write_text(COMPILER.format(real=shutil.which("c++") or "c++"))
    path.chmod(0o755)
    return path


def environment_without_linux(folder: Path) -> dict[str, str]:
    """The environment of a command on such a machine; ``folder`` is empty and stays."""
    (folder / "sitecustomize.py").write_text(TAKEN_AWAY)
    found = command_env()
    return {
        **found,
        "PYTHONPATH": f"{folder}:{found['PYTHONPATH']}",
        "CXX": str(compiler_without_openmp(folder)),
        "EXITBITS_CACHE": str(folder / "cache"),
    }
