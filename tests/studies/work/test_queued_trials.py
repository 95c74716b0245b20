"""A queued trial that does not fit the space fails with its reason, and nothing else happens."""

from __future__ import annotations

import math
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from fleet import Fleet
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from small_study import measure

from studies.records import StudyRecord
from studies.store.exchange import export_study, import_study
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]
Run = Callable[..., subprocess.CompletedProcess[str]]

BAD = (
    ({"w.block1": 99}, "w.block1 = 99: this space allows a whole number 2 to 8"),
    ({"w.block1": 4.5}, "w.block1 = 4.5: this space allows a whole number 2 to 8"),
    ({"w.block1": "wide"}, "w.block1 = 'wide': this space allows a whole number 2 to 8"),
    ({"w.block1": None}, "w.block1 = None"),
    ({"w.block1": True}, "w.block1 = True"),
    ({"t.exit1": math.nan}, "t.exit1 = nan: this space allows 0.3 to 1.0"),
    ({"t.exit1": math.inf}, "t.exit1 = inf"),
    ({"t.exit1": [0.5]}, "t.exit1 = [0.5]"),
    ({"w.blok1": 4}, "'w.blok1' is no value of this space"),
)


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    """A study whose queue is what tests put there."""
    made = StudyStore(address, create=True)
    made.create(make_record(anchors={"bits": [4], "thresholds": []}, budget={"trials": 12}))
    return made


def study_of(store: StudyStore) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=store.storage)


def work(store: StudyStore) -> Counter[int]:
    """Do all there is to do; which trials have a result."""
    proposer = Proposer(store, store.get("small"), "tester")
    done: Counter[int] = Counter()
    while claim := proposer.claim("tester"):
        store.record(claim, measure(claim.policy))
        done[claim.lease.number] += 1
    return done


def test_what_does_not_fit_fails_once_and_the_rest_is_done(
    store: StudyStore, tmp_path: Path
) -> None:
    for values, _ in BAD:
        study_of(store).enqueue_trial(values)
    study_of(store).enqueue_trial({"w.block1": 3, "t.exit1": 0.75})
    assert work(store) == Counter(range(len(BAD), 12))
    study = store.get("small")
    failures = store.failures(study.id)
    assert [number for number, _ in failures] == list(range(len(BAD)))
    for (_, reason), (_, words) in zip(failures, BAD, strict=True):
        assert reason.startswith("queued with what does not fit: ")
        assert words in reason
    progress = store.progress(study.id)
    assert (progress.finished, progress.failed, progress.lost) == (3, 9, 0)
    good = next(row for row in store.evaluations(study.id) if row.trial == len(BAD))
    assert (good.policy.bits.weights[0], good.policy.thresholds[0]) == (3, 0.75)

    # A stock database takes it all, what has not been tried as well.
    study_of(store).enqueue_trial({"w.block1": "wide", "t.exit1": math.nan})
    other = f"sqlite:///{tmp_path}/optuna.db"
    assert export_study(store, study.id, other) == 13
    again = StudyStore(f"sqlite:///{tmp_path}/again.db", create=True)
    assert import_study(again, "small", other) == 13
    copied = optuna.load_study(study_name="small", storage=other).trials
    assert Counter(trial.state for trial in copied) == {
        TrialState.COMPLETE: 3, TrialState.FAIL: 9, TrialState.WAITING: 1,
    }  # fmt: skip
    fixed = copied[-1].system_attrs["fixed_params"]
    assert fixed["w.block1"] == "wide"
    assert math.isnan(fixed["t.exit1"])


def queue(store: StudyStore, **values: tuple[Any, Any]) -> None:
    """Queue a trial with parameters of its own, which Optuna allows as well."""
    study_of(store).add_trial(
        create_trial(
            state=TrialState.WAITING,
            params={name: value for name, (value, _) in values.items()},
            distributions={name: distribution for name, (_, distribution) in values.items()},
        )
    )


def test_a_queued_trial_with_parameters_of_another_kind_fails_too(
    store: StudyStore, tmp_path: Path
) -> None:
    queue(store, **{"w.block1": (9, IntDistribution(2, 9))})
    queue(store, **{"w.block2": (4, IntDistribution(2, 8))})
    queue(store, other=("a", CategoricalDistribution(["a", "b"])))
    queue(store, **{"w.block1": ("wide", CategoricalDistribution(["wide"]))})
    assert work(store) == Counter(range(4, 12))
    reasons = [reason for _, reason in store.failures(store.get("small").id)]
    assert "w.block1 = 9" in reasons[0]
    assert "queued without a value for 'w.block1'" in reasons[1]
    assert "'other' is no value of this space" in reasons[2]
    assert "w.block1 = 'wide'" in reasons[3]
    other = f"sqlite:///{tmp_path}/optuna.db"
    assert export_study(store, store.get("small").id, other) == 12
    again = StudyStore(f"sqlite:///{tmp_path}/again.db", create=True)
    assert import_study(again, "small", other) == 12
    first, second = (
        [(row.trial, row.digest, row.value) for row in each.evaluations(1)]
        for each in (store, again)
    )
    assert first == second


def test_a_worker_goes_on_past_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, f"sqlite:///{tmp_path}/store.db", tmp_path / "cache")
    fleet.submit("small", 6)
    store = StudyStore(fleet.address)
    study_of(store).enqueue_trial({"w.block1": "wide"})
    worker = fleet.worker("ann", "--until-done", "--study", "small")
    assert worker.wait(60) == 0
    ((number, reason),) = store.failures(store.get("small").id)
    assert (number, store.progress(store.get("small").id).finished) == (4, 5)
    assert "w.block1 = 'wide'" in reason
    assert fleet.log("ann").count("does not fit") == 1
    assert "6 trials copied" in fleet.run("study", "export", "small", "sqlite:///other.db")
