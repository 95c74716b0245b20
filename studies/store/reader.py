"""Reading the store: which studies there are, how far they are, what was found.

Nothing here changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from optuna.trial import TrialState
from sqlalchemy import and_, case, exists, func, or_, select

from search.errors import BadInput
from search.policy import Policy
from search.results import Evaluation
from studies.records import Progress, Recorded, StudyRecord
from studies.store.database import Database
from studies.store.schema import evaluations, now_seconds, studies, trials


class StudyReader:
    """All studies of one database, to be read.

    Args:
        database: open, with its tables.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    # Studies

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of all studies that exitbits made, sorted; archived ones only if asked for."""
        return list(self.versions(archived=archived))

    def find(self, name: str) -> StudyRecord | None:
        """The study called ``name``, or None."""
        with self.database.read() as connection:
            row = connection.execute(
                select(studies.c.id, studies.c.record, studies.c.budget).where(
                    studies.c.name == name
                )
            ).one_or_none()
        if row is None:
            return None
        if row.record is None:
            raise BadInput(f"study {name!r} was made by another program: choose another --name")
        return StudyRecord.from_dict(row.record, row.budget)

    def get(self, name: str) -> StudyRecord:
        """The study called ``name``.

        Raises:
            BadInput: when there is none.
        """
        record = self.find(name)
        if record is None:
            names = ", ".join(self.names(archived=True)) or "none yet"
            raise BadInput(f"no study {name!r} in this store: there are {names}")
        return record

    def open_studies(self) -> list[str]:
        """Studies with something to claim, the one with the fewest running trials first.

        Asks only for running trials, which are few, whatever the size of a study.
        """
        running = and_(
            trials.c.study_id == studies.c.id, trials.c.state == TrialState.RUNNING.value
        )
        in_hand = select(func.count()).where(running).scalar_subquery()
        abandoned = exists().where(running, trials.c.lease_until < now_seconds())
        statement = (
            select(studies.c.name)
            .where(
                studies.c.record.is_not(None),
                studies.c.archived.is_(None),
                or_(studies.c.claimed < studies.c.budget, abandoned),
            )
            .order_by(in_hand, studies.c.id)
        )
        with self.database.read() as connection:
            return list(connection.scalars(statement))

    def versions(self, *, archived: bool = False) -> dict[str, tuple[int, int]]:
        """:meth:`version` of every study of :meth:`names`, in one statement."""
        wanted = [studies.c.record.is_not(None)]
        if not archived:
            wanted.append(studies.c.archived.is_(None))
        statement = (
            select(studies.c.name, studies.c.id, studies.c.revision)
            .where(*wanted)
            .order_by(studies.c.name)
        )
        with self.database.read() as connection:
            return {name: (number, revision) for name, number, revision in
                    connection.execute(statement)}  # fmt: skip

    # One study

    def version(self, name: str) -> tuple[int, int]:
        """Id and revision of a study: the first tells it from another that had its name, the second
        stands still while nothing changes.

        Raises:
            BadInput: when there is none.
        """
        statement = select(studies.c.id, studies.c.revision).where(studies.c.name == name)
        with self.database.read() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            self.get(name)  # says which there are
        assert row is not None
        return row.id, row.revision

    def progress(self, name: str) -> Progress:
        """Count the trials of a study by state, in one statement."""
        again = case((trials.c.attempt > 1, trials.c.attempt - 1), else_=0)
        statement = (
            select(studies.c.budget, trials.c.state, func.count(trials.c.id), func.sum(again))
            .select_from(studies.outerjoin(trials))
            .where(studies.c.name == name)
            .group_by(studies.c.id, studies.c.budget, trials.c.state)
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        if not rows:
            raise BadInput(f"no study {name!r} in this store")
        counts = {state: count for _, state, count, _ in rows}
        return Progress(
            budget=rows[0][0],
            finished=counts.get(TrialState.COMPLETE.value, 0),
            running=counts.get(TrialState.RUNNING.value, 0),
            failed=counts.get(TrialState.FAIL.value, 0),
            lost=sum(int(lost or 0) for _, _, _, lost in rows),
        )

    def failures(self, name: str) -> Sequence[tuple[int, str]]:
        """Number and reason of every failed trial."""
        statement = (
            select(trials.c.number, trials.c.reason)
            .select_from(trials.join(studies))
            .where(studies.c.name == name, trials.c.state == TrialState.FAIL.value)
            .order_by(trials.c.number)
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        return [(number, reason or "unknown") for number, reason in rows]

    def evaluations(self, name: str, since: int = 0) -> list[Recorded]:
        """Evaluations recorded after revision ``since``, in the order of their recording."""
        columns = [evaluations.c[column] for column in _NARROW]
        statement = (
            select(
                evaluations.c.id,
                trials.c.number,
                evaluations.c.revision,
                *columns,
                trials.c.finished,
            )
            .select_from(
                evaluations.outerjoin(trials, evaluations.c.trial_id == trials.c.id).join(
                    studies, evaluations.c.study_id == studies.c.id
                )
            )
            .where(studies.c.name == name, evaluations.c.revision > since)
            .order_by(evaluations.c.revision, evaluations.c.id)
        )
        with self.database.read() as connection:
            return [Recorded(*row) for row in connection.execute(statement)]

    def pending(self, name: str) -> list[Policy]:
        """Policies that have been proposed and are in workers' hands."""
        space = self.get(name).space
        statement = (
            select(trials.c.params)
            .select_from(trials.join(studies))
            .where(studies.c.name == name, trials.c.state == TrialState.RUNNING.value)
        )
        with self.database.read() as connection:
            rows = list(connection.scalars(statement))
        # Another program may be half way through its own; bits and thresholds are numbers, whose
        # internal values are themselves.
        names = space.encode(space.narrowest()).keys()
        return [
            space.decode({name: params[name][0] for name in names})
            for params in rows
            if names <= params.keys()
        ]

    def details(self, rows: Sequence[Recorded]) -> list[Evaluation]:
        """The whole evaluations behind ``rows``, in one statement."""
        statement = select(evaluations.c.id, evaluations.c.detail).where(
            evaluations.c.id.in_([row.id for row in rows])
        )
        with self.database.read() as connection:
            found = {row.id: row.detail for row in connection.execute(statement)}
        return [
            Evaluation.from_dict({**json.loads(found[row.id]), "policy": row.policy.as_dict()})
            for row in rows
        ]


_NARROW = (
    "source", "digest", "value", "standard_error", "gbops", "gbops_p95", "mean_exit", "policy",
    "model", "checkpoint",
)  # fmt: skip
