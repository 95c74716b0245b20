"""Studies in the store: creating them, changing them, recording results.

The one door to the database for workers and commands; what is asked of a study goes by its id.
Evaluated at least once, recorded exactly once: see :mod:`studies.store.claims`. The store knows no
sampler: who proposes policies holds a store, see :mod:`studies.work.proposing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from search.errors import BadInput, check_range
from search.results import Evaluation
from studies.config import MAX_TRIALS, parse_config
from studies.places import placed, relative
from studies.records import ANCHOR, Claim, Study, StudyGone, StudyRecord
from studies.store.claims import Claims
from studies.store.database import PATIENCE_S, Database
from studies.store.optuna_storage import StoreStorage
from studies.store.reader import StudyReader
from studies.store.refusals import forget_refusals
from studies.store.rows import evaluation_row, new_study_row
from studies.store.schema import evaluations, studies, trials

OBJECTIVES = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


class StudyStore(StudyReader):
    """All studies behind one address.

    Args:
        address: see :func:`studies.store.address.parse_url`.
        create: whether to make the tables where there are none.
        lease_s: how long a claim lasts unless it is renewed.
        patience_s: how long what only reads waits for a database that is away.
    """

    def __init__(
        self,
        address: str,
        *,
        create: bool = False,
        lease_s: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.address = address
        super().__init__(Database(address, create=create, patience_s=patience_s))
        self.storage = StoreStorage(self.database)
        self.claims = Claims(self.database) if lease_s is None else Claims(self.database, lease_s)

    # Studies

    def create(self, record: StudyRecord) -> Study | None:
        """Add a study with its queued anchors, in one transaction.

        Returns:
            None, and changes nothing, where there is a study of that name already.
        """
        anchors = record.anchors()
        space = record.space

        def add(connection: Connection) -> int:
            study_id: int = connection.execute(
                insert(studies)
                .values(
                    **{
                        **new_study_row(record.config.name, OBJECTIVES),
                        "system_attrs": {"study:metric_names": [record.metric, "gbops"]},
                        "record": self._named(record),
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
            return study_id

        try:
            return Study(self.database.write(add), record)
        except IntegrityError:
            return None

    def replace_record(self, study_id: int, record: StudyRecord) -> bool:
        """Let a study go on with its model and images elsewhere, or with mended images.

        Args:
            study_id: of the study.
            record: the same but for paths, reference and digest of the images.

        Returns:
            False, and changes nothing, where evaluations are recorded and the images are others.
        """
        recorded = select(evaluations.c.id).where(evaluations.c.study_id == study_id).limit(1)
        own = select(studies.c.record).where(studies.c.id == study_id).with_for_update()

        def change(connection: Connection) -> bool:
            before = connection.execute(own).scalar_one_or_none()
            if before is None:
                raise StudyGone(study_id)
            if before["data_digest"] != record.data_digest and connection.scalar(recorded):
                return False
            if (after := self._named(record)) != before:
                connection.execute(
                    update(studies)
                    .where(studies.c.id == study_id)
                    .values(record=after, revision=studies.c.revision + 1)
                )
            return True

        return self.database.write(change)

    def _named(self, record: StudyRecord) -> dict[str, Any]:
        """A record as the store keeps it, its paths relative to an SQLite file."""
        return replace(record, config=placed(record.config, relative, self.folder)).as_dict()

    def raise_budget(self, study_id: int, budget: int) -> Study:
        """Let the study go on to ``budget`` trials of its own if that is more than it has.

        Contributed trials come on top: they took nothing from the search. A stopped study goes on.

        Raises:
            BadInput: when it cannot have as many trials.
            StudyGone: when it was deleted.
        """
        check_range("budget", budget, 1, MAX_TRIALS, whole=True)
        contributed = _count_contributed(self.study(study_id))

        def change(connection: Connection) -> None:
            # Locked before it is counted: a contribution that comes meanwhile would be missed.
            connection.execute(
                select(studies.c.id).where(studies.c.id == study_id).with_for_update()
            )
            in_all = budget + connection.execute(contributed).scalar_one()
            # More could be written, but never be read again.
            check_range("budget with contributed trials", in_all, 1, MAX_TRIALS)
            connection.execute(
                update(studies)
                .where(studies.c.id == study_id, studies.c.budget < in_all)
                .values(budget=in_all, revision=studies.c.revision + 1)
            )

        self.database.write(change)
        return self.study(study_id)

    def stop(self, study_id: int) -> Study:
        """End the study's budget at the trials that workers have taken so far.

        Those that run are finished, no other begins. :meth:`raise_budget` lets it go on.

        Raises:
            BadInput: when none of its trials has begun.
            StudyGone: when it was deleted.
        """
        study = self.study(study_id)
        name, contributed = study.record.config.name, _count_contributed(study)

        def change(connection: Connection) -> None:
            # Locked before it is read: a claim that comes meanwhile waits, and finds no budget.
            claimed = connection.execute(
                select(studies.c.claimed).where(studies.c.id == study_id).with_for_update()
            ).scalar_one_or_none()
            if claimed is not None and claimed <= connection.execute(contributed).scalar_one():
                raise BadInput(
                    f"study {name!r} has not begun, so there is nothing to stop: archive it to "
                    "keep workers away"
                )
            connection.execute(
                update(studies)
                .where(studies.c.id == study_id, studies.c.budget > claimed)
                .values(budget=claimed, revision=studies.c.revision + 1)
            )

        self.database.write(change)
        return self.study(study_id)

    def retry(self, study_id: int) -> int:
        """Try failed trials again, and have workers that have given the study up serve it again.

        Returns:
            how many failed trials are queued again.

        Raises:
            StudyGone: when it was deleted.
        """
        forget_refusals(self.database, study_id)
        return self.claims.retry(study_id)

    def rename(self, study_id: int, new_name: str) -> None:
        """Give a study another name.

        Raises:
            BadInput: when the new name is taken or not allowed.
            StudyGone: when the study was deleted.
        """
        record = self.study(study_id).record
        fields = {**record.config.model_dump(mode="json"), "name": new_name}
        config = parse_config(fields, "new name")
        renamed = replace(record, config=config)
        try:
            self._change(
                study_id,
                name=new_name,
                record=renamed.as_dict(),
                revision=studies.c.revision + 1,
            )
        except IntegrityError:
            raise BadInput(f"study {new_name!r} exists: choose another name") from None

    def set_archived(self, study_id: int, archived: bool) -> None:
        """Hide a study from lists and from workers, or show it again.

        Raises:
            StudyGone: when it was deleted.
        """
        self._change(study_id, archived=datetime.now(UTC) if archived else None)

    def delete(self, study_id: int) -> None:
        """Remove a study with all its trials and evaluations, for good.

        Raises:
            StudyGone: when it was deleted before.
        """
        removed = self.database.write(
            lambda connection: (
                connection.execute(delete(studies).where(studies.c.id == study_id)).rowcount
            )
        )
        if not removed:
            raise StudyGone(study_id)

    def _change(self, study_id: int, **values: Any) -> None:
        changed = self.database.write(
            lambda connection: (
                connection.execute(
                    update(studies).where(studies.c.id == study_id).values(**values)
                ).rowcount
            )
        )
        if not changed:
            raise StudyGone(study_id)

    # Results

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
            StudyGone: when its study was deleted.
            BadInput: when a figure is not finite.
        """
        rows = [
            evaluation_row(source, each) for source, each in [(claim.source, evaluation), *more]
        ]
        values = (evaluation.value, evaluation.gbops)
        self.claims.record(claim.lease, values, rows, attributes or {}, patience_s)

    def fail(self, claim: Claim, reason: str, patience_s: float = PATIENCE_S) -> None:
        """End a trial whose evaluation raised an error; it counts against the budget."""
        self.claims.fail(claim.lease, reason, patience_s)


def _count_contributed(study: Study) -> Select[int]:
    """How many of a study's trials are methods', see :func:`studies.records.is_contributed`."""
    return select(func.count(trials.c.id)).where(
        trials.c.study_id == study.id,
        trials.c.state == TrialState.COMPLETE.value,
        trials.c.source.not_in([ANCHOR, study.record.config.sampler.name]),
    )
