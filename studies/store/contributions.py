"""Evaluations that no worker's trial gave: baselines, MAQEE's policies, recovered models.

What lies in the study's space becomes a finished trial, so that samplers learn from it; the budget
grows with it, since a contribution takes nothing from the search. What does not (full precision,
or a recovered checkpoint, whose figures say nothing about the study's own model) stands by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial, TrialState, create_trial
from sqlalchemy import Connection, insert, select, update

from search.results import Evaluation
from search.space import PolicySpace
from studies.places import relative
from studies.records import StudyGone
from studies.store.outage import Outage
from studies.store.rows import evaluation_row, trial_row
from studies.store.schema import evaluations, studies, trials
from studies.store.writer import StudyStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contribution:
    """One evaluation for a study.

    Attributes:
        source: name of the method.
        evaluation: on the study's search split.
        model, checkpoint: digest and file of a recovered model; None for the study's own.
        attributes: kept with the trial, where it becomes one.
    """

    source: str
    evaluation: Evaluation
    model: str | None = None
    checkpoint: Path | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def contribute(store: StudyStore, study_id: int, given: Sequence[Contribution]) -> int:
    """Record contributions, in one transaction; what the study has already is left as it is.

    Contributions with the same bits share a trial, whose parameters are the first one's. They took
    long to compute: a database that is away is waited for.

    Returns:
        how many evaluations were new.

    Raises:
        BadInput: when a figure is not finite.
        StudyGone: when the study was deleted.
    """
    outage = Outage(log.warning)
    space = outage.wait_out(lambda: store.study(study_id)).record.space
    rows = [_row(contribution, store.folder) for contribution in given]

    def add(connection: Connection) -> int:
        locked = update(studies).where(studies.c.id == study_id)
        if not connection.execute(locked.values(revision=studies.c.revision + 1)).rowcount:
            raise StudyGone(study_id)
        recorded = {
            tuple(row)
            for row in connection.execute(
                select(evaluations.c.source, evaluations.c.digest, evaluations.c.model).where(
                    evaluations.c.study_id == study_id
                )
            )
        }
        fresh = []
        for contribution, row in zip(given, rows, strict=True):
            name = (contribution.source, row["digest"], contribution.model)
            if name not in recorded:
                recorded.add(name)
                fresh.append((contribution, row))
        groups: dict[str, list[tuple[Contribution, dict[str, Any]]]] = {}
        for contribution, row in fresh:
            policy = contribution.evaluation.policy
            own = contribution.model is None and space.contains(policy)
            key = f"{contribution.source} {policy.bits.to_json()}" if own else ""
            groups.setdefault(key, []).append((contribution, row))
        alone = groups.pop("", [])
        counters = connection.execute(
            update(studies)
            .where(studies.c.id == study_id)
            .values(
                trials=studies.c.trials + len(groups),
                claimed=studies.c.claimed + len(groups),
                budget=studies.c.budget + len(groups),
            )
            .returning(studies.c.revision, studies.c.trials)
        ).one()
        common: dict[str, Any] = {"study_id": study_id, "revision": counters.revision}
        values = [{**row, **common, "trial_id": None} for _, row in alone]
        for number, members in enumerate(groups.values(), start=counters.trials - len(groups)):
            first = members[0][0]
            trial_id = connection.execute(
                insert(trials)
                .values(**_finished(space, first), **common, number=number)
                .returning(trials.c.id)
            ).scalar_one()
            values += [{**row, **common, "trial_id": trial_id} for _, row in members]
        if values:
            connection.execute(insert(evaluations), values)
        return len(values)

    return outage.wait_out(lambda: store.database.write(add))


def _row(given: Contribution, folder: Path | None) -> dict[str, Any]:
    checkpoint = None if given.checkpoint is None else str(given.checkpoint.absolute())
    if checkpoint is not None and folder is not None:
        checkpoint = relative(checkpoint, folder)
    row = evaluation_row(given.source, given.evaluation)
    return {**row, "model": given.model, "checkpoint": checkpoint}


def _finished(space: PolicySpace, given: Contribution) -> dict[str, Any]:
    """The columns of the finished trial that a contribution becomes."""
    asked = FixedTrial(space.encode(given.evaluation.policy))
    space.propose(asked)
    ended = create_trial(
        state=TrialState.COMPLETE,
        params=asked.params,
        distributions=asked.distributions,
        values=[given.evaluation.value, given.evaluation.gbops],
        user_attrs=given.attributes,
    )
    now = datetime.now(UTC)
    return {
        **trial_row(ended),
        "started": now,
        "finished": now,
        "source": given.source,
        "attempt": 1,
    }
