"""Modules that lie in the working folder are a person's own: nothing of ours imports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fleet import recorded_study, wait_for
from own_modules import imported_ones, put_own_modules
from running import command_env, command_line

from dashboards.actions import StudyActions
from studies.store.writer import StudyStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_own_modules(tmp_path)
    (tmp_path / "small.toml").write_text(recorded_study("small", 2, 0))
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(words), cwd=folder, env=command_env(), text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_launch_and_its_workers(folder: Path) -> None:
    done = run(folder, "launch", "small.toml", "--workers", "2", "--cache", "cache")
    assert done.returncode == 0, done.stderr
    assert imported_ones(folder) == []
    store = StudyStore(f"sqlite:///{folder}/exitbits.db")
    assert store.progress(store.get("small").id).finished == 2
    for words in (("front", "small"), ("store", "upgrade"), ("report", "small", "-o", "r.html")):
        assert run(folder, *words).returncode == 0
    assert imported_ones(folder) == []


def test_what_a_command_starts_through_libraries(folder: Path) -> None:
    """As torch does to try a processor's instructions: ``python -c`` in the working folder."""
    program = (
        "import subprocess, sys\n"
        "from studies.cli import main\n"
        "assert main(['front', 'absent']) == 2\n"
        "subprocess.run([sys.executable, '-c', 'import random, json'], check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=folder, env=command_env(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert imported_ones(folder) == []


def test_a_submission_of_the_dashboard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", command_env()["PYTHONPATH"])
    monkeypatch.setenv("EXITBITS_CACHE", str(folder / "cache"))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    store = StudyStore(f"sqlite:///{folder}/exitbits.db", create=True)
    under_way = StudyActions(store)
    under_way.submit(recorded_study("small", 2, 0), None, None)
    wait_for(lambda: under_way.submissions()[0].state != "measuring", "the submission")
    assert under_way.submissions()[0].state == "done", under_way.submissions()[0].words
    assert store.names() == ["small"]
    assert imported_ones(folder) == []
