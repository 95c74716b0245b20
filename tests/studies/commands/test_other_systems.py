"""The command where Linux's own is not there: affinity, fork, files in memory, /proc, OpenMP."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fleet import recorded_study
from running import command_line
from without_linux import environment_without_linux

from studies.store import identity

STUDY = """
name = "real"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
calibration_images = 64
[anchors]
bits = [4]
[budget]
trials = 1
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "system"
    folder.mkdir()
    return environment_without_linux(folder)


def run(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(words), cwd=folder, env=environment, text=True, capture_output=True,
        timeout=240, check=False,
    )  # fmt: skip


def test_a_study_from_launch_to_report(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    (tmp_path / "small.toml").write_text(recorded_study("small", 4, 0))
    for words in (
        ("launch", "small.toml", "--workers", "2"),
        ("submit", "small.toml", "--trials", "6"),
        ("worker", "--until-done", "--study", "small"),
        ("status",),
        ("pick", "small", "--max-drop", "1", "-o", "policy.json"),
        ("evaluate", "policy.json"),
        ("report", "small", "-o", "again.html"),
    ):
        done = run(tmp_path, elsewhere, *words)
        assert done.returncode == 0, (words, done.stderr)
        assert "Traceback" not in done.stderr
    assert "6/6 done" in run(tmp_path, elsewhere, "status").stdout


@pytest.mark.slow
def test_the_bundled_model_on_the_fast_engine(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    """Torch, compiled kernels and workers, all without."""
    (tmp_path / "real.toml").write_text(STUDY)
    done = run(tmp_path, elsewhere, "launch", "real.toml", "--workers", "1", "--tables", "never")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "system" / "cache" / "worker.log").read_text()
    assert "the fast engine runs on one thread" in log
    assert "Traceback" not in log
    done = run(tmp_path, elsewhere, "pick", "real", "--max-drop", "1", "-o", "policy.json")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, elsewhere, "evaluate", "policy.json")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


def test_processes_are_told_apart_without_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_PROC", tmp_path)
    start = identity.own_start()
    assert identity.runs(os.getpid(), start)
    assert not identity.runs(os.getpid(), start - 100)
    ended = subprocess.Popen(["true"])
    assert ended.pid is not None
    ended.wait()
    assert not identity.runs(ended.pid, start)
