"""Racing: what is given up could not have added to the front, at the stated confidence."""

from __future__ import annotations

import numpy as np
import pytest
from bundled_model import open_bundled
from made_tasks import GivenHits

from search.digest import digest_of
from search.evaluate import Evaluator
from search.front import as_points, front_indices
from search.space import PolicySpace
from search.thresholds.candidates import ExitChoices
from search.thresholds.harvest import harvest
from search.thresholds.racing import LOOKS, Race, race_order
from search.trace import ExitTrace

SAMPLES = 1200
PATH_BOPS = np.array([1.0, 2.0, 3.0])
OWN = (0.5, 0.5, 0.0)
ORDER = np.random.default_rng(17).permutation(SAMPLES)


def population(seed: int, quality: float) -> ExitChoices:
    """A made-up candidate on the whole split: deeper exits are better, confidence tells."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((SAMPLES, 3), dtype=np.float32)
    chance = np.clip(quality - 0.15 + 0.1 * np.arange(3) + 0.2 * (confidence - 0.5), 0, 1)
    loss = (rng.random((SAMPLES, 3)) > chance).astype(np.float64)
    trace = ExitTrace(confidence, loss[..., None], (1, 2, 3))
    return ExitChoices(trace, GivenHits(), PATH_BOPS)


def first(whole: ExitChoices, order: np.ndarray, count: int) -> ExitChoices:
    return ExitChoices(whole.trace.take(order[:count]), whole.task, whole.path_bops)


def recorded(whole: ExitChoices) -> np.ndarray:
    """What a candidate records on the whole split, ``[K, 2]``."""
    found = harvest(whole)
    own = whole.measure(np.array([OWN]))
    return as_points(np.append(found.value, own.value), np.append(found.cost, own.cost))


def adds(points: np.ndarray, front: np.ndarray) -> bool:
    """Whether any of ``points`` is not dominated by the front."""
    joined = np.concatenate([front, points])
    return bool((front_indices(joined) >= len(front)).any())


def looks_lost(whole: ExitChoices, race: Race, order: np.ndarray) -> bool:
    return any(
        race.is_lost(first(whole, order, round(SAMPLES * part)), OWN) for part in LOOKS
    )  # fmt: skip


def test_nothing_is_given_up_without_a_front() -> None:
    whole = population(0, 0.3)
    race = Race(np.empty((0, 2)), SAMPLES, 0.99)
    assert not race.is_lost(first(whole, ORDER, 200), OWN)


def test_the_hopeless_are_given_up_at_the_first_look() -> None:
    front = recorded(population(0, 0.8))
    race = Race(front, SAMPLES, 0.99)
    whole = population(1, 0.4)
    assert not adds(recorded(whole), front)
    assert race.is_lost(first(whole, ORDER, 200), OWN)


def test_a_cheaper_one_is_never_given_up() -> None:
    """However bad: nothing on the front costs as little."""
    front = recorded(population(0, 0.9)) * [1, 1.5]
    race = Race(front, SAMPLES, 0.99)
    whole = population(1, 0.3)
    assert adds(recorded(whole), front)
    assert not looks_lost(whole, race, ORDER)


@pytest.mark.parametrize("confidence", [0.7, 0.99])
def test_who_would_add_to_the_front_is_given_up_no_more_often_than_stated(
    confidence: float,
) -> None:
    """Candidates that just reach the front, over many orders of their images."""
    wrong = tried = 0
    for seed in range(150):
        whole = population(seed, 0.6)
        # Another candidate's, just as good: some of the points are close calls.
        front = recorded(population(1000 + seed, 0.6))
        front = front[front_indices(front)]
        if not adds(recorded(whole), front):
            continue
        tried += 1
        order = np.random.default_rng(seed).permutation(SAMPLES)
        wrong += looks_lost(whole, Race(front, SAMPLES, confidence), order)
    assert tried > 100
    assert wrong <= (1 - confidence) * tried


def test_the_accuracy_seen_can_still_be_recorded() -> None:
    """All right so far, and nearly all images seen: what is left may be right as well."""
    confidence = np.ones((200, 3), dtype=np.float32)
    loss = np.zeros((200, 3))
    seen = ExitChoices(ExitTrace(confidence, loss[..., None], (1, 2, 3)), GivenHits(), PATH_BOPS)
    race = Race(np.array([[299 / 300, 1.0]]), 300, 0.99)
    assert not race.is_lost(seen, OWN)
    assert Race(np.array([[1.0, 0.5]]), 300, 0.99).is_lost(seen, OWN) is False
    # A third of the images wrong: not even all of the others would do.
    loss[:150] = 1
    seen = ExitChoices(ExitTrace(confidence, loss[..., None], (1, 2, 3)), GivenHits(), PATH_BOPS)
    assert race.is_lost(seen, OWN)


def test_every_set_of_bits_has_an_order_of_its_own() -> None:
    one, other = digest_of([1]), digest_of([2])
    order = race_order(3000, one)
    assert sorted(order) == list(range(3000))
    np.testing.assert_array_equal(order, race_order(3000, one))
    for second in (race_order(3000, other), np.arange(3000)):
        assert abs(np.corrcoef(order, second)[0, 1]) < 0.06


# On the real model


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    found = open_bundled(64)
    found.split = found.split.head(450)
    return found


def test_a_growing_trace_ends_as_the_plain_one(evaluator: Evaluator) -> None:
    space = PolicySpace.from_ledger(evaluator.ledger, "block")
    policy = space.uniform(4, 0.8)
    traces = list(evaluator.growing_trace(policy.bits, [100, 150, 400, 450]))
    assert [len(trace) for trace in traces] == [100, 200, 400, 450]
    whole = evaluator.trace(policy.bits)
    np.testing.assert_array_equal(traces[-1].confidence, whole.confidence)
    np.testing.assert_array_equal(traces[-1].statistic, whole.statistic)
    order = race_order(450, policy.bits.digest)
    for part in traces[:-1]:
        np.testing.assert_array_equal(part.confidence, whole.confidence[order[: len(part)]])
        again = evaluator.first_trace(policy.bits, len(part))
        np.testing.assert_array_equal(part.confidence, again.confidence)
        np.testing.assert_array_equal(part.statistic, again.statistic)


def test_the_engine_may_be_used_between_looks(evaluator: Evaluator) -> None:
    space = PolicySpace.from_ledger(evaluator.ledger, "block")
    policy, other = space.uniform(3, 0.8), space.uniform(8, 0.8)
    growing = evaluator.growing_trace(policy.bits, [100])
    next(growing)
    evaluator.trace(other.bits)
    (whole,) = growing
    np.testing.assert_array_equal(whole.confidence, evaluator.trace(policy.bits).confidence)
