"""Studies and trials in the store, as an Optuna storage.

One trial is one row and its parameters are one value, so a trial costs the same however many
parameters it has. What has been read is kept, and only what changed since is read again: every
change takes the study's next revision.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import optuna
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from studies.store.database import Database
from studies.store.revisions import bump_revision
from studies.store.rows import frozen_trial, new_study_row, trial_row
from studies.store.schema import studies, trials

MAX_NAME = 512

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Known:
    """What has been read of one study."""

    def __init__(self, directions: list[StudyDirection]) -> None:
        self.directions = directions
        self.revision = -1
        self.by_number: dict[int, FrozenTrial] = {}
        self.distributions: dict[str, BaseDistribution] = {}


class StoreStorage(BaseStorage):
    """An Optuna storage on a store's database.

    Optuna's samplers, visualisations and optuna-dashboard work on it unchanged. It may be shared by
    threads.

    Args:
        database: opened by the caller.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock = threading.RLock()
        self._known: dict[int, _Known] = {}
        self._study_of_trial: dict[int, tuple[int, int]] = {}
        self._gathered: dict[int, FrozenTrial] = {}
        self._fresh: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"database": self.database}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["database"])  # type: ignore[misc]

    # Studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        name = f"{DEFAULT_STUDY_NAME_PREFIX}{uuid4()}" if study_name is None else study_name
        if "\x00" in name or len(name) > MAX_NAME:
            raise ValueError(
                f"study name {name[:40]!r}...: at most {MAX_NAME} characters, none of them NUL"
            )
        row = new_study_row(name, directions)
        try:
            study_id: int = self.database.write(
                lambda connection: connection.execute(
                    insert(studies).values(**row).returning(studies.c.id)
                ).scalar_one()
            )
        except IntegrityError:
            raise DuplicatedStudyError(
                f"Another study with name '{name}' already exists."
            ) from None
        return study_id

    def delete_study(self, study_id: int) -> None:
        removed = self.database.write(
            lambda connection: (
                connection.execute(delete(studies).where(studies.c.id == study_id)).rowcount
            )
        )
        with self._lock:
            self._known.pop(study_id, None)
        if not removed:
            raise KeyError(f"no study with id {study_id}")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(study_id, "user_attrs", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(study_id, "system_attrs", key, value)

    def _set_study_attr(self, study_id: int, column: str, key: str, value: Any) -> None:
        def change(connection: Connection) -> None:
            bump_revision(connection, study_id)
            attrs = connection.execute(
                select(studies.c[column]).where(studies.c.id == study_id)
            ).scalar_one()
            connection.execute(
                update(studies)
                .where(studies.c.id == study_id)
                .values({column: {**attrs, key: value}})
            )

        self.database.write(change)

    def get_study_id_from_name(self, study_name: str) -> int:
        return int(self._study_value(studies.c.id, studies.c.name == study_name, study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return str(self._study_value(studies.c.name, studies.c.id == study_id, study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._knowledge(study_id).directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        found = self._study_value(studies.c.user_attrs, studies.c.id == study_id, study_id)
        return dict(found)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        found = self._study_value(studies.c.system_attrs, studies.c.id == study_id, study_id)
        return dict(found)

    def _study_value(self, column: Any, condition: Any, shown: object) -> Any:
        with self.database.read() as connection:
            row = connection.execute(select(column).where(condition)).one_or_none()
        if row is None:
            raise KeyError(f"no study {shown!r}")
        return row[0]

    def get_all_studies(self) -> list[FrozenStudy]:
        columns = (
            studies.c.id, studies.c.name, studies.c.directions, studies.c.user_attrs,
            studies.c.system_attrs,
        )  # fmt: skip
        with self.database.read() as connection:
            rows = connection.execute(select(*columns).order_by(studies.c.id)).all()
        return [
            FrozenStudy(
                study_name=row.name,
                direction=None,
                directions=[StudyDirection(value) for value in row.directions],
                user_attrs=row.user_attrs,
                system_attrs=row.system_attrs,
                study_id=row.id,
            )
            for row in rows
        ]

    # Writing trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        values = trial_row(template_trial)
        values.setdefault("started", datetime.now(UTC))

        def add(connection: Connection) -> int:
            # Only trials that a worker takes count against a budget, so `claimed` stays.
            counters = bump_revision(connection, study_id, trials=1)
            added: int = connection.execute(
                insert(trials)
                .values(
                    **values,
                    study_id=study_id,
                    number=counters.trials - 1,
                    revision=counters.revision,
                )
                .returning(trials.c.id)
            ).scalar_one()
            return added

        return self.database.write(add)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        entry = [param_value_internal, distribution_to_json(distribution)]
        with self._lock:
            if trial_id in self._gathered:
                # Of the study's own space: what others have put beside it does not count.
                trial = self._gathered[trial_id]
                trial.params[param_name] = distribution.to_external_repr(param_value_internal)
                trial.distributions[param_name] = distribution
                return

        def change(row: Row[Any]) -> dict[str, Any]:
            self._check_distribution(row.study_id, param_name, distribution)
            return {"params": {**row.params, param_name: entry}}

        self._change(trial_id, change)

    def _check_distribution(self, study_id: int, name: str, distribution: BaseDistribution) -> None:
        if name not in self._knowledge(study_id).distributions:
            self._refresh(study_id)
        known = self._knowledge(study_id).distributions.get(name)
        if known is not None:
            check_distribution_compatibility(known, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        def change(row: Row[Any]) -> dict[str, Any] | None:
            if state == TrialState.RUNNING and row.state != TrialState.WAITING.value:
                return None
            changes: dict[str, Any] = {"state": state.value}
            if values is not None:
                changes["trial_values"] = list(values)
            if state == TrialState.RUNNING:
                changes["started"] = datetime.now(UTC)
            if state.is_finished():
                changes["finished"] = datetime.now(UTC)
            return changes

        return self._change(trial_id, change)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._change(
            trial_id,
            lambda row: {"intermediate": {**row.intermediate, str(step): intermediate_value}},
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._change(trial_id, lambda row: {"user_attrs": {**row.user_attrs, key: value}})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            if trial_id in self._gathered:
                self._gathered[trial_id].system_attrs[key] = value
                return
        self._change(trial_id, lambda row: {"system_attrs": {**row.system_attrs, key: value}})

    def _change(self, trial_id: int, change: Callable[[Row[Any]], dict[str, Any] | None]) -> bool:
        """Apply ``change`` to an unfinished trial; returns whether it wanted anything changed."""

        def step(connection: Connection) -> bool:
            owner = select(trials.c.study_id).where(trials.c.id == trial_id).scalar_subquery()
            counters = connection.execute(
                update(studies)
                .where(studies.c.id == owner)
                .values(revision=studies.c.revision + 1)
                .returning(studies.c.revision)
            ).one_or_none()
            if counters is None:
                raise KeyError(f"no trial with id {trial_id}")
            row = connection.execute(select(trials).where(trials.c.id == trial_id)).one()
            self.check_trial_is_updatable(trial_id, TrialState(row.state))
            changes = change(row)
            if changes is None:
                return False
            connection.execute(
                update(trials)
                .where(trials.c.id == trial_id)
                .values(**changes, revision=counters.revision)
            )
            return True

        return self.database.write(step)

    # Reading trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            if trial_id in self._gathered:
                return copy.deepcopy(self._gathered[trial_id])
            if (place := self._study_of_trial.get(trial_id)) and place[0] in self._known:
                known = self._known[place[0]].by_number.get(place[1])
                # A failed one may be tried again.
                if known is not None and known.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    return known
        with self.database.read() as connection:
            row = connection.execute(select(trials).where(trials.c.id == trial_id)).one_or_none()
        if row is None:
            raise KeyError(f"no trial with id {trial_id}")
        return frozen_trial(row)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        with self._lock:
            self._refresh(study_id)
            known = self._known[study_id].by_number
            found = [
                self._gathered.get(trial._trial_id, trial)
                for _, trial in sorted(known.items())
                if states is None or trial.state in states
            ]
            return copy.deepcopy(found) if deepcopy else found

    def _knowledge(self, study_id: int) -> _Known:
        with self._lock:
            if study_id not in self._known:
                directions = self._study_value(
                    studies.c.directions, studies.c.id == study_id, study_id
                )
                self._known[study_id] = _Known([StudyDirection(value) for value in directions])
            return self._known[study_id]

    def _refresh(self, study_id: int) -> None:
        """Read what changed since the last time, in one statement.

        A sampler asks for all trials more than once; one proposal is content with one reading.
        """
        with self._lock:
            if study_id in self._fresh:
                return
            known = self._knowledge(study_id)
            with self.database.read() as connection:
                # A running trial's parameters are written without a new revision.
                rows = connection.execute(
                    select(trials)
                    .where(
                        trials.c.study_id == study_id,
                        or_(
                            trials.c.revision > known.revision,
                            trials.c.state == TrialState.RUNNING.value,
                        ),
                    )
                    .order_by(trials.c.number)
                ).all()
            for row in rows:
                trial = frozen_trial(row)
                known.by_number[row.number] = trial
                known.revision = max(known.revision, row.revision)
                known.distributions.update(trial.distributions)
                self._study_of_trial[row.id] = (study_id, row.number)
            if any(self._study_of_trial[trial_id][0] == study_id for trial_id in self._gathered):
                self._fresh.add(study_id)

    # What workers add

    @contextmanager
    def gathering(self, study_id: int, trial: FrozenTrial) -> Iterator[FrozenTrial]:
        """Keep what a sampler writes of one running trial in memory; the caller sends it at once.

        Args:
            study_id: of the trial's study.
            trial: as claimed.

        Yields:
            the trial that collects parameters and system attributes.
        """
        with self._lock:
            self._knowledge(study_id)
            self._study_of_trial[trial._trial_id] = (study_id, trial.number)
            self._gathered[trial._trial_id] = trial
        try:
            yield trial
        finally:
            with self._lock:
                del self._gathered[trial._trial_id]
                self._fresh.discard(study_id)
