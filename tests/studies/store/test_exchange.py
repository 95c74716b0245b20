"""A study goes into a stock Optuna database and comes back the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from small_study import measure

from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.exchange import export_study, import_study
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    """Seven of twelve trials done, one in a worker's hands."""
    store = StudyStore(address, create=True)
    store.create(make_record())
    proposer = Proposer(store, store.get("small"), "tester")
    for index in range(7):
        claim = proposer.claim("tester")
        assert claim
        if index == 2:
            store.fail(claim, "no reason")
        else:
            store.record(claim, measure(claim.policy), ("harvest", measure(claim.policy)))
    assert proposer.claim("tester")
    return store


def test_it_comes_back_the_same(store: StudyStore, tmp_path: Path, make_record: Make) -> None:
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    assert export_study(store, store.get("small").id, theirs) == 7
    back = StudyStore(f"sqlite:///{tmp_path}/back.db", create=True)
    assert import_study(back, "small", theirs) == 7
    assert back.get("small").record == make_record()
    before, after = store.evaluations(store.get("small").id), back.evaluations(back.get("small").id)
    assert back.details(after) == store.details(before)
    assert [(row.trial, row.source) for row in after] == [(r.trial, r.source) for r in before]
    # The rest of the budget is still to be had.
    progress = back.progress(back.get("small").id)
    assert (progress.finished, progress.failed, progress.running) == (6, 1, 0)
    done, proposer = 0, Proposer(back, back.get("small"), "tester")
    while (claim := proposer.claim("tester")) is not None:
        back.record(claim, measure(claim.policy))
        done += 1
    assert done == 5


def test_optunas_own_tools_read_the_export(store: StudyStore, tmp_path: Path) -> None:
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    export_study(store, store.get("small").id, theirs)
    study = optuna.load_study(study_name="small", storage=theirs)
    ours = optuna.load_study(study_name="small", storage=store.storage)
    done = [trial for trial in ours.trials if trial.state.is_finished()]
    assert [trial.params for trial in study.trials] == [trial.params for trial in done]
    assert [trial.values for trial in study.trials] == [trial.values for trial in done]
    assert [trial.number for trial in study.best_trials]


def test_nothing_is_overwritten(store: StudyStore, tmp_path: Path) -> None:
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    export_study(store, store.get("small").id, theirs)
    with pytest.raises(BadInput, match="has a study 'small' already"):
        export_study(store, store.get("small").id, theirs)
    with pytest.raises(BadInput, match="'small' exists in this store"):
        import_study(store, "small", theirs)
    with pytest.raises(BadInput, match="no study 'other'"):
        import_study(store, "other", theirs)


def test_another_programs_study_comes_in_for_optuna(store: StudyStore, tmp_path: Path) -> None:
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(storage=theirs, study_name="theirs")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=4)
    assert import_study(store, "theirs", theirs) == 4
    here = optuna.load_study(study_name="theirs", storage=store.storage)
    assert [trial.params for trial in here.trials] == [trial.params for trial in study.trials]
    assert here.best_value == study.best_value
    assert store.names() == ["small"]
