"""A stopped study finishes what it has begun, begins nothing more, and can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest
from processes import fresh
from small_study import measure, open_names, take
from sqlalchemy import select

from search.errors import BadInput
from studies.config import MAX_TRIALS
from studies.records import Claim, StudyGone, StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.schema import studies
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]
BUDGET = 3000  # more than the workers below can do before they are stopped


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    store = StudyStore(address, create=True)
    store.create(make_record())
    return store


def claims(store: StudyStore, count: int) -> list[Claim]:
    proposer = Proposer(store, store.get("small"), "tester")
    taken = [proposer.claim("tester") for _ in range(count)]
    assert all(taken)
    return [claim for claim in taken if claim]


def test_running_trials_finish_and_no_new_one_begins(store: StudyStore) -> None:
    done, running, abandoned = claims(store, 3)
    store.record(done, measure(done.policy))
    assert store.stop(store.get("small").id).record.config.budget.trials == 3
    store.claims.give_back(abandoned.lease)
    again = take(store, "small", "other")  # begun before, so it is finished too
    assert again
    assert (again.lease.number, again.lease.attempt) == (abandoned.lease.number, 2)
    assert take(store, "small", "other") is None
    for claim in (running, again):
        store.record(claim, measure(claim.policy))
    assert take(store, "small", "tester") is None
    progress = store.progress(store.get("small").id)
    assert (progress.finished, progress.budget, progress.done) == (3, 3, True)
    assert store.open_studies() == []


def test_a_stopped_study_goes_on_when_its_budget_is_raised(store: StudyStore) -> None:
    for claim in claims(store, 5):
        store.record(claim, measure(claim.policy))
    store.stop(store.get("small").id)
    assert store.raise_budget(store.get("small").id, 4).record.config.budget.trials == 5
    assert store.raise_budget(store.get("small").id, 12).record.config.budget.trials == 12
    assert open_names(store) == ["small"]
    for claim in claims(store, 7):
        store.record(claim, measure(claim.policy))
    assert take(store, "small", "tester") is None
    assert {row.trial for row in store.evaluations(store.get("small").id)} == set(range(12))


def test_contributions_take_nothing_from_a_stopped_study(store: StudyStore) -> None:
    space = store.get("small").record.space
    given = [Contribution("method", measure(space.uniform(bits, 0.5))) for bits in (3, 5, 7)]
    contribute(store, store.get("small").id, given)
    claims(store, 2)
    assert store.stop(store.get("small").id).record.config.budget.trials == 2
    contribute(store, store.get("small").id, [Contribution("late", measure(space.uniform(6, 0.5)))])
    assert take(store, "small", "tester") is None
    assert store.raise_budget(store.get("small").id, 3).record.config.budget.trials == 3
    assert len(claims(store, 1)) == 1
    assert take(store, "small", "tester") is None


def test_stopping_twice_or_after_the_end_changes_nothing(store: StudyStore) -> None:
    claims(store, 4)
    first, revision = store.stop(store.get("small").id), _revision(store)
    assert store.stop(store.get("small").id) == first
    assert _revision(store) == revision


def test_readers_see_that_a_study_was_stopped(store: StudyStore) -> None:
    claims(store, 1)
    before = _revision(store)
    store.stop(store.get("small").id)
    assert _revision(store) == before + 1


def test_what_cannot_be_stopped_is_refused_and_stays(store: StudyStore) -> None:
    with pytest.raises(BadInput, match=r"has not begun.*archive it"):
        store.stop(store.get("small").id)
    assert store.get("small").record.config.budget.trials == 12


@pytest.mark.parametrize("budget", [0, -1, MAX_TRIALS + 1, 10**12, 4.5])
def test_a_budget_that_could_not_be_read_again_is_refused(store: StudyStore, budget: float) -> None:
    with pytest.raises(BadInput, match=f"budget = {budget}: give a whole number from 1 to"):
        store.raise_budget(store.get("small").id, budget)  # type: ignore[arg-type]
    assert store.get("small").record.config.budget.trials == 12


def test_contributions_may_not_lift_a_budget_over_the_limit(store: StudyStore) -> None:
    space = store.get("small").record.space
    given = [Contribution("method", measure(space.uniform(3, 0.5)))]
    contribute(store, store.get("small").id, given)
    with pytest.raises(BadInput, match=f"contributed trials = {MAX_TRIALS + 1}"):
        store.raise_budget(store.get("small").id, MAX_TRIALS)
    assert store.get("small").record.config.budget.trials == 12
    raised = store.raise_budget(store.get("small").id, MAX_TRIALS - 1)
    assert raised.record.config.budget.trials == MAX_TRIALS - 1


def test_what_was_deleted_is_neither_stopped_nor_raised(store: StudyStore) -> None:
    study = store.get("small")
    store.delete(study.id)
    for change in (store.stop, lambda study_id: store.raise_budget(study_id, 20)):
        with pytest.raises(StudyGone, match=f"number {study.id} of this store.*deleted"):
            change(study.id)


# Many at once


def work(address: str, name: str, barrier: Barrier, stopped: Event, notes: str) -> None:
    """Claim and fail trials until none is given, noting what was taken after the stop."""
    store = StudyStore(address)
    proposer = Proposer(store, store.get("small"), name)
    barrier.wait(60)
    taken, late = 0, 0
    while True:
        was_stopped = stopped.is_set()
        claim = proposer.claim(name)
        if claim is None:
            break
        taken, late = taken + 1, late + was_stopped
        store.fail(claim, "a test")
    Path(notes).write_text(f"{taken} {late}")


def test_the_stop_is_exact_while_workers_claim(
    address: str, make_record: Make, tmp_path: Path
) -> None:
    """Protection: the claimed trials are counted under the lock that claims take."""
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": BUDGET}))
    barrier, stopped = fresh().Barrier(4), fresh().Event()
    notes = [tmp_path / f"worker-{number}" for number in range(3)]
    processes = [
        fresh().Process(target=work, args=(address, note.name, barrier, stopped, str(note)))
        for note in notes
    ]
    for process in processes:
        process.start()
    barrier.wait(60)
    while store.progress(store.get("small").id).failed < 20:
        pass
    budget = store.stop(store.get("small").id).record.config.budget.trials
    stopped.set()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    taken, late = zip(*(map(int, note.read_text().split()) for note in notes), strict=True)
    assert 20 <= budget < BUDGET
    assert sum(taken) == budget
    assert sum(late) == 0
    progress = store.progress(store.get("small").id)
    assert (progress.budget, progress.failed, progress.running) == (budget, budget, 0)


def test_of_stops_and_raises_at_once_the_last_one_holds(store: StudyStore, address: str) -> None:
    """Protection: each is one transaction under the study's lock, so none sees half of another."""
    claims(store, 2)
    study_id = store.get("small").id
    barrier = threading.Barrier(4)
    problems: list[BaseException] = []

    def change(step: Callable[[StudyStore], object]) -> None:
        try:
            own = StudyStore(address)
            barrier.wait(60)
            for _ in range(10):
                step(own)
        except BaseException as problem:
            problems.append(problem)

    steps: list[Callable[[StudyStore], object]] = [
        lambda own: own.stop(study_id),
        lambda own: own.stop(study_id),
        lambda own: own.raise_budget(study_id, 12),
        lambda own: own.raise_budget(study_id, 7),
    ]
    threads = [threading.Thread(target=change, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert problems == []
    assert store.get("small").record.config.budget.trials in (2, 7, 12)
    assert store.stop(store.get("small").id).record.config.budget.trials == 2
    assert take(store, "small", "tester") is None


def _revision(store: StudyStore) -> int:
    with store.database.read() as connection:
        return int(connection.execute(select(studies.c.revision)).scalar_one())
