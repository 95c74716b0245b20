"""Leases: how trials are handed to workers, kept by them, and recorded exactly once.

A claim writes worker, attempt and an expiry by the database's clock into the trial. A trial whose
lease ran out goes to whoever claims next, as the next attempt; a result of an earlier attempt is
then refused, since recording is one conditional update on worker and attempt. Budget and claim
are one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, and_, insert, or_, select, update

from search.errors import ExitbitsError
from studies.records import Lease, StudyGone
from studies.store.database import Database
from studies.store.revisions import bump_revision
from studies.store.rows import frozen_trial, trial_row
from studies.store.schema import LEASE_S, evaluations, lasts, now_seconds, studies, trials

MAX_ATTEMPTS = 3

_WAITING, _RUNNING = TrialState.WAITING.value, TrialState.RUNNING.value


class LeaseLost(ExitbitsError):
    """Another worker has taken the trial over: this result is not recorded."""


@dataclass(frozen=True)
class Claims:
    """Hands out the trials of one store.

    Attributes:
        database: of the store.
        lease_s: how long a claim or a renewal lasts.
    """

    database: Database
    lease_s: float = LEASE_S

    def claim(self, study_id: int, worker: str) -> tuple[Lease, FrozenTrial] | None:
        """Take the next trial: a queued or abandoned one before a new one.

        Returns:
            None when the budget is spent or all that is left is in other workers' hands.

        Raises:
            StudyGone: when there is no such study any more.
        """
        while True:
            taken = self.database.write(
                lambda connection: self._claim(connection, study_id, worker)
            )
            if taken != "again":
                return taken  # type: ignore[return-value]

    def _claim(
        self, connection: Connection, study_id: int, worker: str
    ) -> tuple[Lease, FrozenTrial] | str | None:
        free = connection.execute(
            select(trials)
            .where(
                trials.c.study_id == study_id,
                or_(
                    trials.c.state == _WAITING,
                    and_(
                        trials.c.state == _RUNNING,
                        ~lasts(trials.c.lease_until, trials.c.lease_s),
                    ),
                ),
            )
            .order_by(trials.c.state, trials.c.number)  # abandoned ones before queued ones
            .limit(1)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        if free is not None and free.attempt - free.returned >= MAX_ATTEMPTS:
            self._quarantine(connection, study_id, free)
            return "again"
        is_first = free is None or free.attempt == 0
        counters = connection.execute(
            update(studies)
            .where(
                studies.c.id == study_id,
                # One that was begun before has its place in the budget already.
                studies.c.claimed < studies.c.budget if is_first else studies.c.id == study_id,
            )
            .values(
                revision=studies.c.revision + 1,
                claimed=studies.c.claimed + int(is_first),
                trials=studies.c.trials + int(free is None),
            )
            .returning(studies.c.revision, studies.c.trials)
        ).one_or_none()
        if counters is None:
            own = select(studies.c.id).where(studies.c.id == study_id)
            if connection.execute(own).first() is None:
                raise StudyGone(study_id)
            return None
        taken = {
            "state": _RUNNING,
            "worker": worker,
            "attempt": 1 if free is None else free.attempt + 1,
            "lease_until": now_seconds() + self.lease_s,
            "lease_s": self.lease_s,
            "started": datetime.now(UTC),
            "revision": counters.revision,
        }
        if free is None:
            statement: Any = insert(trials).values(
                **{**trial_row(None), **taken}, study_id=study_id, number=counters.trials - 1
            )
        else:
            statement = update(trials).where(trials.c.id == free.id).values(**taken)
        row = connection.execute(statement.returning(trials)).one()
        lease = Lease(study_id, row.id, row.number, row.attempt, worker, row.source)
        return lease, frozen_trial(row)

    def _quarantine(self, connection: Connection, study_id: int, row: Any) -> None:
        """End a trial that cost its workers' lives; it keeps its place in the budget."""
        revision = connection.execute(
            update(studies)
            .where(studies.c.id == study_id)
            .values(revision=studies.c.revision + 1)
            .returning(studies.c.revision)
        ).scalar_one()
        connection.execute(
            update(trials)
            .where(trials.c.id == row.id)
            .values(
                state=TrialState.FAIL.value,
                reason=f"quarantined: {MAX_ATTEMPTS} workers were lost on it, last {row.worker}",
                finished=datetime.now(UTC),
                lease_until=None,
                revision=revision,
            )
        )

    def send_proposal(self, lease: Lease, params: Any, system_attrs: Any, source: str) -> None:
        """Write what the sampler proposed, in one statement; others can see it from then on.

        Raises:
            LeaseLost: when the trial is another's by now.
            StudyGone: when the study was deleted meanwhile.
        """

        def step(connection: Connection) -> int:
            return connection.execute(
                update(trials)
                .where(*self._held(lease))
                .values(params=params, system_attrs=system_attrs, source=source)
            ).rowcount

        if self.database.write(step, one_statement=True):
            return
        own = select(studies.c.id).where(studies.c.id == lease.study_id)
        with self.database.read() as connection:
            if connection.execute(own).first() is None:
                raise StudyGone(lease.study_id)
        raise _lost(lease)

    def renew(self, lease: Lease) -> bool:
        """Hold the trial for another lease; False when it is another's by now."""

        def step(connection: Connection) -> int:
            return connection.execute(
                update(trials)
                .where(*self._held(lease))
                .values(lease_until=now_seconds() + self.lease_s, lease_s=self.lease_s)
            ).rowcount

        return bool(self.database.write(step, one_statement=True))

    def give_back(self, lease: Lease) -> bool:
        """Let the next claim have the trial at once; it is queued again as if nobody had had it.

        It keeps its place in the budget, and the attempt counts against nobody.
        """

        def step(connection: Connection) -> bool:
            try:
                revision = _next_revision(connection, lease.study_id)
            except StudyGone:
                return False
            given = connection.execute(
                update(trials)
                .where(*self._held(lease))
                .values(
                    state=_WAITING,
                    worker=None,
                    returned=trials.c.returned + 1,
                    lease_until=None,
                    revision=revision,
                )
            )
            return bool(given.rowcount)

        return self.database.write(step)

    def retry(self, study_id: int) -> int:
        """Queue every failed trial of a study again, with all its attempts before it.

        Each keeps its number, its policy and its place in the budget.

        Returns:
            how many there are.

        Raises:
            StudyGone: when the study was deleted.
        """

        def step(connection: Connection) -> int:
            revision = _next_revision(connection, study_id)
            return connection.execute(
                update(trials)
                .where(
                    trials.c.study_id == study_id,
                    trials.c.state == TrialState.FAIL.value,
                    trials.c.attempt > 0,  # else it was never taken, and has no place in the budget
                )
                .values(
                    state=_WAITING,
                    worker=None,
                    returned=trials.c.attempt,
                    reason=None,
                    finished=None,
                    revision=revision,
                )
            ).rowcount

        return self.database.write(step)

    def record(
        self,
        lease: Lease,
        values: Sequence[float],
        rows: Sequence[Mapping[str, Any]],
        attributes: Mapping[str, Any],
        patience_s: float,
    ) -> None:
        """Record a result: the trial's end and its evaluations, in one transaction.

        Args:
            lease: as claimed.
            values: one per objective.
            rows: columns of ``evaluations`` but those that the lease knows.
            attributes: added to the trial's user attributes.
            patience_s: how long to wait for a database that is away.

        Raises:
            LeaseLost: when another worker has the trial or has recorded it.
            StudyGone: when the study was deleted meanwhile.
        """
        ended = {"state": TrialState.COMPLETE.value, "trial_values": list(values)}
        self._end(lease, ended, rows, patience_s, attributes)

    def fail(self, lease: Lease, reason: str, patience_s: float) -> None:
        """End a trial whose evaluation raised an error; it keeps its place in the budget."""
        self._end(lease, {"state": TrialState.FAIL.value, "reason": reason}, (), patience_s)

    def _end(
        self,
        lease: Lease,
        changes: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        patience_s: float,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        def step(connection: Connection) -> bool:
            revision = _next_revision(connection, lease.study_id)
            added: dict[str, Any] = {}
            if attributes:
                own = select(trials.c.user_attrs).where(trials.c.id == lease.trial_id)
                added["user_attrs"] = {**(connection.scalar(own) or {}), **attributes}
            ended = connection.execute(
                update(trials)
                .where(*self._held(lease))
                .values(
                    **changes,
                    **added,
                    finished=datetime.now(UTC),
                    lease_until=None,
                    revision=revision,
                )
            ).rowcount
            if not ended:
                # The answer to an earlier commit of this very result may have been lost.
                return self._is_mine(connection, lease, changes["state"])
            if rows:
                common = {
                    "study_id": lease.study_id, "trial_id": lease.trial_id, "revision": revision,
                }  # fmt: skip
                connection.execute(insert(evaluations), [{**row, **common} for row in rows])
            return True

        if not self.database.write(step, patience_s):
            raise _lost(lease)

    @staticmethod
    def _held(lease: Lease) -> tuple[Any, ...]:
        """True of the trial's row as long as the lease's holder may still write it."""
        return (
            trials.c.id == lease.trial_id,
            trials.c.state == _RUNNING,
            trials.c.worker == lease.worker,
            trials.c.attempt == lease.attempt,
        )

    @staticmethod
    def _is_mine(connection: Connection, lease: Lease, state: int) -> bool:
        return bool(
            connection.execute(
                select(trials.c.id).where(
                    trials.c.id == lease.trial_id,
                    trials.c.state == state,
                    trials.c.worker == lease.worker,
                    trials.c.attempt == lease.attempt,
                )
            ).first()
        )


def _next_revision(connection: Connection, study_id: int) -> int:
    """Take the study's next revision, and lock its row until the transaction ends.

    Raises:
        StudyGone: when the study was deleted.
    """
    try:
        return int(bump_revision(connection, study_id).revision)
    except KeyError:
        raise StudyGone(study_id) from None


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"trial {lease.number}: the lease of {lease.worker} (attempt {lease.attempt}) ran out and "
        "another worker has it; this result is dropped"
    )
