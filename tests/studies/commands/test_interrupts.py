"""A Ctrl-C that lands where it is swallowed still stops a launch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fleet import recorded_study
from running import command_env

SWALLOWED = """
import os, signal, sys
from studies import cli
from studies.commands import launch

opened = launch.open_study

def open_study(*arguments):
    answer = opened(*arguments)
    try:
        os.kill(os.getpid(), signal.{name})
    except BaseException as error:  # as an import of somebody else's may do
        print("swallowed", repr(error))
    return answer

launch.open_study = open_study
sys.exit(cli.main(sys.argv[1:]))
"""


IGNORED = """
import os, signal
from studies import interrupts

signal.signal(signal.SIGHUP, signal.SIG_IGN)
interrupts.watch(signal.SIGHUP)
os.kill(os.getpid(), signal.SIGHUP)
interrupts.raise_if_seen()
print("went on")
"""


def test_what_nohup_ignores_stays_ignored() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IGNORED], env=command_env(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_it_is_not_lost(name: str, tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(recorded_study("short", 2))
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.format(name=name), "launch", "short.toml",
         "--workers", "1", "--cache", "cache"],
        cwd=tmp_path, env=command_env(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert "swallowed KeyboardInterrupt" in done.stdout
    assert done.returncode == 130, done.stderr
    assert "stopped at 0 of 2 trials; the same command goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
