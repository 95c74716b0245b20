"""Reading the store: which studies there are, how far they are, what was found.

A name is resolved to a study once; everything else is asked for by the study's id. Nothing here
changes anything.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Text, and_, case, exists, func, or_, select, type_coerce

from search.errors import BadInput
from search.policy import Policy
from search.results import Evaluation
from search.space import PolicySpace
from studies.config import BudgetSection
from studies.places import absolute, placed
from studies.records import (
    EvaluationGone,
    EvaluationRow,
    NoSuchStudy,
    Progress,
    Study,
    StudyGone,
    StudyRecord,
    StudyVersion,
    UnreadableStudy,
    is_contributed,
)
from studies.store.database import Database
from studies.store.refusals import blocking_reason
from studies.store.schema import evaluations, lasts, refusals, studies, trials
from studies.stored import check_row, check_study, checked_detail

log = logging.getLogger(__name__)

MAX_IN_STATEMENT = 10_000  # SQLite takes 32,766 values, PostgreSQL 65,535


class StudyReader:
    """All studies of one database, to be read.

    Args:
        database: open, with its tables.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        file = Path(str(database.url.database)).absolute()
        self.folder = file.parent if database.is_sqlite else None
        """What paths in an SQLite store are relative to."""
        self._left_out: set[int] = set()  # which the log has named

    # From names to studies

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of all studies that exitbits made, sorted; archived ones only if asked for."""
        return [version.name for version in self.versions(archived=archived)]

    def find(self, name: str) -> Study | None:
        """The study that is called ``name`` now, or None.

        Raises:
            BadInput: when another program made it.
        """
        return self._study(studies.c.name == name)

    def get(self, name: str) -> Study:
        """The study that is called ``name`` now.

        Raises:
            NoSuchStudy: when there is none.
            BadInput: when another program made it.
        """
        study = self.find(name)
        if study is None:
            names = ", ".join(self.names(archived=True)) or "none yet"
            raise NoSuchStudy(f"no study {name!r} in this store: there are {names}")
        return study

    def version(self, name: str) -> StudyVersion:
        """Id and revision of the study that is called ``name`` now.

        Raises:
            NoSuchStudy, BadInput: as :meth:`get` does.
        """
        statement = _VERSION.where(studies.c.name == name, studies.c.record.is_not(None))
        with self.database.read() as connection:
            row = connection.execute(statement).one_or_none()
        if row is not None:
            return StudyVersion(*row)
        study = self.get(name)  # says which there are
        return StudyVersion(name, study.id, 0)  # made since: its first revision comes with a read

    def name_of(self, study_id: int) -> str:
        """What the study is called now, whether or not it can be read.

        Raises:
            StudyGone: when it was deleted.
        """
        statement = select(studies.c.name).where(studies.c.id == study_id)
        with self.database.read() as connection:
            name = connection.execute(statement).scalar_one_or_none()
        if name is None:
            raise StudyGone(study_id)
        return str(name)

    def versions(self, *, archived: bool = False) -> list[StudyVersion]:
        """:meth:`version` of every study of :meth:`names`, in one statement."""
        wanted = [studies.c.record.is_not(None)]
        if not archived:
            wanted.append(studies.c.archived.is_(None))
        return self._versions(wanted, studies.c.name)

    def open_studies(self, worker: str | None = None) -> list[StudyVersion]:
        """Studies with something to claim, the one with the fewest trials in hand first.

        Asks only for running and queued trials, which are few, whatever the size of a study.

        Args:
            worker: leaves out what this worker has given up.
        """
        own = trials.c.study_id == studies.c.id
        running = and_(own, trials.c.state == TrialState.RUNNING.value)
        held = lasts(trials.c.lease_until, trials.c.lease_s)
        in_hand = select(func.count()).where(running, held).scalar_subquery()
        abandoned = exists().where(running, ~held)
        wanted = [
            studies.c.record.is_not(None),
            studies.c.archived.is_(None),
            or_(studies.c.claimed < studies.c.budget, abandoned, exists().where(own, _BEGUN)),
        ]
        if worker is not None:
            wanted.append(~_refused_by(worker))
        return self._versions(wanted, in_hand, studies.c.id)

    def is_unfinished(self, worker: str) -> bool:
        """Whether any study may still have work for ``worker``, now or when another is lost."""
        begun = exists().where(
            trials.c.study_id == studies.c.id,
            or_(and_(trials.c.state == TrialState.RUNNING.value, trials.c.attempt > 0), _BEGUN),
        )
        statement = (
            select(studies.c.id)
            .where(
                studies.c.record.is_not(None),
                studies.c.archived.is_(None),
                or_(studies.c.claimed < studies.c.budget, begun),
                ~_refused_by(worker),
            )
            .limit(1)
        )
        with self.database.read() as connection:
            return connection.execute(statement).first() is not None

    def _versions(
        self, wanted: Sequence[ColumnElement[bool]], *order: ColumnElement[object]
    ) -> list[StudyVersion]:
        with self.database.read() as connection:
            rows = connection.execute(_VERSION.where(*wanted).order_by(*order)).all()
        return [StudyVersion(*row) for row in rows]

    def _study(self, condition: ColumnElement[bool]) -> Study | None:
        texts = [type_coerce(studies.c[name], Text).label(name) for name in _STUDY_JSON]
        columns = (studies.c.id, studies.c.name, studies.c.budget, *texts)
        complete = trials.c.state == TrialState.COMPLETE.value
        statement = (
            select(*columns, trials.c.source, func.count(trials.c.id).label("complete"))
            .select_from(studies.outerjoin(trials, (trials.c.study_id == studies.c.id) & complete))
            .where(condition)
            .group_by(studies.c.id, trials.c.source)
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        if not rows:
            return None
        row = rows[0]
        if row.record is None:
            raise BadInput(f"study {row.name!r} was made by another program: choose another --name")
        try:
            fields = {name: json.loads(row._mapping[name]) for name in _STUDY_JSON}
            record = fields.pop("record")
            check_study(fields)
            study = Study(row.id, StudyRecord.from_dict(record, row.name, row.budget))
        except (ValueError, RecursionError, BadInput) as error:
            raise UnreadableStudy(row.name, error) from error
        sampler = study.record.config.sampler.name
        contributed = sum(row.complete for row in rows if is_contributed(row.source, sampler))
        # At least one, for stores in which a study with contributions alone could be stopped.
        budget = BudgetSection(trials=max(1, row.budget - contributed))
        config = placed(study.record.config, absolute, self.folder)
        config = config.model_copy(update={"budget": budget})
        return Study(row.id, replace(study.record, config=config))

    # One study

    def study(self, study_id: int) -> Study:
        """The study as it is now.

        Raises:
            StudyGone: when it was deleted.
        """
        study = self._study(studies.c.id == study_id)
        if study is None:
            raise StudyGone(study_id)
        return study

    def progress(self, study_id: int) -> Progress:
        """Count the trials of a study by state and by who proposed them, in one statement.

        Raises:
            StudyGone: when it was deleted.
        """
        in_use = case((trials.c.state == TrialState.WAITING.value, 0), else_=1)
        gone = trials.c.attempt - trials.c.returned - in_use
        lost = func.sum(case((gone > 0, gone), else_=0))
        record = type_coerce(studies.c.record, Text).label("record")
        study = (studies.c.budget, record, blocking_reason().label("blocked"))
        group = (trials.c.state, trials.c.source)
        statement = (
            select(*study, *group, func.count(trials.c.id).label("trials"), lost.label("lost"))
            .select_from(studies.outerjoin(trials))
            .where(studies.c.id == study_id)
            .group_by(studies.c.id, *group)
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        if not rows:
            raise StudyGone(study_id)
        counts: Counter[int | None] = Counter()
        contributed, sampler = 0, _sampler(rows[0].record)
        for row in rows:
            counts[row.state] += row.trials
            if row.state == TrialState.COMPLETE.value:
                contributed += row.trials if is_contributed(row.source, sampler) else 0
        progress = Progress(
            budget=(rows[0].budget or 0) - contributed,
            finished=counts[TrialState.COMPLETE.value] - contributed,
            running=counts[TrialState.RUNNING.value],
            failed=counts[TrialState.FAIL.value],
            lost=sum(int(row.lost or 0) for row in rows),
            contributed=contributed,
        )
        return progress if progress.done else replace(progress, blocked=rows[0].blocked)

    def failures(self, study_id: int) -> Sequence[tuple[int, str]]:
        """Number and reason of every failed trial.

        Raises:
            StudyGone: when the study was deleted.
        """
        statement = (
            select(trials.c.number, trials.c.reason)
            .where(trials.c.study_id == study_id, trials.c.state == TrialState.FAIL.value)
            .order_by(trials.c.number)
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        if not rows:
            self._check_there(study_id)
        return [(number, reason or "unknown") for number, reason in rows]

    def evaluations(self, study_id: int, since: int = 0) -> list[EvaluationRow]:
        """Evaluations recorded after revision ``since``, in the order of their recording.

        What is no evaluation is left out, with a warning.

        Raises:
            StudyGone: when the study was deleted.
        """
        columns = [evaluations.c[column] for column in _NARROW]
        statement = (
            select(
                evaluations.c.id,
                trials.c.number,
                evaluations.c.revision,
                *columns,
                trials.c.finished,
            )
            .select_from(evaluations.outerjoin(trials, evaluations.c.trial_id == trials.c.id))
            .where(evaluations.c.study_id == study_id, evaluations.c.revision > since)
            .order_by(evaluations.c.revision, evaluations.c.id)
        )
        with self.database.read() as connection:
            found = connection.execute(statement).all()
        if not found:
            self._check_there(study_id)
        rows = []
        for row in found:
            try:
                check_row({name: row._mapping[name] for name in _NARROW})
            except BadInput as error:
                self._leave_out(row.id, error)
            else:
                rows.append(self._found(EvaluationRow(*row)))
        return rows

    def pending(self, study_id: int, space: PolicySpace) -> list[Policy]:
        """Policies that have been proposed and are in workers' hands; ``space`` is the study's."""
        statement = select(trials.c.params).where(
            trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING.value
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

    def details(self, rows: Sequence[EvaluationRow]) -> list[Evaluation]:
        """The whole evaluations behind ``rows``, a few thousand in a statement.

        Raises:
            EvaluationGone: when one was deleted with its study.
            BadInput: when one cannot be read.
        """
        details: dict[int, str] = {}
        with self.database.read() as connection:
            for start in range(0, len(rows), MAX_IN_STATEMENT):
                some = [row.id for row in rows[start : start + MAX_IN_STATEMENT]]
                wanted = evaluations.c.id.in_(some)
                statement = select(evaluations.c.id, evaluations.c.detail).where(wanted)
                details.update((row.id, row.detail) for row in connection.execute(statement))
        for row in rows:
            if row.id not in details:
                raise EvaluationGone(row.id)
        return [_whole(row, details[row.id]) for row in rows]

    def _leave_out(self, evaluation_id: int, reason: BadInput) -> None:
        if evaluation_id not in self._left_out:
            self._left_out.add(evaluation_id)
            log.warning("evaluation %d cannot be read and is left out: %s", evaluation_id, reason)

    def _found(self, row: EvaluationRow) -> EvaluationRow:
        """The row, its recovered checkpoint where it lies now."""
        if row.checkpoint is None or self.folder is None:
            return row
        return replace(row, checkpoint=absolute(row.checkpoint, self.folder))

    def _check_there(self, study_id: int) -> None:
        """Raise ``StudyGone`` unless there is such a study: of what it has none, it may be so."""
        with self.database.read() as connection:
            own = select(studies.c.id).where(studies.c.id == study_id)
            if connection.execute(own).first() is None:
                raise StudyGone(study_id)


def _refused_by(worker: str) -> ColumnElement[bool]:
    """Of a study: whether this worker has given it up."""
    return exists().where(refusals.c.study_id == studies.c.id, refusals.c.worker == worker)


# A trial that has its place in the budget and is queued again.
_BEGUN = and_(trials.c.state == TrialState.WAITING.value, trials.c.attempt > 0)


def _sampler(record: str | None) -> str | None:
    """Name of the study's sampler; None where that cannot be read, or another program made it."""
    try:
        return str(json.loads(record or "")["config"]["sampler"]["name"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def _whole(row: EvaluationRow, detail: str) -> Evaluation:
    try:
        return checked_detail(detail, row.policy)
    except BadInput as error:
        raise BadInput(
            f"evaluation {row.id} cannot be read ({error}): remove its row, or its study by "
            "'exitbits study delete'"
        ) from error


_STUDY_JSON = ("record", "directions", "user_attrs", "system_attrs")
_VERSION = select(
    studies.c.name, studies.c.id, studies.c.revision, blocking_reason().label("blocked")
)
_NARROW = (
    "source", "digest", "value", "standard_error", "gbops", "gbops_p95", "mean_exit", "policy",
    "model", "checkpoint",
)  # fmt: skip
