"""Evaluated at least once, recorded exactly once: real processes, killed for real.

Each test names the protection without which it fails.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from optuna.trial import TrialState
from postgres import new_database
from processes import fresh
from running import command_env
from small_study import measure, open_names, take
from sqlalchemy import Connection, delete, event, insert, select, update

from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.claims import MAX_ATTEMPTS, LeaseLost
from studies.store.database import StoreUnavailable
from studies.store.identity import machine
from studies.store.schema import now_seconds, trials, workers
from studies.store.workers import Registration, list_workers, release_dead
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]
LEASE_S = 1.5


def make_store(address: str, record: StudyRecord) -> StudyStore:
    store = StudyStore(address, create=True, lease_s=LEASE_S)
    store.create(record)
    return store


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = fresh().Process(target=target, args=arguments)
    process.start()
    return process


def finish(address: str, worker: str, log: Path | None = None) -> None:
    """Work until the study is done, noting every evaluation in a file of one's own."""
    # With notes, every evaluation counts: the usual lease, which no slow machine outlasts.
    store = StudyStore(address, lease_s=None if log else LEASE_S)
    notes = log.open("a") if log else None
    proposer = Proposer(store, store.get("small"), worker)
    while not store.progress(proposer.study.id).done:
        claim = proposer.claim(worker)
        if claim is None:
            time.sleep(0.05)
            continue
        if notes:
            print(claim.lease.number, file=notes, flush=True)
        store.record(claim, measure(claim.policy))


def die_at(address: str, moment: str) -> None:
    """Work on one trial and be killed at the given moment."""

    def reached(here: str) -> None:
        if here == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    store = StudyStore(address, lease_s=LEASE_S)
    proposer = Proposer(store, store.get("small"), "victim")
    reached("before the claim")
    claim = proposer.claim("victim")
    assert claim
    reached("after the claim")
    evaluation = measure(claim.policy)
    reached("before recording")
    if moment == "inside recording":
        # Everything is written, nothing is committed.
        event.listen(store.database.engine, "commit", lambda _: reached("inside recording"))
    store.record(claim, evaluation)
    reached("after recording")


def open_at_once(addresses: list[str], barrier: Barrier) -> None:
    import alembic.command  # noqa: F401 - so that all are equally fast after the barrier

    for address in addresses:
        barrier.wait(60)
        StudyStore(address, create=True).names()


def lapse(store: StudyStore) -> None:
    """Let the leases in hand run out, as the clock will."""
    ago = {trials.c.lease_until: trials.c.lease_until - LEASE_S - 0.2}
    with store.database.engine.begin() as connection:
        assert connection.execute(update(trials).values(ago)).rowcount


def recorded(store: StudyStore) -> Counter[int]:
    return Counter(row.trial for row in store.evaluations(store.get("small").id))


# Claims


def test_four_workers_and_a_thousand_waiting_trials(
    address: str, make_record: Make, tmp_path: Path
) -> None:
    """Protection: the claim's conditional update, and budget and claim in one transaction."""
    thresholds = [round(0.3 + 0.0014 * step, 4) for step in range(500)]
    record = make_record(anchors={"bits": [4, 8], "thresholds": thresholds}, budget={"trials": 990})
    store = make_store(address, record)
    logs = [tmp_path / f"log{index}" for index in range(4)]
    workers = [start(finish, address, f"worker{index}", logs[index]) for index in range(4)]
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    evaluated = [int(line) for log in logs for line in log.read_text().split()]
    assert len(evaluated) == len(set(evaluated)) == 990
    # Which of the queued ones are left over is nobody's promise: while one worker has locked a
    # row, the next takes the row after it, and may be first to the last of the budget.
    assert recorded(store) == Counter(evaluated)
    assert set(evaluated) <= set(range(1000))
    assert all(len(log.read_text().split()) > 50 for log in logs)  # all four did work


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_eight_processes_open_an_empty_database_at_once(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Protection: the lock around making the tables."""
    if backend == "sqlite":
        addresses = [f"sqlite:///{tmp_path}/store{index}.db" for index in range(25)]
    else:
        server = request.getfixturevalue("postgres_url")
        addresses = [new_database(server) for _ in range(10)]
    barrier = fresh().Barrier(8)
    processes = [start(open_at_once, addresses, barrier) for _ in range(8)]
    for process in processes:
        process.join(180)
        assert process.exitcode == 0


def test_opening_waits_for_who_writes_before_the_journal_is_switched(tmp_path: Path) -> None:
    """Protection: the patience when switching to WAL, which SQLite refuses at once meanwhile."""
    writer = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    writer.execute("pragma user_version = 1")  # a file, its journal not switched yet
    writer.execute("begin immediate")
    other = sqlite3.connect(tmp_path / "store.db", timeout=60, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("pragma journal_mode = wal")
    ending = threading.Timer(0.5, lambda: writer.execute("commit"))
    ending.start()
    assert StudyStore(f"sqlite:///{tmp_path}/store.db", create=True).names() == []
    assert ending.finished.is_set()
    now = sqlite3.connect(tmp_path / "store.db")
    assert now.execute("pragma journal_mode").fetchone() == ("wal",)


# Deaths


@pytest.mark.parametrize(
    "moment",
    ["before the claim", "after the claim", "before recording", "inside recording",
     "after recording"],
)  # fmt: skip
def test_a_killed_worker_costs_nothing(address: str, make_record: Make, moment: str) -> None:
    """Protection: the lease that runs out, and recording in one transaction."""
    store = make_store(address, make_record())
    victim = start(die_at, address, moment)
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    finish(address, "survivor")
    assert recorded(store) == Counter(range(12))
    progress = store.progress(store.get("small").id)
    assert (progress.finished, progress.failed) == (12, 0)
    assert progress.lost == (0 if moment in ("before the claim", "after recording") else 1)


def test_an_abandoned_trial_is_evaluated_with_its_own_parameters(
    address: str, make_record: Make
) -> None:
    """Protection: the proposal is written before the evaluation, and taken over with the trial."""
    store = make_store(address, make_record(anchors={"bits": [4], "thresholds": [1.0]}))
    take(store, "small", "first")
    abandoned = take(store, "small", "gone")
    assert abandoned
    assert abandoned.source == "random"
    lapse(store)
    take(store, "small", "second")
    again = take(store, "small", "second")
    assert again
    assert (again.lease.number, again.lease.attempt) == (abandoned.lease.number, 2)
    assert again.policy == abandoned.policy


def test_a_study_whose_last_trial_is_abandoned_is_served_again(
    address: str, make_record: Make
) -> None:
    """Protection: open studies are those with budget, and those with an abandoned trial."""
    store = make_store(address, make_record(budget={"trials": 1}))
    assert open_names(store) == ["small"]
    assert take(store, "small", "gone")
    assert store.open_studies() == []
    lapse(store)
    assert open_names(store) == ["small"]
    finish(address, "survivor")
    assert store.open_studies() == []


def test_a_trial_that_kills_its_workers_is_quarantined(address: str, make_record: Make) -> None:
    """Protection: the retry cap."""
    record = make_record(anchors={"bits": [4], "thresholds": [1.0]}, budget={"trials": 2})
    store = make_store(address, record)
    for _ in range(MAX_ATTEMPTS):
        poisoned = take(store, "small", "victim")
        assert poisoned
        assert poisoned.lease.number == 0
        lapse(store)
    finish(address, "survivor")
    ((number, reason),) = store.failures(store.get("small").id)
    assert number == 0
    assert f"quarantined: {MAX_ATTEMPTS} workers were lost on it" in reason
    assert recorded(store) == Counter([1])


def test_a_study_that_a_lost_worker_has_left_is_served_next(
    address: str, make_record: Make
) -> None:
    """Protection: a trial that nobody holds is not counted as one in hand."""
    store = make_store(address, make_record())
    store.create(make_record(name="other"))
    assert take(store, "small", "victim")
    assert open_names(store) == ["other", "small"]
    lapse(store)
    assert open_names(store) == ["small", "other"]
    assert take(store, "other", "survivor")
    assert open_names(store) == ["small", "other"]


def freeze(address: str, started: str, result: str) -> None:
    logging.basicConfig(filename=result, level=logging.WARNING)
    store = StudyStore(address, lease_s=LEASE_S)
    registration = Registration(store.claims, "frozen")
    claim = take(store, "small", "frozen")
    assert claim
    registration.hold(claim.lease)
    evaluation = measure(claim.policy)
    Path(started).touch()
    time.sleep(0.5)  # frozen here, for longer than the lease
    while not Path(started + ".thawed").exists():
        time.sleep(0.01)
    try:
        store.record(claim, evaluation)
    except LeaseLost as error:
        logging.warning("refused: %s", error)
    registration.close()


def test_a_frozen_workers_late_result_is_refused(
    address: str, make_record: Make, tmp_path: Path
) -> None:
    """Protection: recording is fenced on worker and attempt."""
    store = make_store(address, make_record())
    started, log = tmp_path / "started", tmp_path / "log"
    frozen = start(freeze, address, str(started), str(log))
    while not started.exists():
        time.sleep(0.01)
    os.kill(frozen.pid or 0, signal.SIGSTOP)
    time.sleep(LEASE_S + 0.3)
    registration = Registration(store.claims, "survivor")
    taken = take(store, "small", "survivor")
    assert taken
    assert (taken.lease.number, taken.lease.attempt) == (0, 2)
    registration.hold(taken.lease)
    (tmp_path / "started.thawed").touch()
    os.kill(frozen.pid or 0, signal.SIGCONT)
    frozen.join(60)
    assert frozen.exitcode == 0
    assert "refused: trial 0: the lease of frozen (attempt 1) ran out" in log.read_text()
    assert store.evaluations(store.get("small").id) == []
    store.record(taken, measure(taken.policy))
    registration.close()
    finish(address, "survivor")
    assert recorded(store) == Counter(range(12))


def test_a_living_worker_keeps_its_lease(address: str, make_record: Make) -> None:
    """Protection: the renewing thread."""
    store = make_store(address, make_record(budget={"trials": 1}))
    registration = Registration(store.claims, "slow")
    claim = take(store, "small", "slow")
    assert claim
    registration.hold(claim.lease)
    time.sleep(2 * LEASE_S)
    assert take(store, "small", "eager") is None
    store.record(claim, measure(claim.policy))
    registration.close()
    assert recorded(store) == Counter([0])


def shifted_clock(address: str, hours: int) -> None:
    import studies.store.claims
    import studies.store.workers

    class Shifted(studies.store.claims.datetime):  # type: ignore[name-defined, misc]
        @classmethod
        def now(cls, tz: object = None) -> object:
            return super().now(tz) + timedelta(hours=hours)

    studies.store.claims.datetime = studies.store.workers.datetime = Shifted  # type: ignore[misc]
    genuine = time.time
    time.time = lambda: genuine() + hours * 3600
    finish(address, f"shifted{hours}")


def test_clocks_an_hour_off_take_nothing_from_others(
    address: str, make_record: Make, tmp_path: Path
) -> None:
    """Protection: leases run by the database's clock."""
    store = make_store(address, make_record())
    registration = Registration(store.claims, "right")
    mine = take(store, "small", "right")
    assert mine
    registration.hold(mine.lease)
    early, late = start(shifted_clock, address, -1), start(shifted_clock, address, 1)
    time.sleep(3 * LEASE_S)
    store.record(mine, measure(mine.policy))
    registration.hold(None)
    for process in (early, late):
        process.join(60)
        assert process.exitcode == 0
    registration.close()
    assert recorded(store) == Counter(range(12))
    assert store.progress(store.get("small").id).lost == 0


# Workers


def test_a_name_belongs_to_one_living_worker(address: str, make_record: Make) -> None:
    """Protection: registration refuses a name that is alive."""
    store = make_store(address, make_record())
    first = Registration(store.claims, "ann")
    with pytest.raises(Exception, match="'ann' is in use"):
        Registration(store.claims, "ann")
    (seen,) = list_workers(store.database)
    assert (seen.name, seen.alive, seen.study, seen.pid) == ("ann", True, None, os.getpid())
    claim = take(store, "small", "ann")
    assert claim
    (seen,) = list_workers(store.database)
    assert (seen.study, seen.trial) == ("small", 0)
    first.close()
    assert list(list_workers(store.database)) == []
    Registration(store.claims, "ann").close()


def register_and_die(address: str) -> None:
    store = StudyStore(address)  # with the usual, long lease
    Registration(store.claims, "victim")
    take(store, "small", "victim")
    os.kill(os.getpid(), signal.SIGKILL)


def test_this_hosts_dead_workers_are_known_at_once(address: str, make_record: Make) -> None:
    """Protection: the launcher looks for processes that are gone, and need not wait a lease."""
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": 1}))
    victim = start(register_and_die, address)
    victim.join(60)
    assert take(store, "small", "other") is None
    assert release_dead(store.database) == 1
    claim = take(store, "small", "other")
    assert claim
    assert claim.lease.attempt == 2
    assert list(list_workers(store.database)) == []


# Disks and databases that take no more


def test_a_read_only_store_is_refused_and_the_result_kept(address: str, make_record: Make) -> None:
    """Protection: the error is known for what it is, and nothing is half-written."""
    store = make_store(address, make_record())
    claim = take(store, "small", "tester")
    assert claim
    engine = store.database.engine

    def read_only(connection: object, _: object) -> None:
        if store.database.is_sqlite:
            connection.execute("pragma query_only = on")  # type: ignore[attr-defined]
        else:
            connection.read_only = True  # type: ignore[attr-defined]

    engine.dispose()
    event.listen(engine, "connect", read_only)
    with pytest.raises(BadInput, match="is read-only: make it writable"):
        store.record(claim, measure(claim.policy))
    assert store.evaluations(store.get("small").id) == []
    event.remove(engine, "connect", read_only)
    engine.dispose()
    store.record(claim, measure(claim.policy))
    assert recorded(store) == Counter([0])


def test_a_full_disk_loses_nothing(tmp_path: Path, make_record: Make) -> None:
    """Protection: one transaction a record, and a result that is kept until it lands."""
    store = make_store(f"sqlite:///{tmp_path}/s.db", make_record())
    claim = take(store, "small", "tester")
    assert claim
    evaluation = measure(claim.policy)
    engine = store.database.engine

    def limit(connection: object, pages: int) -> None:
        connection.execute(f"pragma max_page_count = {pages}")  # type: ignore[attr-defined]

    with engine.connect() as connection:
        used = connection.exec_driver_sql("pragma page_count").scalar()
    engine.dispose()
    event.listen(engine, "connect", full := lambda connection, _: limit(connection, used))
    many = [("harvest", evaluation)] * 50
    with pytest.raises(StoreUnavailable, match="the disk is full: free some room"):
        store.record(claim, evaluation, *many, patience_s=0.2)
    assert store.evaluations(store.get("small").id) == []
    with store.database.read() as reading:
        state = reading.execute(select(trials.c.finished).where(trials.c.number == 0)).scalar()
    assert state is None
    event.remove(engine, "connect", full)
    engine.dispose()
    store.record(claim, evaluation, *many)
    assert len(store.evaluations(store.get("small").id)) == 51


# Who is who, and clocks that are set


def register(address: str, name: str, ready: str) -> None:
    """Sign on, take a trial, and live."""
    store = StudyStore(address)
    registration = Registration(store.claims, name)
    claim = take(store, "small", name)
    assert claim
    registration.hold(claim.lease)
    Path(ready).touch()
    time.sleep(120)


@pytest.fixture
def living(address: str, make_record: Make, tmp_path: Path) -> Iterator[StudyStore]:
    """A store on which another process works, with the usual lease."""
    store = StudyStore(address, create=True)
    store.create(make_record())
    process = start(register, address, "living", str(tmp_path / "ready"))
    while not (tmp_path / "ready").exists():
        assert process.is_alive()
        time.sleep(0.02)
    yield store
    process.kill()
    process.join()


def change_worker(store: StudyStore, **values: object) -> None:
    store.database.write(lambda connection: connection.execute(update(workers).values(**values)))


def test_a_clock_that_is_set_forward_makes_nobody_dead(living: StudyStore) -> None:
    """Protection: a process is known by its start in ticks, which nobody can set."""
    # What a process that started at 12:00 by a clock that now says 13:00 wrote at 12:00.
    change_worker(living, started=datetime.now(UTC) - timedelta(hours=1))
    assert release_dead(living.database) == 0
    assert [one.name for one in list_workers(living.database)] == ["living"]


@pytest.mark.parametrize("place", ["another PID namespace", "another boot"])
def test_a_worker_of_elsewhere_is_not_looked_for_here(living: StudyStore, place: str) -> None:
    """Protection: process numbers are compared within one boot and one PID namespace only."""
    boot, _, namespace = machine().partition(" ")
    other = f"{boot} pid:[1]" if place == "another PID namespace" else f"{'0' * 36} {namespace}"
    change_worker(living, machine=other, pid=2**22 + 1)  # no such number here
    assert release_dead(living.database) == 0
    assert [one.alive for one in list_workers(living.database)] == [True]
    change_worker(living, machine=machine())
    assert release_dead(living.database) == 1


def test_a_number_that_was_given_again_is_another_process(living: StudyStore) -> None:
    change_worker(living, pid=os.getpid())
    assert release_dead(living.database) == 1
    assert list(list_workers(living.database)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_a_launch_in_another_container_of_the_same_host_name_signs_off_nobody(
    living: StudyStore, address: str
) -> None:
    """The real thing: another PID namespace, with this one's host name."""
    script = (
        "import sys; from studies.store.database import Database\n"
        "from studies.store.workers import release_dead\n"
        f"print(release_dead(Database({address!r}, create=False)))"
    )
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(inside, text=True, capture_output=True, env=command_env(), check=False)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.strip() == "0", done.stderr
    assert [one.alive for one in list_workers(living.database)] == [True]


def test_a_clock_that_was_set_back_holds_no_killed_workers_trial(
    address: str, make_record: Make
) -> None:
    """Protection: a lease that seems longer than it was made has run out."""
    store = make_store(address, make_record(budget={"trials": 1}))
    registration = Registration(store.claims, "gone")
    claim = take(store, "small", "gone")
    assert claim
    # An hour before the hour that is now gone again.
    store.database.write(
        lambda connection: connection.execute(
            update(trials).values(lease_until=trials.c.lease_until + 3600)
        )
    )
    assert open_names(store) == ["small"]
    again = take(store, "small", "other")
    assert again
    assert (again.lease.number, again.lease.attempt) == (0, 2)
    change_worker(store, alive_until=workers.c.alive_until + 500)
    assert [one.alive for one in list_workers(store.database)] == [False]
    registration.close()


def test_a_longer_lease_than_ones_own_still_holds(address: str, make_record: Make) -> None:
    """A worker with another setting must not be robbed: the lease says how long it was made."""
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": 1}))
    assert take(store, "small", "patient")
    hasty = StudyStore(address, lease_s=LEASE_S)
    assert open_names(hasty) == []
    assert take(hasty, "small", "hasty") is None


def test_rows_of_workers_long_gone_are_removed(address: str, make_record: Make) -> None:
    store = make_store(address, make_record())
    now, hour = now_seconds(), 3600
    rows = {"gone": now - 2 * LEASE_S, "long gone": now - hour, "of a later clock": now + hour}

    def add(connection: Connection) -> None:
        for name, until in rows.items():
            connection.execute(
                insert(workers).values(
                    name=name, session="s", host="h", pid=1, machine="m", ticks=1,
                    started=datetime.now(UTC), alive_until=until, lease_s=LEASE_S,
                )
            )  # fmt: skip

    def names() -> list[str]:
        with store.database.read() as reading:
            return sorted(reading.scalars(select(workers.c.name)))

    store.database.write(add)
    assert [one.name for one in list_workers(store.database)] == ["gone"]
    assert len(names()) == 3
    registration = Registration(store.claims, "ann")
    assert names() == ["ann", "gone"]
    registration.close()
    store.database.write(lambda connection: connection.execute(delete(workers)))
    store.database.write(add)
    assert release_dead(store.database) == 0
    assert names() == ["gone"]


def test_a_worker_that_was_taken_for_lost_signs_on_again(address: str, make_record: Make) -> None:
    """Protection: whoever lives is seen, also after a long freeze."""
    store = make_store(address, make_record())
    registration = Registration(store.claims, "ann")
    store.database.write(lambda connection: connection.execute(delete(workers)))
    deadline = time.monotonic() + 20
    while [one.name for one in list_workers(store.database)] != ["ann"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    registration.close()
    assert list(list_workers(store.database)) == []


# Giving back, trying again


def test_giving_back_costs_no_attempt_and_no_budget(address: str, make_record: Make) -> None:
    """Protection: what was given back counts against nobody, however often."""
    store = make_store(address, make_record(budget={"trials": 2}))
    study = store.get("small").id
    for attempt in range(1, 3 * MAX_ATTEMPTS):
        claim = take(store, "small", f"worker{attempt}")
        assert claim
        assert (claim.lease.number, claim.lease.attempt) == (0, attempt)
        assert store.claims.give_back(claim.lease)
        with pytest.raises(LeaseLost):
            store.record(claim, measure(claim.policy))
        assert store.progress(study).running == 0
        assert open_names(store) == ["small"]
    finish(address, "survivor")
    assert recorded(store) == Counter([0, 1])
    progress = store.progress(study)
    assert (progress.finished, progress.failed, progress.lost) == (2, 0, 0)


def test_failed_trials_are_tried_again_within_the_budget(address: str, make_record: Make) -> None:
    """Protection: number, policy and place in the budget stay; attempts begin anew."""
    store = make_store(address, make_record(budget={"trials": 6}))
    study, policies = store.get("small").id, {}
    for number in range(6):
        claim = take(store, "small", "ann")
        assert claim
        policies[number] = claim.policy
        if number % 2:
            store.fail(claim, "it broke")
        else:
            store.record(claim, measure(claim.policy))
    assert store.progress(study).done
    assert open_names(store) == []
    revision = store.version("small").revision
    failed = store.storage.get_all_trials(study, states=[TrialState.FAIL])
    assert [trial.number for trial in failed] == [1, 3, 5]
    assert store.retry(study) == 3
    # Of what has been read before, nothing is taken for final.
    assert store.storage.get_trial(failed[0]._trial_id).state == TrialState.WAITING
    assert store.retry(study) == 0
    assert store.version("small").revision > revision
    assert store.failures(study) == []
    waiting = store.storage.get_all_trials(study, states=[TrialState.WAITING])
    assert [trial.number for trial in waiting] == [1, 3, 5]
    for number in (1, 3, 5):
        claim = take(store, "small", "bob")
        assert claim
        assert (claim.lease.number, claim.policy) == (number, policies[number])
        store.record(claim, measure(claim.policy))
    assert take(store, "small", "bob") is None
    assert recorded(store) == Counter(range(6))
    progress = store.progress(study)
    assert (progress.finished, progress.failed, progress.lost, progress.budget) == (6, 0, 0, 6)
    assert progress.done


def test_a_quarantined_trial_has_all_its_attempts_again(address: str, make_record: Make) -> None:
    store = make_store(address, make_record(budget={"trials": 1}))
    study = store.get("small").id
    for _ in range(2):
        for _ in range(MAX_ATTEMPTS):
            assert take(store, "small", "victim")
            store.database.write(
                lambda connection: connection.execute(update(trials).values(lease_until=1.0))
            )
        assert take(store, "small", "survivor") is None
        assert len(store.failures(study)) == 1
        assert store.retry(study) == 1
    finish(address, "survivor")
    assert recorded(store) == Counter([0])
