"""How many threads a command computes with, and how they wait, wherever that is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import recorded_study
from running import command_env, run_here

from search.cores import usable_cores
from studies.launchers import WorkerOrder
from studies.launchers.local import LocalLauncher

# As a command begins: it refuses what was asked, and the library is loaded as it would have been.
LOADING = """
import sys
from studies.cli import main
assert main(sys.argv[1:]) == 2
import torch
print(torch.get_num_threads())
"""
COMPUTING = (
    ("launch", "absent.toml"),
    ("submit", "absent.toml"),
    ("worker", "--store", "sqlite:///absent.db"),
    ("evaluate", "absent.json"),
    ("baselines", "absent", "--store", "sqlite:///absent.db"),
    ("maqee", "absent", "--budgets", "1", "--store", "sqlite:///absent.db"),
    ("recover", "absent.json", "--data", "absent", "-o", "x.safetensors"),
    ("train", "imagefolder", "--data", "absent"),
)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("words", COMPUTING, ids=[words[0] for words in COMPUTING])
@pytest.mark.parametrize("said", ["option", "variable", "both", "nowhere"])
def test_every_command_that_computes_does_as_it_is_told(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setattr("studies.cli.compute_with", lambda threads: seen.update(n=threads))
    more = ("--threads", "3") if said in ("option", "both") else ()
    variables = {"OMP_NUM_THREADS": "5"} if said in ("variable", "both") else {}
    assert run_here((*words, *more), tmp_path, variables).returncode == 2
    expected = {"option": 3, "variable": 5, "both": 3, "nowhere": usable_cores()}
    assert seen == {"n": expected[said]}


def test_the_library_hears_of_it_before_it_is_loaded(tmp_path: Path) -> None:
    """libgomp says itself how it will wait: this is what it read, not what we wrote."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADING, *COMPUTING[-1], "--threads", "1"],
        env={**command_env(), "OMP_DISPLAY_ENV": "VERBOSE"}, cwd=tmp_path, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this OpenMP does not say what it reads")
    assert done.stdout == "1\n"
    assert re.search("OMP_NUM_THREADS.*1", done.stderr)
    assert re.search("OMP_WAIT_POLICY.*PASSIVE", done.stderr)
    if "GOMP_SPINCOUNT" in done.stderr:
        assert re.search("GOMP_SPINCOUNT.*'2000'", done.stderr)


@pytest.mark.parametrize(
    ("count", "threads", "expected"),
    [
        (None, None, (8, 1)),
        (2, None, (2, 4)),
        (None, 3, (2, 3)),
        (3, 2, (3, 2)),
        (20, None, (20, 1)),
        (None, 30, (1, 30)),
    ],
)
def test_workers_of_a_launch_share_the_cores(
    count: int | None, threads: int | None, expected: tuple[int, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("search.cores._quotas", lambda process: [])
    order = WorkerOrder("sqlite:///x.db", "small", None, tmp_path / "log", count, threads)
    launcher = LocalLauncher(order)
    assert (launcher._count, launcher._threads) == expected


def test_workers_of_a_launch_do_as_the_launch_is_told(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(recorded_study("small", 1, 0).replace("[4, 8]", "[4]"))
    words = ("launch", "small.toml", "--workers", "1", "--cache", "cache")
    done = run_here(words, tmp_path, {"OMP_NUM_THREADS": "3"})
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "cache" / "worker.log").read_text()
    assert "serves small with 3 threads" in log
