"""The whole road in real processes: launch on the bundled model, and on a recorded one what
happens when somebody kills, stops, resumes or repeats."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet import recorded_study
from running import command_env, command_line, run_here

from studies.records import HARVEST, Progress
from studies.store.writer import StudyStore

STUDY = """
name = "short"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
calibration_images = 64
[sampler]
name = "tpe"
[anchors]
bits = [4, 8]
thresholds = [0.8, 1.0]
[budget]
trials = 5
"""


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run the command in this process, where no process of its own is the point."""
    return lambda *arguments: run_here(arguments, tmp_path)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    """Write a study of a recorded model, whose trials take six pauses."""

    def write(trials: int, pause_s: float = 0.5) -> Path:
        path = tmp_path / "short.toml"
        path.write_text(recorded_study("short", trials, pause_s))
        return path

    return write


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the real command beside the test; whatever is left of it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command_line(arguments), cwd=tmp_path, env=command_env(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return found


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if "studies.cli worker" in " ".join(child.cmdline())
    ]


def trial_holders(store_file: Path) -> set[int]:
    """Pids of workers that hold a trial now, as anyone beside the launch can ask."""
    asked = subprocess.run(
        command_line(["status", "--json", "--store", f"sqlite:///{store_file}"]),
        env=command_env(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    if asked.returncode:  # the store is only just being made
        return set()
    workers = json.loads(asked.stdout)["workers"]
    return {worker["pid"] for worker in workers if worker["trial"] is not None}


def freeze_in_mid_trial(store_file: Path) -> int:
    """Stop a worker that holds a trial, however long the asking takes; returns its pid."""
    while True:
        pid = min(wait_for(lambda: trial_holders(store_file), "a trial in hand"))
        os.kill(pid, signal.SIGSTOP)
        if pid in trial_holders(store_file):
            return pid
        os.kill(pid, signal.SIGCONT)


def front_of(run: Run) -> dict[str, Any]:
    done = run("front", "short", "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_from_launch_to_a_reproduced_policy(
    tmp_path: Path, exitbits: Run, here: Run, shared_cache: Path
) -> None:
    (tmp_path / "short.toml").write_text(STUDY)
    first = exitbits("launch", "short.toml", "--workers", "2", "--cache", shared_cache)
    assert first.returncode == 0, first.stderr
    assert "Pareto front of short" in first.stdout
    assert "5/5 trials" in first.stderr
    assert any((shared_cache / "calibrations").rglob("*.npz"))  # the next worker begins sooner
    assert f"html: {tmp_path}/short.html" in first.stdout
    assert (tmp_path / "short.html").stat().st_size > 1_000_000

    front = front_of(here)
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db")
    rows = store.evaluations(store.get("short").id)
    assert front["evaluations"] == len(rows)
    own = [row for row in rows if row.source != HARVEST]
    assert sorted(row.trial or 0 for row in own) == list(range(5))
    assert [row.source for row in sorted(own, key=lambda row: row.trial)].count("anchor") == 4
    assert {row.trial for row in rows if row.source == HARVEST} <= set(range(5))
    assert sum(row.source == HARVEST for row in rows) >= 6

    # An exported policy reproduces its figures exactly, without any cache: both ends of the front.
    assert here("front", "short", "--export", "front").returncode == 0
    bundles = sorted((tmp_path / "front").iterdir())
    assert len(bundles) == len(front["front"])
    for bundle in (bundles[0], bundles[-1]):
        recorded = json.loads(bundle.read_text())["evaluation"]
        done = here("evaluate", bundle, "--json")
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout)
        assert measured["reproduced"] is True
        assert measured["value"] == recorded["value"]
        assert measured["cost"] == recorded["cost"]

    other_split = here("evaluate", bundles[0], "--split", "order")
    assert other_split.returncode == 0
    assert "2000 images of split order" in other_split.stdout

    # A bundle whose policy was edited is refused.
    edited = json.loads(bundles[0].read_text())
    edited["policy"]["weight_bits"][0] = 7
    bundles[0].write_text(json.dumps(edited))
    refused = here("evaluate", bundles[0])
    assert refused.returncode == 2
    assert "was edited" in refused.stderr


def test_launched_again_a_study_stays_grows_or_is_refused(
    tmp_path: Path, exitbits: Run, here: Run, recorded: Callable[..., Path]
) -> None:
    launch = ("launch", recorded(6, pause_s=0), "--workers", "2", "--cache", tmp_path / "cache")
    assert exitbits(*launch).returncode == 0
    front = front_of(here)

    # A second run finds nothing to do and changes nothing.
    second = exitbits(*launch)
    assert second.returncode == 0, second.stderr
    assert front_of(here) == front

    # The budget may grow; the anchors are not queued again.
    recorded(8, pause_s=0)
    more = exitbits(*launch)
    assert more.returncode == 0, more.stderr
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db")
    own = [row for row in store.evaluations(store.get("short").id) if row.source != HARVEST]
    assert [row.source for row in sorted(own, key=lambda row: row.trial)].count("anchor") == 4
    assert len(own) == 8

    # Another configuration under the same name is refused, and nothing changes.
    file = recorded(8, pause_s=0)
    file.write_text(file.read_text().replace('name = "random"', 'name = "tpe"'))
    other = here(*launch)
    assert other.returncode == 2
    assert "sampler.name is 'random' in the store and 'tpe' here" in other.stderr
    assert other.stderr.count("\n") == 1


def progress_of(address: str) -> Progress:
    """How far the study is."""
    store = StudyStore(address)
    return store.progress(store.get("short").id)


def test_a_worker_killed_in_mid_trial_costs_only_its_trial(
    tmp_path: Path,
    recorded: Callable[..., Path],
    background: Callable[..., subprocess.Popen[str]],
) -> None:
    launch = background("launch", recorded(5, 0.3), "--workers", "2", "--cache", tmp_path / "cache")
    store_file = tmp_path / "exitbits.db"
    victim = freeze_in_mid_trial(store_file)
    assert victim in [child.pid for child in workers_of(launch)]
    os.kill(victim, signal.SIGKILL)
    _, errors = launch.communicate(timeout=200)
    assert launch.returncode == 0, errors
    progress = progress_of(f"sqlite:///{store_file}")
    assert (progress.finished, progress.failed, progress.lost) == (5, 0, 1)


def test_everything_killed_and_launched_again_ends_with_the_trials_asked_for(
    tmp_path: Path,
    exitbits: Run,
    recorded: Callable[..., Path],
    background: Callable[..., subprocess.Popen[str]],
) -> None:
    arguments = ("launch", recorded(5, 0.3), "--workers", "2", "--cache", tmp_path / "cache")
    launch = background(*arguments)
    store_file = tmp_path / "exitbits.db"
    freeze_in_mid_trial(store_file)
    workers = workers_of(launch)
    launch.kill()
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers)
    before = progress_of(f"sqlite:///{store_file}")
    assert before.running >= 1
    again = exitbits(*arguments)
    assert again.returncode == 0, again.stderr
    after = progress_of(f"sqlite:///{store_file}")
    assert (after.finished, after.failed, after.lost) == (5, 0, before.running)


def test_workers_end_by_themselves_when_the_launcher_is_gone(
    tmp_path: Path,
    recorded: Callable[..., Path],
    background: Callable[..., subprocess.Popen[str]],
) -> None:
    launch = background(
        "launch", recorded(50, 0.3), "--workers", "1", "--cache", tmp_path / "cache"
    )
    wait_for(lambda: trial_holders(tmp_path / "exitbits.db"), "a trial in hand")
    workers = workers_of(launch)
    launch.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    tmp_path: Path,
    exitbits: Run,
    recorded: Callable[..., Path],
    background: Callable[..., subprocess.Popen[str]],
) -> None:
    arguments = ("launch", recorded(8, 0.3), "--workers", "2", "--cache", tmp_path / "cache")
    launch = background(*arguments)
    wait_for(lambda: trial_holders(tmp_path / "exitbits.db"), "a trial in hand")
    launch.send_signal(signal.SIGINT)
    _, errors = launch.communicate(timeout=120)
    assert launch.returncode == 130
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    stopped = progress_of(f"sqlite:///{tmp_path}/exitbits.db")
    assert (stopped.running, stopped.lost) == (0, 0)  # the trials in hand were finished
    assert 1 <= stopped.finished < 8
    assert exitbits(*arguments).returncode == 0
    assert progress_of(f"sqlite:///{tmp_path}/exitbits.db").finished == 8


def test_what_needs_a_network_says_so(here: Run, recorded: Callable[..., Path]) -> None:
    assert here("submit", recorded(4)).returncode == 0
    for arguments in (("baselines", "short"), ("maqee", "short", "--budgets", "0.01")):
        refused = here(*arguments)
        assert refused.returncode == 2, refused.stderr
        assert "is no network" in refused.stderr
        assert "Traceback" not in refused.stderr
