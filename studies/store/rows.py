"""Between the rows of the tables and the values that they stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Row

from search.cost import GIGA
from search.errors import BadInput
from search.results import Evaluation


def new_study_row(name: str, directions: Sequence[StudyDirection]) -> dict[str, Any]:
    """The columns of a study that has nothing yet."""
    return {
        "name": name,
        "directions": [direction.value for direction in directions],
        "user_attrs": {},
        "system_attrs": {},
        "created": datetime.now(UTC),
    }


def trial_row(trial: FrozenTrial | None) -> dict[str, Any]:
    """The columns of a trial, as Optuna gives it or as it begins."""
    if trial is None:
        return {
            "state": TrialState.RUNNING.value,
            "params": {},
            "intermediate": {},
            "user_attrs": {},
            "system_attrs": {},
        }
    return {
        "state": trial.state.value,
        "params": params_value(trial),
        "trial_values": trial.values,
        "intermediate": {str(step): value for step, value in trial.intermediate_values.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "started": _to_utc(trial.datetime_start),
        "finished": _to_utc(trial.datetime_complete),
    }


def params_value(trial: FrozenTrial) -> dict[str, list[Any]]:
    """All parameters of a trial as one value: name to internal value and distribution."""
    return {
        name: [distribution.to_internal_repr(trial.params[name]), _to_json(distribution)]
        for name, distribution in trial.distributions.items()
    }


def frozen_trial(row: Row[Any]) -> FrozenTrial:
    """A row of ``trials`` as Optuna's trial.

    Raises:
        BadInput: when it is none.
    """
    try:
        return _frozen_trial(row)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"trial {row.number} (row {row.id}) cannot be read ({type(error).__name__}: {error}): "
            "remove its row, or its study by 'exitbits study delete'"
        ) from error


def _frozen_trial(row: Row[Any]) -> FrozenTrial:
    distributions = {name: _from_json(text) for name, (_, text) in row.params.items()}
    return FrozenTrial(
        trial_id=row.id,
        number=row.number,
        state=TrialState(row.state),
        params={
            name: distributions[name].to_external_repr(value)
            for name, (value, _) in row.params.items()
        },
        distributions=distributions,
        user_attrs=row.user_attrs,
        system_attrs=row.system_attrs,
        value=None,
        values=row.trial_values,
        intermediate_values={int(step): value for step, value in row.intermediate.items()},
        datetime_start=_to_local(row.started),
        datetime_complete=_to_local(row.finished),
    )


# A study has few distributions and many trials: each text is parsed once.
_from_json = lru_cache(maxsize=4096)(json_to_distribution)


def _to_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _to_utc(time: datetime | None) -> datetime | None:
    """Optuna's times are local and without a zone."""
    return None if time is None else time.astimezone(UTC)


def _to_local(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone().replace(tzinfo=None)


def evaluation_row(source: str, evaluation: Evaluation) -> dict[str, Any]:
    """The columns of an evaluation but those that its trial gives.

    Raises:
        BadInput: when a figure is not finite.
    """
    detail = evaluation.as_dict()
    del detail["policy"]
    row: dict[str, Any] = {
        "source": source,
        "digest": evaluation.policy.digest,
        "value": evaluation.value,
        "standard_error": evaluation.standard_error,
        "gbops": evaluation.gbops,
        "gbops_p95": evaluation.cost.p95 / GIGA,
        "mean_exit": evaluation.mean_exit,
        "policy": evaluation.policy.to_json(),
    }
    for name, figure in row.items():
        if isinstance(figure, float) and not math.isfinite(figure):
            raise BadInput(
                f"evaluation of policy {row['digest'][:12]} has {name} {figure}: only finite "
                "figures are recorded; check the model and the data"
            )
    try:
        text = json.dumps(detail, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise BadInput(
            f"evaluation of policy {row['digest'][:12]} has a figure that is not finite: only "
            "finite figures are recorded; check the model and the data"
        ) from None
    return {**row, "detail": text}
