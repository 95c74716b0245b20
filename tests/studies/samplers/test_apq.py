"""The sampler ``apq``: Optuna's own tests, and what it proposes for a study of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import TrialState
from small_study import measure, take

from search.bits.allocation import Usage
from search.bits.tables import Sensitivity, SensitivityTables
from studies.records import StudyRecord
from studies.samplers.apq import ApqSampler, _Proposal, distributions_of
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore
from studies.work.knowledge import StudyKnowledge
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]


class TestAsAnOptunaSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ApqSampler(seed=0)


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    found = StudyStore(address, create=True)
    found.create(make_record(sampler={"name": "apq"}, budget={"trials": 60}))
    return found


def work(store: StudyStore, trials: int) -> list[str]:
    """Serve trials; returns their sources."""
    sources, proposer = [], Proposer(store, store.get("small"), "tester")
    for _ in range(trials):
        claim = proposer.claim("tester")
        assert claim
        store.record(claim, measure(claim.policy))
        sources.append(claim.source)
    return sources


def test_it_is_asked_for_what_a_trial_of_the_space_asks(store: StudyStore) -> None:
    work(store, 5)
    study = optuna.load_study(study_name="small", storage=store.storage)
    last = study.get_trials(states=[TrialState.COMPLETE])[-1]
    assert last.distributions == distributions_of(store.get("small").record.space)


def test_anchors_come_first_and_no_bits_are_measured_twice(store: StudyStore) -> None:
    assert work(store, 40) == ["anchor"] * 4 + ["apq"] * 36
    rows = [row for row in store.evaluations(store.get("small").id) if row.source == "apq"]
    bits = [row.policy.bits for row in rows]
    assert len(set(bits)) == len(bits)
    space = store.get("small").record.space
    for row in rows:
        space.check(row.policy)


def test_workers_at_once_propose_different_bits(store: StudyStore) -> None:
    work(store, 4)
    claims = [take(store, "small", f"worker{number}") for number in range(12)]
    bits = {one.policy.bits for one in claims if one}
    assert len(bits) == 12
    known = {row.policy.bits for row in store.evaluations(store.get("small").id)}
    assert not bits & known


def test_without_any_front_it_draws_from_the_space(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    anchors = {"bits": [4], "thresholds": [0.5]}
    store.create(make_record(sampler={"name": "apq"}, anchors=anchors))
    space = store.get("small").record.space
    first = take(store, "small", "one")
    second = take(store, "small", "two")  # nothing is recorded yet
    assert first
    assert second
    assert (first.source, second.source) == ("anchor", "apq")
    space.check(second.policy)


def test_recovered_models_and_policies_outside_the_space_are_no_parents(
    store: StudyStore,
) -> None:
    work(store, 4)
    study = store.get("small")
    record = study.record
    better = measure(record.space.uniform(5, 0.5))
    outside = record.space.policy(record.space.full_precision(), 1.0)
    contribute(
        store,
        study.id,
        [
            Contribution("recovered", better, "f" * 64, Path("f.safetensors")),
            Contribution("full precision", measure(outside)),
        ],
    )
    knowledge = StudyKnowledge(store, study)
    knowledge.learn()
    points, keys = knowledge.front()
    policies = [one.policy for one in knowledge.evaluations(keys)]
    assert len(points) == len(policies) > 0
    assert outside not in policies
    assert set(knowledge.best_by_bits()) >= {policy.bits for policy in policies}
    assert better.policy.bits not in knowledge.best_by_bits()
    work(store, 3)


def test_it_prefers_bits_where_damage_is_small(store: StudyStore) -> None:
    """Tables that say block 2's weights need no bits: proposals take theirs first."""
    stored = store.get("small")
    work(store, 20)
    bits = (2, 3, 4, 5, 6, 7, 8)

    def row(block: int, scale: float) -> Sensitivity:
        return Sensitivity(block, bits, scale * 4.0 ** -np.array(bits), np.zeros((7, 2)))

    names = stored.record.space.weight_groups
    tables = SensitivityTables(
        {names[0]: row(1, 300.0), names[1]: row(2, 0.0)},
        {names[0]: row(1, 1.0), names[1]: row(2, 1.0)},
    )
    knowledge = StudyKnowledge(store, stored)
    knowledge.take_up(tables)  # found while the study is being served
    sampler = ApqSampler(3, knowledge)
    study = optuna.load_study(study_name="small", storage=store.storage, sampler=sampler)
    space = sampler.infer_relative_search_space(study, study.trials[-1])
    proposed = [sampler.sample_relative(study, study.trials[-1], space) for _ in range(40)]
    first = np.mean([values[f"w.{names[0]}"] for values in proposed])
    second = np.mean([values[f"w.{names[1]}"] for values in proposed])
    assert second < first - 1


def test_what_nobody_runs_is_no_news(store: StudyStore) -> None:
    """The doubt that makes a child worth a pass is that of what its parent's samples run."""
    work(store, 4)
    knowledge = StudyKnowledge(store, store.get("small"))
    proposal = _Proposal(knowledge, np.random.default_rng(0))
    parent = knowledge.surrogate.vector(knowledge.surrogate.space.uniform(4, 0.5).bits)
    blocks = knowledge.surrogate.blocks
    assert sorted(set(blocks)) == [1, 2]
    first, second, both = (np.where(np.isin(blocks, these), 3, parent)
                           for these in ([1], [2], [1, 2]))  # fmt: skip
    usage = Usage(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    candidates = np.array([parent, first, second, both])
    assert proposal._change(candidates, parent, usage).tolist() == [0, 1, 0, 1]
    usage = Usage(np.array([1.0, 0.25]), np.array([0.75, 0.25]))
    parts = proposal._change(candidates, parent, usage)
    np.testing.assert_allclose(parts, np.sqrt([0, 0.8, 0.2, 1]))


def test_what_answers_far_less_well_is_no_parent(store: StudyStore) -> None:
    work(store, 20)
    study = store.get("small")
    poor = measure(study.record.space.uniform(2, 0.4))
    contribute(store, study.id, [Contribution("by hand", poor)])
    knowledge = StudyKnowledge(store, study)
    knowledge.learn()
    points, keys = knowledge.front()
    by_thresholds: dict[tuple[float, ...], float] = {}
    for one in knowledge.evaluations(keys):
        known = by_thresholds.get(one.policy.thresholds, 0.0)
        by_thresholds[one.policy.thresholds] = max(one.value, known)
    floor = 0.75 * points[:, 0].max()
    assert by_thresholds[poor.policy.thresholds] < floor  # it is on the front
    rng = np.random.default_rng(0)
    proposed = [_Proposal(knowledge, rng).make() for _ in range(40)]
    assert all(one and by_thresholds[one.thresholds] >= floor for one in proposed)


def test_the_same_seed_proposes_the_same(store: StudyStore) -> None:
    work(store, 10)
    stored = store.get("small")
    study = optuna.load_study(study_name="small", storage=store.storage)

    def propose(seed: int) -> dict[str, object]:
        sampler = ApqSampler(seed, StudyKnowledge(store, stored))
        space = sampler.infer_relative_search_space(study, study.trials[-1])
        return sampler.sample_relative(study, study.trials[-1], space)

    assert propose(1) == propose(1)
    assert any(propose(1) != propose(seed) for seed in (2, 3, 4))
