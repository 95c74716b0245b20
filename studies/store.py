"""Studies in the store: creating them, handing out trials, recording results, reading them back.

The one door to the database for workers and commands. Evaluated at least once, recorded exactly
once: see :mod:`studies.claims`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from search.digest import digest_of
from search.errors import BadInput
from search.evaluation import Evaluation
from search.policy import Policy
from search.tables import SensitivityTables
from studies.claims import Claims
from studies.config import parse_config
from studies.database import PATIENCE_S, Database, StoreUnavailable
from studies.records import ANCHOR, Claim, Progress, Recorded, StudyRecord
from studies.rows import evaluation_row, new_study_row, params_value
from studies.samplers import SAMPLERS, make_sampler
from studies.schema import evaluations, now_seconds, studies, trials
from studies.storage import StoreStorage

OBJECTIVES = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


class StudyStore:
    """All studies behind one address.

    Args:
        address: see :func:`studies.database.parse_url`.
        create: whether to make the tables where there are none.
        lease_s: how long a claim lasts unless it is renewed.
    """

    def __init__(self, address: str, *, create: bool = False, lease_s: float | None = None) -> None:
        self.address = address
        self.database = Database(address, create=create)
        self.storage = StoreStorage(self.database)
        self.claims = Claims(self.database) if lease_s is None else Claims(self.database, lease_s)
        self.tables: dict[str, SensitivityTables] = {}
        """Sensitivities by study, where this process has them; samplers may use them."""
        self._known: dict[str, tuple[int, StudyRecord, optuna.Study]] = {}

    # Studies

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of all studies that exitbits made, sorted; archived ones only if asked for."""
        wanted = [studies.c.record.is_not(None)]
        if not archived:
            wanted.append(studies.c.archived.is_(None))
        with self.database.read() as connection:
            return list(connection.scalars(select(studies.c.name).where(*wanted).order_by("name")))

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

    def create(self, record: StudyRecord) -> bool:
        """Add a study with its queued anchors, in one transaction.

        Returns:
            False, and changes nothing, where another process has just made it.
        """
        anchors = record.anchors()
        space = record.space

        def add(connection: Connection) -> None:
            study_id = connection.execute(
                insert(studies)
                .values(
                    **{
                        **new_study_row(record.config.name, OBJECTIVES),
                        "system_attrs": {"study:metric_names": [record.metric, "gbops"]},
                        "record": record.as_dict(),
                        "budget": record.config.budget.trials,
                        "trials": len(anchors),
                        "revision": 1,
                    }
                )
                .returning(studies.c.id)
            ).scalar_one()
            rows = [
                {
                    "study_id": study_id,
                    "number": number,
                    "state": TrialState.WAITING.value,
                    "params": {},
                    "intermediate": {},
                    "user_attrs": {},
                    "system_attrs": {"fixed_params": space.encode(policy)},
                    "source": ANCHOR,
                    "revision": 1,
                }
                for number, policy in enumerate(anchors)
            ]
            if rows:
                connection.execute(insert(trials), rows)

        try:
            self.database.write(add)
        except IntegrityError:
            return False
        return True

    def raise_budget(self, name: str, budget: int) -> StudyRecord:
        """Let the study go on to ``budget`` trials of its own if that is more than it has.

        Contributed trials come on top: they took nothing from the search.
        """
        contributed = (
            select(func.count(trials.c.id))
            .where(
                trials.c.study_id == studies.c.id,
                trials.c.state == TrialState.COMPLETE.value,
                trials.c.source.not_in([ANCHOR, *SAMPLERS]),
            )
            .scalar_subquery()
        )

        def change(connection: Connection) -> None:
            # Locked before it is counted: a contribution that comes meanwhile would be missed.
            connection.execute(select(studies.c.id).where(studies.c.name == name).with_for_update())
            connection.execute(
                update(studies)
                .where(studies.c.name == name, studies.c.budget < budget + contributed)
                .values(budget=budget + contributed, revision=studies.c.revision + 1)
            )

        self.database.write(change)
        return self.get(name)

    def rename(self, name: str, new_name: str) -> None:
        """Give a study another name.

        Raises:
            BadInput: when there is none, or the new name is taken or not allowed.
        """
        record = self.get(name)
        fields = {**record.config.model_dump(mode="json"), "name": new_name}
        config = parse_config(fields, "new name")
        renamed = replace(record, config=config)
        try:
            self.database.write(
                lambda connection: connection.execute(
                    update(studies)
                    .where(studies.c.name == name)
                    .values(
                        name=new_name, record=renamed.as_dict(), revision=studies.c.revision + 1
                    )
                )
            )
        except IntegrityError:
            raise BadInput(f"study {new_name!r} exists: choose another name") from None
        self._known.pop(name, None)

    def set_archived(self, name: str, archived: bool) -> None:
        """Hide a study from lists and from workers, or show it again."""
        self.get(name)
        self.database.write(
            lambda connection: connection.execute(
                update(studies)
                .where(studies.c.name == name)
                .values(archived=datetime.now(UTC) if archived else None)
            )
        )

    def delete(self, name: str) -> None:
        """Remove a study with all its trials and evaluations, for good."""
        self.get(name)
        self.database.write(
            lambda connection: connection.execute(delete(studies).where(studies.c.name == name))
        )
        self._known.pop(name, None)

    # Work

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

    def claim(self, name: str, worker: str, stream: str | None = None) -> Claim | None:
        """Take the next trial, a queued or abandoned one before a new proposal.

        Args:
            name: of the study.
            worker: who takes it.
            stream: names the sampler's random stream, by default after the worker.

        Returns:
            None when the budget is spent or all that is left is in other workers' hands.
        """
        study_id, record, study = self._study(name, stream or worker)
        taken = self.claims.claim(study_id, worker)
        if taken is None:
            return None
        lease, trial = taken
        source = lease.source or record.config.sampler.name
        if trial.params:
            # An earlier attempt proposed already; this one only evaluates again.
            return Claim(name, lease, record.space.decode(trial.params), source)
        study._thread_local.cached_all_trials = None
        try:
            with self.storage.gathering(study_id, trial):
                policy = record.space.propose(Trial(study, lease.trial_id))
        except Exception:
            with suppress(StoreUnavailable):
                self.claims.give_back(lease)  # others need not wait until the lease runs out
            raise
        self.claims.send_proposal(lease, params_value(trial), trial.system_attrs, source)
        return Claim(name, lease, policy, source)

    def record(
        self,
        claim: Claim,
        evaluation: Evaluation,
        *more: tuple[str, Evaluation],
        attributes: Mapping[str, Any] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Record a result and end its trial, in one transaction.

        Args:
            claim: as handed out.
            evaluation: of the claimed policy.
            more: further evaluations that the same pass gave, each with its source.
            attributes: kept with the trial.
            patience_s: how long to wait for a database that is away.

        Raises:
            LeaseLost: when another worker has the trial.
            BadInput: when a figure is not finite.
        """
        found = [(claim.source, evaluation), *more]
        rows = [evaluation_row(source, one) for source, one in found]
        values = (evaluation.value, evaluation.gbops)
        self.claims.record(claim.lease, values, rows, attributes or {}, patience_s)

    def fail(self, claim: Claim, reason: str, patience_s: float = PATIENCE_S) -> None:
        """End a trial whose evaluation raised an error; it counts against the budget."""
        self.claims.fail(claim.lease, reason, patience_s)

    # Reading

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
            select(evaluations.c.id, trials.c.number, evaluations.c.revision, *columns)
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

    def _study(self, name: str, stream: str) -> tuple[int, StudyRecord, optuna.Study]:
        if name not in self._known:
            record = self.get(name)
            section = record.config.sampler
            # Every worker draws from a stream of its own.
            seed = int(digest_of([section.seed, stream])[:8], 16)
            from studies.knowledge import StudyKnowledge  # not needed by commands that read

            knowledge = StudyKnowledge(self, record, self.tables.get(name))
            study = optuna.load_study(
                study_name=name,
                storage=self.storage,
                sampler=make_sampler(section.name, seed, knowledge),
            )
            self._known[name] = (study._study_id, record, study)
        return self._known[name]


_NARROW = (
    "source", "digest", "value", "standard_error", "gbops", "gbops_p95", "mean_exit", "policy",
    "model", "checkpoint",
)  # fmt: skip
