"""Changing a study that is there: stopping, raising, archiving; each is said in one line.

Studies are named by their id: a page that asks may be older than the study which has the name by
now.
"""

from __future__ import annotations

from search.errors import BadInput
from studies.config import MAX_TRIALS
from studies.store.writer import StudyStore
from studies.words import counted


def set_archived(store: StudyStore, study_id: int, archived: bool) -> str:
    """Hide a study from lists and workers, or show it again.

    Raises:
        StudyGone: when it was deleted.
    """
    name = store.name_of(study_id)
    store.set_archived(study_id, archived)
    if archived:
        return f"study {name!r} is archived: workers leave it alone"
    return f"study {name!r} is back"


def stop(store: StudyStore, study_id: int) -> str:
    """Let running trials finish and no new one begin.

    Raises:
        StudyGone: when it was deleted.
        BadInput: when it has not begun.
    """
    config = store.stop(study_id).record.config
    running = store.progress(study_id).running
    rest = f"; {counted(running, 'trial')} in hand will be finished" if running else ""
    return f"study {config.name!r} ends at {counted(config.budget.trials, 'trial')}{rest}"


def raise_budget(store: StudyStore, study_id: int, trials: int) -> str:
    """Let a study go on to ``trials`` of its own.

    Raises:
        StudyGone: when it was deleted.
        BadInput: when that is not more than it has.
    """
    config = store.study(study_id).record.config
    name, before = config.name, config.budget.trials
    budget = store.raise_budget(study_id, trials).record.config.budget.trials
    if budget <= before:
        raise BadInput(
            f"study {name!r} has a budget of {counted(before, 'trial')}: "
            f"{trials} is no more, give a higher number up to {MAX_TRIALS}"
        )
    return f"study {name!r} goes on to {counted(budget, 'trial')}"
