"""Studies to and from a stock Optuna database, with everything that exitbits recorded.

What Optuna has no column for travels in user attributes: the study's record, and the evaluations of
each trial, or of none. A study that comes back is the same to the last figure; one that another
program made comes in as it is, for Optuna's own tools.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from search.errors import BadInput
from studies.places import absolute
from studies.records import StudyRecord
from studies.store.address import connectable, parse_url, shown
from studies.store.database import CONNECT_ARGUMENTS
from studies.store.rows import new_study_row, trial_row
from studies.store.schema import evaluations, studies, trials
from studies.store.writer import StudyStore
from studies.stored import check_study, checked_evaluations

FIXED = "fixed_params"  # Optuna's own name
RECORD, EVALUATIONS = "exitbits:record", "exitbits:evaluations"

_CARRIED = [
    column.name
    for column in evaluations.c
    if column.name not in ("id", "study_id", "trial_id", "revision")
]


def export_study(store: StudyStore, study_id: int, address: str) -> int:
    """Copy a study into a stock Optuna database.

    Args:
        store: where it is.
        study_id: of the study; the other database must have none of its name.
        address: of the other database.

    Returns:
        how many trials were copied. Trials in a worker's hands are left out.

    Raises:
        BadInput: when the other database cannot be written or has a study of that name.
        StudyGone: when the study was deleted.
    """
    record = store.study(study_id).record
    name = record.config.name
    recorded = _evaluations_by_trial(store, study_id)
    theirs = _open(store, address)
    try:
        copy = optuna.create_study(
            storage=theirs,
            study_name=name,
            directions=store.storage.get_study_directions(study_id),
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise BadInput(
            f"the other database has a study {name!r} already: rename one of the two"
        ) from None
    copied = [
        _with_attribute(trial, EVALUATIONS, recorded[trial._trial_id])
        for trial in store.storage.get_all_trials(study_id)
        if trial.state != TrialState.RUNNING
    ]
    copy.add_trials(_agreeing(copied))
    if alone := recorded[None]:
        copy.set_user_attr(EVALUATIONS, json.loads(json.dumps(alone)))
    # Last: a copy without it was cut short.
    budget = {"budget": record.config.budget.trials + store.progress(study_id).contributed}
    copy.set_user_attr(RECORD, {**record.as_dict(), **budget})
    return len(copied)


def import_study(store: StudyStore, name: str, address: str) -> int:
    """Copy a study from a stock Optuna database, in one transaction.

    Returns:
        how many trials were copied.

    Raises:
        BadInput: when there is no such study there, it is not what exitbits exports, or this store
            has the name already.
    """
    try:
        theirs = optuna.load_study(study_name=name, storage=_open(store, address, is_there=True))
    except KeyError:
        raise BadInput(f"the other database has no study {name!r}") from None
    try:
        attributes, directions = dict(theirs.user_attrs), theirs.directions
        copied = theirs.get_trials(deepcopy=True)
    except (KeyError, TypeError, ValueError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"study {name!r} of the other database cannot be read ({reason})") from error
    fields, given = attributes.pop(RECORD, None), attributes.pop(EVALUATIONS, [])
    carried = [trial.user_attrs.pop(EVALUATIONS, []) for trial in copied]
    try:
        record = _checked_record(name, fields, directions, attributes)
        alone = _checked_evaluations(record, given)
        recorded = [_checked_evaluations(record, rows) for rows in carried]
    except BadInput as error:
        raise BadInput(
            f"study {name!r} of the other database is none that exitbits can use ({error}): "
            "nothing was copied; export it again"
        ) from error

    def add(connection: Connection) -> None:
        study_id = connection.execute(
            insert(studies)
            .values(
                **{
                    **new_study_row(name, directions),
                    "user_attrs": attributes,
                    "record": record and record.as_dict(),
                    "budget": record and record.config.budget.trials,
                    "claimed": sum(trial.state.is_finished() for trial in copied),
                    "trials": len(copied),
                    "revision": len(copied) + bool(alone),
                }
            )
            .returning(studies.c.id)
        ).scalar_one()
        for number, (trial, rows) in enumerate(zip(copied, recorded, strict=True)):
            trial_id = connection.execute(
                insert(trials)
                .values(
                    **trial_row(trial),
                    study_id=study_id,
                    number=number,
                    revision=number + 1,
                    attempt=int(trial.state.is_finished()),
                    source=rows[0]["source"] if rows else None,
                )
                .returning(trials.c.id)
            ).scalar_one()
            if rows:
                keys = {"study_id": study_id, "trial_id": trial_id, "revision": number + 1}
                connection.execute(insert(evaluations), [{**row, **keys} for row in rows])
        if alone:
            keys = {"study_id": study_id, "trial_id": None, "revision": len(copied) + 1}
            connection.execute(insert(evaluations), [{**row, **keys} for row in alone])

    try:
        store.database.write(add)
    except IntegrityError:
        raise BadInput(f"study {name!r} exists in this store: rename one of the two") from None
    return len(copied)


def _checked_record(
    name: str, fields: Any, directions: Sequence[StudyDirection], attributes: dict[str, Any]
) -> StudyRecord | None:
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise BadInput("its record must be an object")
    check_study({
        "directions": [direction.value for direction in directions],
        "user_attrs": attributes,
        "system_attrs": {},
    })  # fmt: skip
    rest = {key: value for key, value in fields.items() if key != "budget"}
    return StudyRecord.from_dict(rest, name, fields.get("budget"))


def _checked_evaluations(record: StudyRecord | None, given: Any) -> list[dict[str, Any]]:
    if record is not None:
        return checked_evaluations(given, record.ledger.check)
    if given:
        raise BadInput("it has evaluations and no record: the export was cut short")
    return []


def _evaluations_by_trial(
    store: StudyStore, study_id: int
) -> dict[int | None, list[dict[str, Any]]]:
    """What every trial recorded; what belongs to none stands under None."""
    columns = [evaluations.c[name] for name in _CARRIED]
    statement = (
        select(evaluations.c.trial_id, *columns)
        .where(evaluations.c.study_id == study_id)
        .order_by(evaluations.c.id)
    )
    recorded: dict[int | None, list[dict[str, Any]]] = defaultdict(list)
    with store.database.read() as connection:
        for trial_id, *values in connection.execute(statement):
            row = dict(zip(_CARRIED, values, strict=True))
            if row["checkpoint"] is not None and store.folder is not None:
                row["checkpoint"] = absolute(row["checkpoint"], store.folder)
            recorded[trial_id].append(row)
    return recorded


def _with_attribute(trial: FrozenTrial, key: str, value: list[dict[str, Any]]) -> FrozenTrial:
    if value:
        trial.user_attrs[key] = json.loads(json.dumps(value))
    return trial


def _agreeing(copied: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials as a stock database takes them, where a name stands for one kind of parameter.

    Queued values of another kind, which do not fit the study's space, stay as what Optuna keeps
    of a queued trial that no sampler has seen yet.
    """
    kinds: dict[str, BaseDistribution] = {}
    for trial in sorted(copied, key=lambda trial: trial.state != TrialState.COMPLETE):
        try:
            for name, distribution in trial.distributions.items():
                check_distribution_compatibility(kinds.setdefault(name, distribution), distribution)
        except ValueError:
            trial.system_attrs[FIXED] = {**trial.params}
            trial.params, trial.distributions = {}, {}
    return copied


def _open(store: StudyStore, address: str, *, is_there: bool = False) -> RDBStorage:
    """The other database; one that is to be read is not made where there is none."""
    url = parse_url(address, store=store.address)
    if is_there and url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise BadInput(f"no database at {str(url.database)!r}: name one that Optuna made")
    try:
        arguments = {} if url.get_backend_name() == "sqlite" else dict(CONNECT_ARGUMENTS)
        return RDBStorage(
            connectable(url).render_as_string(hide_password=False),
            engine_kwargs={"connect_args": arguments},
            skip_table_creation=is_there,
        )
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", cause)).splitlines()[0]
        raise BadInput(
            f"cannot open {shown(url)} as an Optuna database ({reason}): name another"
        ) from error
