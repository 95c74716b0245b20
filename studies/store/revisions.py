"""A study's next revision: every change takes one, so that readers miss none."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, update

from studies.store.schema import studies


def bump_revision(connection: Connection, study_id: int, **counters: int) -> Row[Any]:
    """Take the study's next revision, adding to its counters, and lock its row until the end.

    Raises:
        KeyError: when there is no such study.
    """
    changes = {name: studies.c[name] + step for name, step in counters.items()}
    row = connection.execute(
        update(studies)
        .where(studies.c.id == study_id)
        .values(revision=studies.c.revision + 1, **changes)
        .returning(studies.c.revision, studies.c.trials, studies.c.claimed, studies.c.budget)
    ).one_or_none()
    if row is None:
        raise KeyError(f"no study with id {study_id}")
    return row
