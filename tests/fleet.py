"""The command as a service beside a test: studies are submitted, workers started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from running import command_env, command_line

STUDY = """
name = "{name}"
[model]
checkpoint = "recorded:{name}@{pause_s}"
[data]
dataset = "fashion"
[engine]
name = "reference"
[sampler]
name = "random"
[trial]
harvest = 0
racing = 0
[anchors]
bits = [4, 8]
thresholds = [0.8, 1.0]
[budget]
trials = {trials}
"""


def recorded_study(name: str, trials: int, pause_s: float = 0.1) -> str:
    """A small study of a recorded model, whose trials take six pauses."""
    return STUDY.format(name=name, trials=trials, pause_s=pause_s)


class Fleet:
    """Starts the command beside a test, always on the same store and cache."""

    def __init__(self, folder: Path, address: str, cache: Path) -> None:
        self.folder, self.address, self.cache = folder, address, cache
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str) -> str:
        """Run a command to its end and return what it printed."""
        done = subprocess.run(
            command_line(arguments), cwd=self.folder, env=self.environment(), text=True,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, name: str, trials: int) -> None:
        """Submit a small study of a recorded model, whose trials take about half a second."""
        path = self.folder / f"{name}.toml"
        path.write_text(recorded_study(name, trials))
        self.run("submit", path.name, "--cache", str(self.cache))

    def worker(self, name: str, *more: str) -> subprocess.Popen[str]:
        """Start a worker whose log is NAME.log, with further options as they are given."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                command_line(
                    ["worker", "--name", name, "--threads", "1", "--cache", self.cache, *more]
                ),
                cwd=self.folder, env=self.environment(), text=True, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """The store's address goes through the environment, as in the compose file."""
        return {**command_env(), "EXITBITS_STORE": self.address}

    def log(self, name: str) -> str:
        """What a worker has logged so far."""
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 150) -> None:
    """Wait until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
