"""``exitbits worker`` as a service: several studies, signals, a database that goes away."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import Fleet, wait_for
from postgres import Postgres, new_database
from running import command_line

from studies.records import HARVEST, Progress
from studies.store.claims import Claims
from studies.store.workers import list_workers
from studies.store.writer import StudyStore


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may kill."""
    server = Postgres()
    server.start()
    yield server
    server.close()


def own_trials(store: StudyStore, name: str) -> list[int | None]:
    """The trial of every evaluation but harvested ones: each trial has one of its own."""
    return [row.trial for row in store.evaluations(store.get(name).id) if row.source != HARVEST]


def progress_of(store: StudyStore, name: str) -> Progress:
    return store.progress(store.get(name).id)


def test_the_topology_of_the_compose_file_as_plain_processes(
    postgres_url: str, launch_fleet: Callable[[str], Fleet]
) -> None:
    fleet = launch_fleet(new_database(postgres_url))
    assert "is up to date" in fleet.run("store", "upgrade")
    workers = [fleet.worker(name) for name in ("ann", "bob")]
    store = StudyStore(fleet.address)
    wait_for(lambda: len(list_workers(store.database)) == 2, "both workers to sign on")
    fleet.submit("first", 6)
    fleet.submit("second", 6)
    wait_for(
        lambda: progress_of(store, "first").done and progress_of(store, "second").done, "the end"
    )
    for name in ("first", "second"):
        trials = Counter(own_trials(store, name))
        assert trials == Counter(range(6))
    shown = json.loads(fleet.run("status", "--json"))
    assert {worker["name"]: worker["alive"] for worker in shown["workers"]} == {
        "ann": True, "bob": True,
    }  # fmt: skip
    # Both go on waiting for more; SIGTERM ends them and signs them off.
    for worker in workers:
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert list(list_workers(store.database)) == []


def test_sigterm_finishes_the_trial_in_hand(
    address: str, launch_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    fleet = launch_fleet(address)
    fleet.cache = tmp_path / "cold"  # so that a trial takes a while
    fleet.submit("first", 50)
    worker = fleet.worker("ann")
    store = StudyStore(address)
    wait_for(lambda: progress_of(store, "first").running, "a trial in hand")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    progress = progress_of(store, "first")
    assert (progress.running, progress.lost) == (0, 0)
    assert progress.finished >= 1
    assert "finishing the trial in hand" in fleet.log("ann")


def test_a_second_sigterm_quits_at_once(
    address: str, launch_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    fleet = launch_fleet(address)
    fleet.cache = tmp_path / "cold"
    fleet.submit("first", 50)
    worker = fleet.worker("ann")
    store = StudyStore(address)
    wait_for(lambda: progress_of(store, "first").running, "a trial in hand")
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: "once more to quit" in fleet.log("ann"), "the first signal")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) in (130, 0)  # 0 where the trial ended between the two


@pytest.mark.parametrize("down_s", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_a_result_outlives_a_database_that_is_killed(
    own_postgres: Postgres, launch_fleet: Callable[[str], Fleet], tmp_path: Path, down_s: int
) -> None:
    """Protection: the finished result is kept, and the renewing thread survives the restart."""
    fleet = launch_fleet(new_database(own_postgres.url()))
    fleet.cache = tmp_path / "cold"
    fleet.submit("first", 5)
    worker = fleet.worker("ann")
    store = StudyStore(fleet.address)
    wait_for(lambda: progress_of(store, "first").running, "a trial in hand")
    own_postgres.kill()
    time.sleep(down_s)
    own_postgres.start()
    store = StudyStore(fleet.address)
    wait_for(lambda: progress_of(store, "first").done, "the end of the study")
    assert worker.poll() is None
    assert Counter(own_trials(store, "first")) == Counter(range(5))
    progress = progress_of(store, "first")
    assert (progress.failed, progress.lost) == (0, 0)
    # Alive by the database's clock again: the thread has renewed since the restart.
    wait_for(
        lambda: [one.alive for one in list_workers(store.database)] == [True], "the heartbeat",
        seconds=Claims(store.database).lease_s,
    )  # fmt: skip


def test_passwords_reach_workers_without_standing_in_arguments(
    own_postgres: Postgres, launch_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    """The password is asked for, comes from a file, and shows up nowhere."""
    import psycopg

    secret = "p@ss:w/rd?#%&= '\"\\ü"
    address = new_database(own_postgres.url())
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        quoted = secret.replace("'", "''")
        connection.execute(f"alter user exitbits password '{quoted}'")  # type: ignore[arg-type]
    hba = own_postgres.data / "pg_hba.conf"
    hba.write_text(re.sub("trust$", "scram-sha-256", hba.read_text(), flags=re.MULTILINE))
    own_postgres.kill()
    own_postgres.start()
    fleet = launch_fleet(address)
    refused = subprocess.run(
        command_line(["status"]), cwd=tmp_path, env=fleet.environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "EXITBITS_DB_PASSWORD" in refused.stderr
    assert refused.stderr.count("\n") == 1
    (tmp_path / "secret").write_text(secret + "\n")
    environment = {**fleet.environment(), "EXITBITS_DB_PASSWORD_FILE": str(tmp_path / "secret")}
    fleet.environment = lambda: environment  # type: ignore[method-assign]
    fleet.run("store", "upgrade")
    fleet.submit("first", 4)
    worker = fleet.worker("ann")
    wait_for(lambda: "ann serves" in fleet.log("ann"), "the worker")
    line = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode()
    own_postgres.kill()
    time.sleep(3)
    own_postgres.start()
    wait_for(lambda: '"done": true' in fleet.run("status", "--json"), "the end of the study")
    for text in (line, fleet.log("ann"), refused.stderr):
        assert secret not in text
    assert "ann" in line  # the line that was looked at is the worker's
