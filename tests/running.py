"""How tests run the command: in a process of its own where that is the point, else in theirs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from studies.cli import main

ROOT = Path(__file__).parents[1]
# What Python itself shows of a program's warnings, unless asked for more.
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def command_line(arguments: Sequence[str | Path]) -> list[str]:
    """The command as a list for subprocess; as installed, it imports nothing from where it runs."""
    return [sys.executable, "-P", "-m", "studies.cli", *map(str, arguments)]


def command_env() -> dict[str, str]:
    """An environment in which the command finds the project and no setting of the person's own."""
    own = ("EXITBITS_", "PYTHONSAFEPATH")  # the latter a command in this process may have set
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def run_here(
    arguments: Sequence[str | Path], folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: what loads torch begins in no time.

    Args:
        arguments: of the command.
        folder: where it runs.
        variables: of its environment, beside :func:`command_env`.

    Returns:
        what ``subprocess.run`` would give, with the warnings that Python would show in stderr.
    """
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    with _surroundings(folder, {**command_env(), **(variables or {})}):
        with (
            warnings.catch_warnings(record=True) as shown,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("default")
            for category in HIDDEN:
                warnings.simplefilter("ignore", category)
            try:
                code = main(words)
            except SystemExit as stop:
                code = int(stop.code or 0)
        for one in shown:
            print(warnings.formatwarning(one.message, one.category, one.filename, one.lineno),
                  file=err)  # fmt: skip
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _surroundings(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Working folder, environment and handling of signals, as they were before in the end."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in watched}
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for key in os.environ.keys() - environment.keys():
            patch.delenv(key)
        for key, value in environment.items():
            patch.setenv(key, value)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
