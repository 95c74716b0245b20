"""``exitbits serve`` in processes of its own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from running import command_env, command_line

Serve = Callable[..., str]


@contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Start ``exitbits serve`` on stores; every dashboard ends well in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(store: str, *more: str, **environment: str) -> str:
        process = subprocess.Popen(
            command_line(["serve", "--store", store, "--port", "0", *more]), cwd=folder, text=True,
            env={**command_env(), **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line
        return "http://" + line.split("http://")[1].split(",")[0].strip()

    try:
        yield start
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
    for process in started:
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
