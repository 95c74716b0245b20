"""Who has given which study up, and why; and which studies nobody serves for that.

A worker that fails a study by itself, whatever the policy, gives the study up. What it says
outlives it, until somebody has the study tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, ScalarSelect, and_, delete, exists, insert, or_, select, update

from studies.records import StudyGone
from studies.store.database import Database
from studies.store.schema import lasts, refusals, studies, workers

MAX_REASON = 500


def blocking_reason() -> ScalarSelect[str]:
    """Of a row of ``studies``: the last refusal's reason where no living worker serves it, or null.

    A study that nobody has given up merely waits for workers.
    """
    theirs = refusals.alias()
    given_up = (
        exists()
        .where(theirs.c.study_id == studies.c.id, theirs.c.worker == workers.c.name)
        .correlate(studies, workers)
    )
    served = (
        exists()
        .where(
            lasts(workers.c.alive_until, workers.c.lease_s),
            or_(workers.c.serves.is_(None), workers.c.serves == studies.c.name),
            ~given_up,
        )
        .correlate(studies)
    )
    return (
        select(refusals.c.reason)
        .where(and_(refusals.c.study_id == studies.c.id, ~served))
        .order_by(refusals.c.since.desc(), refusals.c.worker)
        .limit(1)
        .correlate(studies)
        .scalar_subquery()
    )


def refusals_by_worker(database: Database) -> Mapping[str, Mapping[str, str]]:
    """Of every worker that has given studies up: their names, and why."""
    statement = select(refusals.c.worker, studies.c.name, refusals.c.reason).join(studies)
    found: dict[str, dict[str, str]] = {}
    with database.read() as connection:
        for worker, study, reason in connection.execute(statement.order_by(studies.c.name)):
            found.setdefault(worker, {})[study] = reason
    return found


def has_refused(database: Database, study_id: int, worker: str) -> bool:
    """Whether the worker has given the study up, and nobody has had it tried again since."""
    statement = select(refusals.c.reason).where(
        refusals.c.study_id == study_id, refusals.c.worker == worker
    )
    with database.read() as connection:
        return connection.execute(statement).first() is not None


def refuse(database: Database, study_id: int, worker: str, reason: str) -> None:
    """Note that a worker has given a study up.

    Raises:
        StudyGone: when the study was deleted.
    """

    def step(connection: Connection) -> None:
        _bump(connection, study_id)
        # Of workers that are gone the last one's words are enough.
        living = select(workers.c.name).where(lasts(workers.c.alive_until, workers.c.lease_s))
        connection.execute(
            delete(refusals).where(
                refusals.c.study_id == study_id,
                or_(refusals.c.worker == worker, refusals.c.worker.not_in(living)),
            )
        )
        connection.execute(
            insert(refusals).values(
                study_id=study_id,
                worker=worker,
                reason=reason[:MAX_REASON],
                since=datetime.now(UTC),
            )
        )

    database.write(step)


def forget_refusals(database: Database, study_id: int) -> None:
    """Have every worker try a study again, those that run as well.

    Raises:
        StudyGone: when the study is being deleted.
    """
    theirs = refusals.c.study_id == study_id
    with database.read() as connection:
        if connection.execute(select(refusals.c.worker).where(theirs)).first() is None:
            return

    def step(connection: Connection) -> None:
        _bump(connection, study_id)
        connection.execute(delete(refusals).where(theirs))

    database.write(step)


def _bump(connection: Connection, study_id: int) -> None:
    """Take the study's next revision, and lock its row until the end."""
    changed = connection.execute(
        update(studies).where(studies.c.id == study_id).values(revision=studies.c.revision + 1)
    )
    if not changed.rowcount:
        raise StudyGone(study_id)
