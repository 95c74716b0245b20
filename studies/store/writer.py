"""Studies in the store: creating them, handing out trials, recording results.

The one door to the database for workers and commands. Evaluated at least once, recorded exactly
once: see :mod:`studies.store.claims`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from search.bits.tables import SensitivityTables
from search.digest import digest_of
from search.errors import BadInput, check_range
from search.results import Evaluation
from studies.config import MAX_TRIALS, parse_config
from studies.live_front import LiveFront
from studies.records import ANCHOR, Claim, StudyRecord
from studies.samplers import SAMPLERS, make_sampler
from studies.store.claims import Claims
from studies.store.database import PATIENCE_S, Database, StoreUnavailable
from studies.store.optuna_storage import StoreStorage
from studies.store.reader import StudyReader
from studies.store.rows import evaluation_row, new_study_row, params_value
from studies.store.schema import studies, trials

OBJECTIVES = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


class StudyStore(StudyReader):
    """All studies behind one address.

    Args:
        address: see :func:`studies.store.database.parse_url`.
        create: whether to make the tables where there are none.
        lease_s: how long a claim lasts unless it is renewed.
    """

    def __init__(self, address: str, *, create: bool = False, lease_s: float | None = None) -> None:
        self.address = address
        super().__init__(Database(address, create=create))
        self.storage = StoreStorage(self.database)
        self.claims = Claims(self.database) if lease_s is None else Claims(self.database, lease_s)
        self._fronts: dict[str, LiveFront] = {}
        self.tables: dict[str, SensitivityTables] = {}
        """Sensitivities by study, where this process has them; samplers may use them."""
        self._known: dict[str, tuple[int, StudyRecord, optuna.Study]] = {}

    # Studies

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

        Contributed trials come on top: they took nothing from the search. A stopped study goes on.

        Raises:
            BadInput: when there is no such study, or it cannot have as many trials.
        """
        check_range("budget", budget, 1, MAX_TRIALS, whole=True)
        self.get(name)
        contributed = select(func.count(trials.c.id)).where(
            trials.c.study_id == studies.c.id,
            studies.c.name == name,
            trials.c.state == TrialState.COMPLETE.value,
            trials.c.source.not_in([ANCHOR, *SAMPLERS]),
        )

        def change(connection: Connection) -> None:
            # Locked before it is counted: a contribution that comes meanwhile would be missed.
            connection.execute(select(studies.c.id).where(studies.c.name == name).with_for_update())
            in_all = budget + connection.execute(contributed).scalar_one()
            # More could be written, but never be read again.
            check_range("budget with contributed trials", in_all, 1, MAX_TRIALS)
            connection.execute(
                update(studies)
                .where(studies.c.name == name, studies.c.budget < in_all)
                .values(budget=in_all, revision=studies.c.revision + 1)
            )

        self.database.write(change)
        return self.get(name)

    def stop(self, name: str) -> StudyRecord:
        """End the study's budget at the trials that workers have taken so far.

        Those that run are finished, no other begins. :meth:`raise_budget` lets it go on.

        Raises:
            BadInput: when there is no such study, or none of its trials has begun.
        """
        self.get(name)

        def change(connection: Connection) -> None:
            # Locked before it is read: a claim that comes meanwhile waits, and finds no budget.
            claimed = connection.execute(
                select(studies.c.claimed).where(studies.c.name == name).with_for_update()
            ).scalar_one_or_none()
            if claimed == 0:
                raise BadInput(
                    f"study {name!r} has not begun, so there is nothing to stop: archive it to "
                    "keep workers away"
                )
            connection.execute(
                update(studies)
                .where(studies.c.name == name, studies.c.budget > claimed)
                .values(budget=claimed, revision=studies.c.revision + 1)
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
        self._forget(name)

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
        self._forget(name)

    # Work

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

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        self._fronts.pop(name, None)

    def known_front(self, name: str) -> LiveFront:
        """The study's front as this process knows it, one for all who ask."""
        return self._fronts.setdefault(name, LiveFront(self, name))

    def _study(self, name: str, stream: str) -> tuple[int, StudyRecord, optuna.Study]:
        if name not in self._known:
            record = self.get(name)
            section = record.config.sampler
            # Every worker draws from a stream of its own.
            seed = int(digest_of([section.seed, stream])[:8], 16)
            from studies.samplers.knowledge import (
                StudyKnowledge,  # not needed by commands that read
            )

            knowledge = StudyKnowledge(self, record)
            study = optuna.load_study(
                study_name=name,
                storage=self.storage,
                sampler=make_sampler(section.name, seed, knowledge),
            )
            self._known[name] = (study._study_id, record, study)
        return self._known[name]
