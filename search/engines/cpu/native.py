"""Building and loading the kernels that the fast engine runs on a CPU.

They are C++ without dependencies, compiled once for the machine's own processor and kept by
content; only a compiler has to be there (``$CXX``, else ``c++``, ``g++`` or ``clang++``).
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from search.caching import default_cache_folder, processor
from search.engines.cpu import library
from search.errors import ExitbitsError

log = logging.getLogger(__name__)

# What clang understands on every processor; on ARM it knows no -march=native.
_THIS_PROCESSOR = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = (
    "-std=c++20", "-O3", _THIS_PROCESSOR, "-fno-math-errno", "-fno-trapping-math", "-shared",
    "-fPIC",
)  # fmt: skip
THREADED = (*FLAGS, "-fopenmp")
TIMEOUT_S = 120
SOURCE = "transformer_block.cpp"  # the one that is compiled; it includes the others


class Levels(ctypes.Structure):
    """Levels of an activation, as the kernels take them."""

    _fields_ = (
        ("inverse", ctypes.c_float),
        ("lowest", ctypes.c_int32),
        ("highest", ctypes.c_int32),
    )


class Linear(ctypes.Structure):
    """A linear layer on codes."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "offsets", "scale", "bias")),
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "steps")),
    )


class Block(ctypes.Structure):
    """A transformer block at its current bits."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "heads", "head_width", "hidden")),
        *((name, ctypes.c_float) for name in ("epsilon1", "epsilon2", "query_scale")),
        *((name, ctypes.c_void_p) for name in ("norm1_weight", "norm1_bias")),
        *((name, ctypes.c_void_p) for name in ("norm2_weight", "norm2_bias")),
        *((name, ctypes.c_void_p) for name in ("branch1_scale", "branch2_scale")),
        *((name, Linear) for name in ("qkv", "proj", "fc1", "fc2")),
        *((name, Levels) for name in ("qkv_input", "query", "key", "probability", "value")),
        *((name, Levels) for name in ("proj_input", "fc1_input", "fc2_input")),
        *((name, ctypes.c_float) for name in ("scores_scale", "context_scale")),
        *((name, ctypes.c_int32) for name in ("scores_steps", "context_steps")),
        *((name, ctypes.c_int32) for name in ("key_middle", "value_middle")),
    )


class KernelsUnavailable(ExitbitsError):
    """There are no kernels here; the message says why, and is empty where nothing is wrong."""


@cache
def load_kernels() -> ctypes.CDLL | KernelsUnavailable:
    """The kernels, compiled where that was not done yet, or why there are none."""
    try:
        return _load()
    except KernelsUnavailable as reason:
        return reason


def _load() -> ctypes.CDLL:
    sources = _sources()
    compiler = _compiler()
    if not compiler:
        raise KernelsUnavailable(
            "no C++ compiler found: the fast engine needs one (install g++, or set CXX)"
        )
    try:
        kernels = _loaded(compiler, sources)
    except (OSError, subprocess.SubprocessError) as error:
        if _is_interrupted(error):
            # Ctrl-C reached the compiler as well: nothing is wrong with it.
            raise KernelsUnavailable("") from error
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise KernelsUnavailable(
            f"the fast engine's kernels cannot be built here ({detail[-1]}): check the compiler "
            "(CXX) and the folder for temporary files"
        ) from error
    _check_layout(kernels)
    kernels.exitbits_room.restype = ctypes.c_long
    kernels.exitbits_room.argtypes = [ctypes.POINTER(Block), ctypes.c_long, ctypes.c_long]
    kernels.exitbits_run_block.restype = None
    kernels.exitbits_run_block.argtypes = [
        ctypes.POINTER(Block), ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_long,
        ctypes.c_int, ctypes.c_void_p,
    ]  # fmt: skip
    kernels.exitbits_pack.restype = None
    kernels.exitbits_pack.argtypes = [
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    return kernels


def _loaded(compiler: list[str], sources: dict[str, bytes]) -> ctypes.CDLL:
    """The kernels with OpenMP, or on one thread where the compiler has none, as Apple's.

    Raises:
        OSError, SubprocessError: when there are neither.
    """
    version = _output([*compiler, "--version"])
    try:
        return _kept_or_built(compiler, version, THREADED, sources)
    except (OSError, subprocess.SubprocessError) as error:
        if _is_interrupted(error) or isinstance(error, subprocess.TimeoutExpired):
            raise
        kernels = _kept_or_built(compiler, version, FLAGS, sources)
    log.warning(
        "the fast engine runs on one thread, %s has no OpenMP: run several workers, or name "
        "another compiler with CXX", " ".join(compiler),
    )  # fmt: skip
    return kernels


def _kept_or_built(
    compiler: list[str], version: str, flags: tuple[str, ...], sources: dict[str, bytes]
) -> ctypes.CDLL:
    name = hashlib.sha256(
        b"\0".join([*sources.values(), version.encode(), " ".join(flags).encode(), processor()])
    ).hexdigest()[:32]
    folder = default_cache_folder() / "kernels"
    if (built := library.find(folder, name)) is None:
        built = _build(compiler, flags, sources)
        library.keep(folder, name, built)
    return library.load(built)


def _is_interrupted(error: Exception) -> bool:
    return getattr(error, "returncode", None) == -signal.SIGINT


def _check_layout(kernels: ctypes.CDLL) -> None:
    """Raise ``KernelsUnavailable`` unless the library lays its structures out as this module."""
    for structure in (Levels, Linear, Block):
        name = structure.__name__.lower()
        size = getattr(kernels, f"exitbits_size_of_{name}")
        size.restype = ctypes.c_long
        if (theirs := size()) != (ours := ctypes.sizeof(structure)):
            raise KernelsUnavailable(
                f"the fast engine's kernels take {theirs} bytes for a {structure.__name__}, "
                f"this program gives {ours}: remove the folder "
                f"{str(default_cache_folder() / 'kernels')!r}"
            )


def _compiler() -> list[str]:
    """The compiler's command, which may go through another such as ccache; empty for none."""
    named = os.environ.get("CXX")
    for command in [named] if named else ["c++", "g++", "clang++"]:
        try:
            first, *others = shlex.split(command)
        except ValueError:  # a quote without its end, or nothing
            continue
        if found := shutil.which(first):
            return [found, *others]
    return []


def _output(command: list[str]) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_S,
    ).stdout


def _sources() -> dict[str, bytes]:
    """The kernels' files by name."""
    folder = resources.files("search.engines.cpu").joinpath("kernels")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_bytes() for file in files if file.name.endswith((".cpp", ".h"))}


def _build(compiler: list[str], flags: tuple[str, ...], sources: dict[str, bytes]) -> bytes:
    log.info("compiling the fast engine's kernels, once on this machine: a few seconds")
    with tempfile.TemporaryDirectory(prefix="exitbits-") as folder:
        for name, content in sources.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / "kernels.so"
        _output([*compiler, *flags, str(Path(folder) / SOURCE), "-o", str(built)])
        return built.read_bytes()
