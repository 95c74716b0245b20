"""What runs for long waits for its database: a server that is away, a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import Fleet, recorded_study, wait_for
from postgres import Postgres, new_database
from running import command_line

from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore
from studies.work.opening import open_study_evaluator


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may kill."""
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[[str], Fleet]]:
    fleets: list[Fleet] = []

    def make(address: str) -> Fleet:
        fleets.append(Fleet(tmp_path, address, tmp_path / "cache"))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def begin(fleet: Fleet, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command whose output is NAME.log."""
    with (fleet.folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command_line(arguments), cwd=fleet.folder, env=fleet.environment(), text=True,
            stdout=log, stderr=log,
        )  # fmt: skip
    fleet.started.append(process)
    return process


def test_launch_and_status_outlive_a_database_that_restarts(
    own_postgres: Postgres, make_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    """Protection: one rule for all that runs for long, not for `worker` alone."""
    fleet = make_fleet(new_database(own_postgres.url()))
    (tmp_path / "small.toml").write_text(recorded_study("small", 8, 0.1))
    launch = begin(
        fleet, "launch", "launch", "small.toml", "--workers", "2", "--cache", str(fleet.cache)
    )
    store = StudyStore(fleet.address, create=True)
    wait_for(lambda: store.names() and store.progress(store.get("small").id).running, "a trial")
    watch = begin(fleet, "watch", "status", "--watch", "0.2")
    study = store.get("small")
    policy = study.record.space.uniform(5, 0.9)
    given = Contribution("by hand", open_study_evaluator(study.record).evaluate(policy))
    time.sleep(2)
    own_postgres.kill()
    contributing = threading.Thread(target=contribute, args=(store, study.id, [given]))
    contributing.start()
    time.sleep(12)  # longer than a statement is repeated
    late = fleet.worker("late", "--until-done", "--study", "small")
    wait_for(lambda: "waiting for it" in fleet.log("late"), "a worker to wait from its start on")
    own_postgres.start()
    assert launch.wait(120) == 0, fleet.log("launch")
    assert late.wait(60) == 0
    contributing.join(60)
    assert [row.source for row in store.evaluations(study.id)].count("by hand") == 1
    assert watch.poll() is None, fleet.log("watch")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(30) == 130
    for name in ("launch", "watch"):
        assert fleet.log(name).count("waiting for it") == 1
        assert fleet.log(name).count("the store answers again") == 1
        assert "Traceback" not in fleet.log(name)
    (shown,) = json.loads(fleet.run("status", "--json"))["studies"]
    assert (shown["finished"], shown["failed"], shown["lost"]) == (8, 0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the store."""
    if os.geteuid() != 0:
        pytest.skip("a disk can be mounted by root only")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room on a disk."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass
    return file


@pytest.mark.parametrize("ending", ["room", "ctrl-c"])
def test_a_full_disk_is_said_once_and_waited_for(
    small_disk: Path, make_fleet: Callable[[str], Fleet], ending: str
) -> None:
    fleet = make_fleet(f"sqlite:///{small_disk}/store.db")
    fleet.submit("small", 8)
    worker = fleet.worker("ann", "--until-done")
    store = StudyStore(fleet.address)
    wait_for(lambda: store.progress(store.get("small").id).running, "a trial in hand")
    filler = fill(small_disk)
    wait_for(lambda: "waiting for it" in fleet.log("ann"), "the worker to say so")
    time.sleep(5)
    assert worker.poll() is None
    assert fleet.log("ann").count("waiting for it") == 1
    assert "the disk is full" in fleet.log("ann")
    if ending == "room":
        filler.unlink()
        assert worker.wait(60) == 0, fleet.log("ann")
        assert "the store answers again" in fleet.log("ann")
        progress = store.progress(store.get("small").id)
        assert (progress.finished, progress.failed, progress.lost) == (8, 0, 0)
    else:
        worker.send_signal(signal.SIGINT)
        assert worker.wait(20) == 0, fleet.log("ann")
        assert "goes to another" in fleet.log("ann")
        progress = store.progress(store.get("small").id)
        assert (progress.running, progress.failed, progress.lost) == (1, 0, 0)
    assert "Traceback" not in fleet.log("ann")


def test_ctrl_c_ends_a_launch_whose_disk_is_full(
    small_disk: Path, make_fleet: Callable[[str], Fleet]
) -> None:
    fleet = make_fleet(f"sqlite:///{small_disk}/store.db")
    (fleet.folder / "small.toml").write_text(recorded_study("small", 50, 0.1))
    arguments = ("launch", "small.toml", "--workers", "1", "--cache", str(fleet.cache))
    launch = begin(fleet, "launch", *arguments)
    wait_for(lambda: (small_disk / "store.db").exists(), "the store")
    store = StudyStore(fleet.address, create=True)
    wait_for(lambda: store.names() and store.progress(store.get("small").id).running, "a trial")
    filler = fill(small_disk)
    log = fleet.cache / "worker.log"
    wait_for(lambda: "waiting for it" in log.read_text(), "the worker to say so")
    launch.send_signal(signal.SIGINT)
    assert launch.wait(30) == 130, fleet.log("launch")
    assert "the same command goes on from here" in fleet.log("launch")
    assert "Traceback" not in fleet.log("launch")
    filler.unlink()
