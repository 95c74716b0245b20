"""The store hands every trial to one worker, keeps the budget exact, and loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from small_study import measure

from search.errors import BadInput
from studies.store import MAX_ATTEMPTS, StudyRecord, StudyStore

Make = Callable[..., StudyRecord]
FORK = multiprocessing.get_context("spawn")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(url: str, make_record: Make) -> StudyStore:
    store = StudyStore(url, create=True)
    store.create(make_record())
    return store


def serve(url: str, index: int) -> None:
    store = StudyStore(url)
    while (claim := store.claim("small", index)) is not None:
        store.record("small", claim, measure(claim.policy))


def claim_and_hang(url: str) -> None:
    StudyStore(url).claim("small", 0)
    time.sleep(600)


def lose_a_worker(url: str) -> None:
    """Let a real process take a trial, and kill it."""
    process = FORK.Process(target=claim_and_hang, args=(url,))
    process.start()
    store = StudyStore(url)
    before = store.progress("small").running
    while store.progress("small").running == before:
        time.sleep(0.05)
    # The claim ends when its worker is written down, still inside the lock that this waits for.
    assert store.release_lost("small") == 0
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


def test_a_study_comes_back_as_it_was_written(store: StudyStore, make_record: Make) -> None:
    assert store.get("small") == make_record()
    assert store.names() == ["small"]


def test_anchors_come_first_and_are_queued_once(store: StudyStore, make_record: Make) -> None:
    record = make_record()
    store.create(record)
    claims = [store.claim("small", 0) for _ in range(6)]
    sources = [claim.source for claim in claims if claim]
    assert sources == ["anchor"] * 4 + ["random"] * 2
    assert [claim.policy for claim in claims[:4] if claim] == record.anchors()


def test_an_evaluation_is_read_back_exactly(store: StudyStore) -> None:
    claim = store.claim("small", 0)
    assert claim
    evaluation = measure(claim.policy)
    store.record("small", claim, evaluation)
    (row,) = store.evaluations("small")
    assert row.evaluation == evaluation
    assert (row.trial, row.source) == (0, "anchor")


def test_many_processes_share_the_budget_exactly(url: str, store: StudyStore) -> None:
    workers = [FORK.Process(target=serve, args=(url, index)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    rows = store.evaluations("small")
    assert len(rows) == 12
    anchors = Counter(row.evaluation.policy.digest for row in rows if row.source == "anchor")
    assert sorted(anchors.values()) == [1] * 4  # nobody evaluated another's anchor
    assert store.progress("small").done
    assert store.claim("small", 0) is None


def test_a_lost_trial_is_queued_again_with_its_values(url: str, store: StudyStore) -> None:
    lose_a_worker(url)
    assert store.release_lost("small") == 1
    progress = store.progress("small")
    assert (progress.running, progress.failed, progress.lost) == (0, 0, 1)
    serve(url, 1)
    rows = store.evaluations("small")
    assert len(rows) == 12
    lost = store.get("small").anchors()[0].digest
    assert [row.source for row in rows if row.evaluation.policy.digest == lost] == ["anchor"]


def test_a_trial_that_kills_its_workers_ends_as_failed(url: str, make_record: Make) -> None:
    store = StudyStore(url, create=True)
    store.create(make_record(anchors={"bits": [4], "thresholds": [1.0]}, budget={"trials": 1}))
    for _ in range(MAX_ATTEMPTS):
        lose_a_worker(url)
        assert store.release_lost("small") == 1
    assert store.progress("small").done
    ((_, reason),) = store.failures("small")
    assert f"{MAX_ATTEMPTS}th time" in reason


def test_a_failed_evaluation_counts_and_keeps_its_reason(store: StudyStore) -> None:
    claim = store.claim("small", 0)
    assert claim
    store.fail("small", claim, "ValueError: no")
    assert store.progress("small").failed == 1
    assert store.failures("small") == [(0, "ValueError: no")]


def test_the_budget_can_grow_and_never_shrinks(store: StudyStore) -> None:
    assert store.raise_budget("small", 20).config.budget.trials == 20
    assert store.raise_budget("small", 5).config.budget.trials == 20


def test_another_programs_study_is_left_alone(url: str, make_record: Make) -> None:
    other = optuna.create_study(storage=url, study_name="small")
    other.set_user_attr("theirs", 1)
    store = StudyStore(url)
    with pytest.raises(BadInput, match="taken by another program"):
        store.create(make_record())
    assert store.names() == []
    assert other.user_attrs == {"theirs": 1}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("sqlite:///{folder}/none.db", "no store at"),
        ("sqlite://", "must be a file"),
        ("mysql://host/db", "SQLite file"),
        ("no url", "SQLite file"),
    ],
)
def test_stores_that_cannot_be_read_are_refused(tmp_path: Path, address: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        StudyStore(address.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("not a database, but mine " * 100)
    before = file.read_bytes()
    with pytest.raises(BadInput, match="cannot open store"):
        StudyStore(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == before


def test_the_log_is_written_ahead(url: str, store: StudyStore) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
