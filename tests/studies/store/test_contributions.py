"""Contributions: evaluations that no worker's trial gave, beside and among those that one did."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from processes import fresh
from small_study import grow, measure, open_names, take
from sqlalchemy import func, select

from search.errors import BadInput
from search.policy import Policy
from search.results import Evaluation
from search.space import PolicySpace
from studies.fronts import FrontSummary
from studies.records import EvaluationRow, StudyGone, StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.exchange import export_study, import_study
from studies.store.schema import evaluations, studies, trials
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]
BUDGET = 12
MODEL = "e" * 64


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    store = StudyStore(address, create=True)
    store.create(make_record())
    return store


def space_of(store: StudyStore) -> PolicySpace:
    return store.get("small").record.space


def uniform(store: StudyStore, bits: int, threshold: float = 0.8) -> Policy:
    return space_of(store).uniform(bits, threshold)


def full_precision(store: StudyStore) -> Policy:
    """No policy of the space, which goes up to 8 bits."""
    bits = dataclasses.replace(
        uniform(store, 8).bits, weights=(32, 32), activations=(32, 32), embed=32
    )
    return space_of(store).policy(bits, 0.8)


def baselines(store: StudyStore) -> list[Contribution]:
    """What a command would contribute: three uniform policies with exits and without."""
    found = [Contribution("full precision", measure(full_precision(store)))]
    for bits in (8, 5, 3):
        found.append(Contribution(f"W{bits}A{bits}", measure(uniform(store, bits, 1.0))))
        found += [
            Contribution(f"W{bits}A{bits}+exits", measure(uniform(store, bits, threshold)))
            for threshold in (0.4, 0.6, 0.9)
        ]
    return found


def recovered(store: StudyStore, bits: int = 3) -> Contribution:
    return Contribution(
        "MAQEE+recovery", measure(uniform(store, bits)), MODEL, Path("/models/r.safetensors")
    )


def claim_all(store: StudyStore, name: str = "small") -> list[tuple[int, str]]:
    """Claim and record until there is nothing left; number and source of every trial claimed."""
    done, proposer = [], Proposer(store, store.get(name), "tester")
    while (claim := proposer.claim("tester")) is not None:
        store.record(claim, measure(claim.policy))
        done.append((claim.lease.number, claim.source))
        assert len(done) < 1000
    return done


def counters(store: StudyStore) -> tuple[int, int, int, int]:
    """Budget, claimed and trials as the study's row has them, and the trials that there are."""
    with store.database.read() as connection:
        row = connection.execute(
            select(studies.c.budget, studies.c.claimed, studies.c.trials).where(
                studies.c.name == "small"
            )
        ).one()
        there = connection.execute(select(func.count(trials.c.id))).scalar_one()
    return (row.budget, row.claimed, row.trials, there)


def optuna_trials(store: StudyStore) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=store.storage).trials


def figures(rows: Sequence[EvaluationRow]) -> list[tuple[Any, ...]]:
    """Everything about rows but where they lie."""
    fields = [field.name for field in dataclasses.fields(EvaluationRow) if field.name != "id"]
    return [tuple(getattr(row, name) for name in fields if name != "revision") for row in rows]


# Trials and rows


def test_what_is_legal_becomes_a_finished_trial(store: StudyStore) -> None:
    evaluation = measure(uniform(store, 5, 0.7))
    attributes = {"maqee": {"iterates": [{"risk": 0.25, "policy": None}], "stops": {"0.1": "why"}}}
    assert contribute(
        store, store.get("small").id, [Contribution("MAQEE", evaluation, None, None, attributes)]
    )
    trial = optuna_trials(store)[-1]
    assert trial.state == TrialState.COMPLETE
    assert trial.number == 4  # after the four anchors
    assert trial.values == [evaluation.value, evaluation.gbops]
    assert trial.user_attrs == attributes
    assert trial.params == {
        "w.block1": 5, "w.block2": 5, "a.block1": 5, "a.block2": 5, "t.exit1": 0.7,
    }  # fmt: skip
    assert space_of(store).decode(trial.params) == evaluation.policy
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    (row,) = store.evaluations(store.get("small").id)
    assert (row.trial, row.source, row.model, row.checkpoint) == (4, "MAQEE", None, None)
    assert store.details([row]) == [evaluation]
    with store.database.read() as connection:
        kept = connection.execute(
            select(trials.c.source, trials.c.attempt, trials.c.worker, trials.c.lease_until).where(
                trials.c.number == 4
            )
        ).one()
    assert tuple(kept) == ("MAQEE", 1, None, None)


def test_its_distributions_are_those_of_a_claimed_trial(store: StudyStore) -> None:
    contribute(store, store.get("small").id, baselines(store))
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy))
    finished = [trial for trial in optuna_trials(store) if trial.state == TrialState.COMPLETE]
    claimed = next(trial for trial in finished if trial.number == 0)
    assert len(finished) == 1 + 6
    for trial in finished:
        assert trial.distributions == claimed.distributions
        assert list(trial.params) == list(claimed.params)


def test_what_is_outside_the_space_stands_by_itself(store: StudyStore) -> None:
    for policy in (
        full_precision(store),
        space_of(store).policy(dataclasses.replace(uniform(store, 4).bits, head=6), 0.8),
        uniform(store, 4).with_thresholds([0.1, 0.0]),  # below the lowest of the space
    ):
        evaluation = measure(policy)
        assert contribute(store, store.get("small").id, [Contribution("odd", evaluation)]) == 1
        row = store.evaluations(store.get("small").id)[-1]
        assert (row.trial, row.source, row.digest) == (None, "odd", policy.digest)
        assert store.details([row]) == [evaluation]
    assert counters(store) == (BUDGET, 0, 4, 4)
    assert store.progress(store.get("small").id).finished == 0


def test_a_recovered_models_policy_stands_by_itself_with_its_checkpoint(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    one = dataclasses.replace(recovered(store), checkpoint=Path("models/r.safetensors"))
    assert contribute(store, store.get("small").id, [one]) == 1
    (row,) = store.evaluations(store.get("small").id)
    # The file is found from wherever the store is read.
    assert row.checkpoint == str(tmp_path / "models" / "r.safetensors")
    assert (row.trial, row.model) == (None, MODEL)
    assert counters(store) == (BUDGET, 0, 4, 4)
    # Samplers propose for the study's own model and must not learn from another's figures.
    assert all(trial.state == TrialState.WAITING for trial in optuna_trials(store))


def test_the_same_bits_share_a_trial_within_their_source(store: StudyStore) -> None:
    found = baselines(store)
    assert contribute(store, store.get("small").id, found) == 13
    rows = store.evaluations(store.get("small").id)
    assert Counter(row.source for row in rows) == Counter(one.source for one in found)
    by_trial: dict[int | None, set[str]] = {}
    for row in rows:
        bits = json.dumps(row.policy.bits.as_dict())
        by_trial.setdefault(row.trial, set()).add(f"{row.source} {bits}")
    assert all(len(of) == 1 for of in by_trial.values())
    assert sorted(by_trial, key=str) == [4, 5, 6, 7, 8, 9, None]
    # The trial's parameters and values are the first one's.
    shared = [trial for trial in optuna_trials(store) if trial.number >= 4]
    assert [trial.params["t.exit1"] for trial in shared] == [1.0, 0.4] * 3
    firsts = [one for one in found[1:] if one.evaluation.policy.thresholds[0] in (0.4, 1.0)]
    assert [trial.values for trial in shared] == [
        [one.evaluation.value, one.evaluation.gbops] for one in firsts
    ]


def test_the_same_bits_in_two_calls_are_two_trials(store: StudyStore) -> None:
    for threshold in (0.4, 0.6):
        contribute(
            store,
            store.get("small").id,
            [Contribution("W4", measure(uniform(store, 4, threshold)))],
        )
    assert [row.trial for row in store.evaluations(store.get("small").id)] == [4, 5]
    assert counters(store) == (BUDGET + 2, 2, 6, 6)


def test_nothing_to_contribute_is_no_error(store: StudyStore) -> None:
    assert contribute(store, store.get("small").id, []) == 0
    assert counters(store) == (BUDGET, 0, 4, 4)


# Once


def test_what_is_there_already_is_left_as_it_is(store: StudyStore) -> None:
    found = [*baselines(store), recovered(store)]
    assert contribute(store, store.get("small").id, found) == 14
    rows, before = store.evaluations(store.get("small").id), counters(store)
    assert contribute(store, store.get("small").id, found) == 0
    assert store.evaluations(store.get("small").id) == rows
    assert counters(store) == before


def test_only_what_is_new_is_added(store: StudyStore) -> None:
    found = baselines(store)
    assert contribute(store, store.get("small").id, found[:5]) == 5
    assert contribute(store, store.get("small").id, found) == 8
    rows = store.evaluations(store.get("small").id)
    assert Counter((row.source, row.digest) for row in rows) == Counter(
        (one.source, one.evaluation.policy.digest) for one in found
    )


def test_source_and_model_tell_the_same_policy_apart(store: StudyStore) -> None:
    evaluation = measure(uniform(store, 4))
    variants = [
        Contribution("one", evaluation),
        Contribution("other", evaluation),
        Contribution("one", evaluation, MODEL, Path("r.safetensors")),
        Contribution("one", evaluation, "a" * 64, Path("s.safetensors")),
    ]
    for variant in variants:
        assert contribute(store, store.get("small").id, [variant]) == 1
    assert contribute(store, store.get("small").id, variants) == 0
    assert [row.model for row in store.evaluations(store.get("small").id)] == [
        None,
        None,
        MODEL,
        "a" * 64,
    ]


@pytest.mark.parametrize("legal", [True, False])
def test_one_that_is_given_twice_is_recorded_once(store: StudyStore, legal: bool) -> None:
    one = Contribution("W4", measure(uniform(store, 4) if legal else full_precision(store)))
    assert contribute(store, store.get("small").id, [one, one]) == 1
    assert len(store.evaluations(store.get("small").id)) == 1


def test_a_contribution_does_not_hide_behind_a_searched_trial(store: StudyStore) -> None:
    """The same policy may have been found by search: the method's own row is still there."""
    claim = take(store, "small", "tester")
    assert claim
    evaluation = measure(claim.policy)
    store.record(claim, evaluation)
    assert contribute(store, store.get("small").id, [Contribution("W8A8", evaluation)]) == 1
    assert [row.source for row in store.evaluations(store.get("small").id)] == ["anchor", "W8A8"]


# Budget


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("after", [0, 6, BUDGET])
def test_the_search_keeps_its_whole_budget(
    address: str, make_record: Make, sampler: str, after: int
) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record(sampler={"name": sampler}))
    grow(store, "small", after)
    assert contribute(store, store.get("small").id, [*baselines(store), recovered(store)]) == 14
    assert counters(store)[0] == BUDGET + 6
    assert (open_names(store) == ["small"]) is (after < BUDGET)
    rest = claim_all(store)
    assert len(rest) == BUDGET - after
    assert [source for _, source in rest] == (["anchor"] * 4 + [sampler] * 8)[after:]
    progress = store.progress(store.get("small").id)
    assert (progress.finished, progress.running, progress.budget) == (BUDGET, 0, BUDGET)
    assert progress.contributed == 6
    assert store.get("small").record.config.budget.trials == BUDGET
    assert progress.done
    numbers = [trial.number for trial in optuna_trials(store)]
    assert numbers == list(range(18))
    assert counters(store) == (18, 18, 18, 18)
    # Every trial but the recovered and the illegal ones has rows.
    assert {row.trial for row in store.evaluations(store.get("small").id)} == {None, *range(18)}


@pytest.mark.parametrize("finished", [0, BUDGET])
def test_a_raised_budget_counts_the_searchs_own_trials_only(
    store: StudyStore, finished: int
) -> None:
    grow(store, "small", finished)
    contribute(store, store.get("small").id, [*baselines(store), recovered(store)])
    for asked in (BUDGET, BUDGET + 3):
        raised = store.raise_budget(store.get("small").id, asked)
        assert raised.record.config.budget.trials == asked
        assert counters(store)[0] == asked + 6
    assert len(claim_all(store)) == BUDGET + 3 - finished
    assert store.progress(store.get("small").id).done


def test_contributions_alone_are_no_beginning(store: StudyStore) -> None:
    contribute(store, store.get("small").id, baselines(store))
    with pytest.raises(BadInput, match="has not begun"):
        store.stop(store.get("small").id)
    assert take(store, "small", "tester")
    assert store.stop(store.get("small").id).record.config.budget.trials == 1
    progress = store.progress(store.get("small").id)
    assert (progress.finished, progress.running, progress.budget) == (0, 1, 1)


def test_a_trial_in_a_workers_hands_is_not_disturbed(store: StudyStore) -> None:
    claim = take(store, "small", "tester")
    assert claim
    contribute(store, store.get("small").id, baselines(store))
    store.record(claim, measure(claim.policy))
    assert len(claim_all(store)) == BUDGET - 1


@pytest.mark.parametrize(("sampler", "learns"), [("tpe", True), ("random", False)])
def test_tpe_learns_from_contributions(
    address: str, make_record: Make, sampler: str, learns: bool
) -> None:
    """With one of two opposite sets of contributions, the same stream proposes differently."""
    proposals = []
    for name, bits in (("low", (2, 3)), ("high", (7, 8))):
        store = StudyStore(address, create=True)
        store.create(
            make_record(
                name=name, sampler={"name": sampler}, anchors={"bits": [4], "thresholds": [1.0]}
            )
        )
        space = store.get(name).record.space
        # More than TPE's random start-up, so that it must read them.
        seeds = [
            Contribution(f"seed {index}", measure(space.uniform(width, 0.5)))
            for index, width in enumerate(bits * 10)
        ]
        assert contribute(store, store.get(name).id, seeds) == 20
        proposer = Proposer(store, store.get(name), "same")
        for _ in range(4):
            claim = proposer.claim("tester")
            assert claim
            store.record(claim, measure(claim.policy))
            proposals.append((claim.source, claim.policy))
    assert [source for source, _ in proposals] == ["anchor", *[sampler] * 3] * 2
    assert (proposals[:4] != proposals[4:]) is learns


# Many at once


def contribute_in_parts(address: str, seed: int, barrier: Barrier) -> None:
    """Contribute the same things as the others, in another order, two at a time."""
    store = StudyStore(address)
    found = [*baselines(store), recovered(store)]
    own = [
        Contribution(f"process {seed}", measure(uniform(store, bits, 0.35 + seed / 100)))
        for bits in (3, 4, 5)
    ]
    mixed = [*found, *own]
    np.random.default_rng(seed).shuffle(mixed)  # type: ignore[arg-type]
    barrier.wait(60)
    for start in range(0, len(mixed), 2):
        contribute(store, store.get("small").id, mixed[start : start + 2])


def search_meanwhile(address: str, barrier: Barrier) -> None:
    store = StudyStore(address)
    store.get("small")
    barrier.wait(60)
    claim_all(store)


def test_nothing_is_lost_or_doubled_when_many_contribute_and_search_at_once(
    store: StudyStore, address: str
) -> None:
    barrier = fresh().Barrier(3)
    processes = [
        *(fresh().Process(target=contribute_in_parts, args=(address, n, barrier)) for n in (1, 2)),
        fresh().Process(target=search_meanwhile, args=(address, barrier)),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    claim_all(store)
    rows = store.evaluations(store.get("small").id)
    mine = [row for row in rows if row.source not in ("anchor", "random")]
    assert len(mine) == 13 + 1 + 2 * 3
    expected = Counter(one.source for one in [*baselines(store), recovered(store)])
    assert Counter(row.source for row in mine) == expected + Counter(
        {"process 1": 3, "process 2": 3}
    )
    assert len({(row.source, row.digest, row.model) for row in mine}) == len(mine)
    # However the contributions fell into trials, numbers have no gap and the search had its all.
    budget, claimed, numbered, there = counters(store)
    assert budget == claimed == numbered == there
    found = optuna_trials(store)
    assert [trial.number for trial in found] == list(range(there))
    assert all(trial.state == TrialState.COMPLETE for trial in found)
    searched = {row.trial for row in rows if row.source in ("anchor", "random")}
    assert len(searched) == BUDGET
    assert not searched & {row.trial for row in mine}
    assert len({row.trial for row in mine if row.trial is not None}) == there - BUDGET
    revisions = [row.revision for row in rows]
    assert revisions == sorted(revisions)


# Bad input


def with_cost(evaluation: Evaluation, **changes: float) -> Evaluation:
    return dataclasses.replace(evaluation, cost=dataclasses.replace(evaluation.cost, **changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda one: dataclasses.replace(one, value=float("nan")),
        lambda one: dataclasses.replace(one, standard_error=float("inf")),
        lambda one: dataclasses.replace(one, mean_exit=float("-inf")),
        lambda one: with_cost(one, expected=float("nan")),
        lambda one: with_cost(one, p95=float("inf")),
        lambda one: with_cost(one, worst=float("inf")),
        lambda one: dataclasses.replace(one, exit_rates=(float("nan"), 1.0)),
    ],
    ids=["value", "standard error", "mean exit", "expected", "p95", "worst", "exit rates"],
)
@pytest.mark.parametrize("legal", [True, False])
def test_a_figure_that_is_not_finite_is_refused_and_nothing_is_written(
    store: StudyStore, damage: Callable[[Evaluation], Evaluation], legal: bool
) -> None:
    good = Contribution("good", measure(uniform(store, 5)))
    policy = uniform(store, 4) if legal else full_precision(store)
    bad = Contribution("bad", damage(measure(policy)))
    before = counters(store)
    with pytest.raises(BadInput, match="finite"):
        contribute(store, store.get("small").id, [good, bad])
    assert store.evaluations(store.get("small").id) == []
    assert counters(store) == before
    assert contribute(store, store.get("small").id, [good]) == 1


def test_an_error_half_way_leaves_nothing(store: StudyStore) -> None:
    """Trials are written before evaluations: one transaction holds both."""
    good = Contribution("good", measure(uniform(store, 5)))
    bad = Contribution("bad", measure(uniform(store, 4)), attributes={"not JSON": object()})
    before = counters(store)
    with pytest.raises(Exception, match="JSON"):
        contribute(store, store.get("small").id, [good, bad])
    assert store.evaluations(store.get("small").id) == []
    assert counters(store) == before
    assert claim_all(store) == [
        (number, "anchor" if number < 4 else "random") for number in range(BUDGET)
    ]


def test_a_study_that_was_deleted_is_refused(store: StudyStore, make_record: Make) -> None:
    other = store.create(make_record(name="other"))
    assert other
    store.delete(other.id)
    with pytest.raises(StudyGone, match="has been deleted"):
        contribute(store, other.id, [Contribution("W4", measure(uniform(store, 4)))])
    assert store.evaluations(store.get("small").id) == []


# Fronts and exchange


def beats_or_equals(point: np.ndarray, other: np.ndarray) -> bool:
    return bool(point[0] >= other[0] and point[1] <= other[1])


def test_a_front_seeded_with_baselines_lies_on_or_above_every_one(store: StudyStore) -> None:
    found = [*baselines(store), recovered(store)]
    contribute(store, store.get("small").id, found)
    for searched in (0, BUDGET):
        if searched:
            assert len(claim_all(store)) == searched
        summary = FrontSummary.load(store, store.get("small"))
        assert len(summary.rows) == len(found) + searched
        front = [summary.points[index] for index in summary.front]
        for one in found:
            point = np.array([one.evaluation.value, one.evaluation.gbops])
            assert any(beats_or_equals(better, point) for better in front), one.source
        # What is on it came from someone, and that is what it says.
        known = {(row.source, row.digest) for row in summary.rows}
        assert {(row["source"], row["digest"]) for row in summary.as_dict()["front"]} <= known
        assert [one.policy.digest for one in summary.details] == [
            row.digest for row in summary.front_rows
        ]


def test_every_row_says_where_it_comes_from(store: StudyStore) -> None:
    found = [*baselines(store), recovered(store)]
    contribute(store, store.get("small").id, found)
    rows = store.evaluations(store.get("small").id)
    origins = {row.source: row.origin for row in rows}
    assert origins["full precision"] == "full precision"
    assert origins["MAQEE+recovery"] == "MAQEE+recovery"
    assert origins["W8A8"] == "trial 4, W8A8"
    summary = FrontSummary.load(store, store.get("small"))
    printed = json.loads(summary.to_json())
    for row, shown in zip(summary.front_rows, printed["front"], strict=True):
        assert (shown["source"], shown["trial"]) == (row.source, row.trial)
    assert {row["source"] for row in printed["front"]} & set(origins)
    header, *lines = summary.to_csv().splitlines()
    assert len(lines) == len(summary.front)
    place = header.split(",").index("trial")
    for row, line in zip(summary.front_rows, lines, strict=True):
        assert line.split(",")[place] == ("" if row.trial is None else str(row.trial))


def test_both_kinds_go_into_an_optuna_database_and_back(
    store: StudyStore, tmp_path: Path, make_record: Make
) -> None:
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy), ("harvest", measure(uniform(store, 6, 0.55))))
    attributes = {"maqee": {"iterates": [1, 2], "stops": {"0.1": "the bits repeat"}}}
    found = [
        *baselines(store),
        recovered(store),
        Contribution("MAQEE", measure(uniform(store, 6)), attributes=attributes),
    ]
    contribute(store, store.get("small").id, found)
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    copied = export_study(store, store.get("small").id, theirs)
    assert copied == 4 + 6 + 1
    back = StudyStore(f"sqlite:///{tmp_path}/back.db", create=True)
    assert import_study(back, "small", theirs) == copied
    assert back.get("small").record == make_record(budget={"trials": BUDGET})
    assert counters(back)[0] == BUDGET + 7

    def by_content(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return sorted(rows, key=repr)

    before, after = store.evaluations(store.get("small").id), back.evaluations(back.get("small").id)
    assert by_content(figures(after)) == by_content(figures(before))
    details = {row.id: one for row, one in zip(before, store.details(before), strict=True)}
    again = dict(zip([row.id for row in after], back.details(after), strict=True))
    key = {(row.source, row.digest, row.model): row.id for row in before}
    for row in after:
        assert again[row.id] == details[key[row.source, row.digest, row.model]]
    assert [trial.user_attrs for trial in optuna_trials(back)] == [
        trial.user_attrs for trial in optuna_trials(store)
    ]
    # What is known is known there too, and the search still has all that it had left.
    assert contribute(back, back.get("small").id, found) == 0
    assert len(claim_all(back)) == BUDGET - 1
    assert len(claim_all(store)) == BUDGET - 1


def test_a_study_of_contributions_that_stand_alone_comes_back_too(
    store: StudyStore, tmp_path: Path
) -> None:
    contribute(store, store.get("small").id, [recovered(store)])
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    export_study(store, store.get("small").id, theirs)
    # Optuna's own tools see no trial of it.
    study = optuna.load_study(study_name="small", storage=theirs)
    assert all(trial.state == TrialState.WAITING for trial in study.trials)
    back = StudyStore(f"sqlite:///{tmp_path}/back.db", create=True)
    import_study(back, "small", theirs)
    assert figures(back.evaluations(back.get("small").id)) == figures(
        store.evaluations(store.get("small").id)
    )
    seen = back.evaluations(back.get("small").id)[-1].revision
    contribute(back, back.get("small").id, [Contribution("late", measure(uniform(store, 4)))])
    # Revisions go on from the import's, so that a reader misses nothing.
    assert [row.source for row in back.evaluations(back.get("small").id, since=seen)] == ["late"]


def test_a_deleted_study_takes_what_stands_alone_with_it(
    store: StudyStore, make_record: Make
) -> None:
    store.create(make_record(name="other"))
    contribute(store, store.get("small").id, [recovered(store), *baselines(store)])
    contribute(store, store.get("other").id, [recovered(store)])
    store.delete(store.get("small").id)
    with store.database.read() as connection:
        left = connection.execute(select(func.count(evaluations.c.id))).scalar_one()
    assert left == len(store.evaluations(store.get("other").id)) == 1
