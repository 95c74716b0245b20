"""Risk terms against plain loops over samples, and boundary risk against its definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.risk.terms import RiskTerms, check_alike, measure_risk
from search.tasks import Score
from search.tasks.classification import Classification
from search.trace import ExitTrace

BLOCKS = st.sampled_from([(4,), (1, 4), (2, 3, 7), (1, 2, 3, 5)])
# A few levels only, so that confidences often equal each other and the thresholds.
LEVELS = (0.0, 0.25, 0.5, float(np.float32(0.7)), 0.7, 1.0)
TERMS = ("gap", "premature", "delayed", "rescue", "harm")


class Graded:
    """A task whose loss takes eleven values, as overlaps and matches do."""

    name, metric = "graded", "closeness"

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return outputs

    def score(self, statistic: np.ndarray) -> Score:
        return Score(float(1 - self.loss(statistic).mean()), 0.0)

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        return statistic[:, 0] / 10


def random_trace(
    rng: np.random.Generator, samples: int, blocks: tuple[int, ...], classes: int
) -> ExitTrace:
    shape = (samples, len(blocks))
    confidence = rng.choice(LEVELS, shape).astype(np.float32)
    statistic = rng.integers(0, classes, (*shape, 2)).astype(np.int32)
    return ExitTrace(confidence, statistic, blocks)


def random_case(
    seed: int, blocks: tuple[int, ...], classes: int = 2
) -> tuple[ExitTrace, ExitTrace, list[float]]:
    """A trace, a full-precision one that often disagrees with it, and thresholds."""
    rng = np.random.default_rng(seed)
    samples = 1 + seed % 50
    thresholds = [*rng.choice(LEVELS, len(blocks) - 1).tolist(), 0.0]
    one, other = (random_trace(rng, samples, blocks, classes) for _ in range(2))
    return one, other, thresholds


def counted(
    trace: ExitTrace, reference: ExitTrace, thresholds: Sequence[float], loss: np.ndarray
) -> dict[str, float]:
    """The terms by walking every sample along its path; ``loss`` is of exits, then reference."""
    totals = dict.fromkeys(TERMS, 0.0)
    for i, confidences in enumerate(trace.confidence.tolist()):
        e = 0
        while e < len(confidences) - 1:
            leaves = confidences[e] >= thresholds[e]
            would = float(reference.confidence[i, e]) >= thresholds[e]
            totals["premature"] += leaves and not would
            totals["delayed"] += would and not leaves
            if leaves:
                break
            e += 1
        change = loss[i, e] - loss[i, -1]
        totals["gap"] += change
        totals["rescue"] += change < 0
        totals["harm"] += change > 0
    return {name: total / len(trace) for name, total in totals.items()}


@given(st.integers(0, 10**6), BLOCKS)
def test_terms_equal_a_plain_loop(seed: int, blocks: tuple[int, ...]):
    trace, reference, thresholds = random_case(seed, blocks)
    wrong = np.array(
        [
            [*(float(a != b) for a, b in own), float(last[0] != last[1])]
            for own, last in zip(
                trace.statistic.tolist(), reference.statistic[:, -1].tolist(), strict=True
            )
        ]
    )
    found = measure_risk(trace, reference, thresholds, Classification())
    expected = counted(trace, reference, thresholds, wrong)
    assert {name: getattr(found, name) for name in TERMS} == pytest.approx(expected, abs=1e-12)
    assert found.gap == pytest.approx(found.harm - found.rescue, abs=1e-12)


@given(st.integers(0, 10**6), BLOCKS)
def test_losses_between_0_and_1_weigh_the_gap_but_not_the_counts(
    seed: int, blocks: tuple[int, ...]
):
    trace, reference, thresholds = random_case(seed, blocks, classes=11)
    graded = np.column_stack([trace.statistic[:, :, 0], reference.statistic[:, -1, 0]]) / 10
    found = measure_risk(trace, reference, thresholds, Graded())
    expected = counted(trace, reference, thresholds, graded)
    assert {name: getattr(found, name) for name in TERMS} == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10**6), BLOCKS)
def test_boundary_risk_is_the_used_share_of_conditional_flip_rates(
    seed: int, blocks: tuple[int, ...]
):
    """BSR = sum_e u_{l_e} F_e with F_e the flip rate among those that reach exit e."""
    trace, reference, thresholds = random_case(seed, blocks)
    routing = trace.replay(thresholds)
    total = 0.0
    for e, block in enumerate(blocks[:-1]):
        reached = [i for i in range(len(trace)) if routing.exits[i] >= e]
        if not reached:
            continue
        sure = [(float(trace.confidence[i, e]), float(reference.confidence[i, e])) for i in reached]
        bound = thresholds[e]
        flips = [(own >= bound) != (full >= bound) for own, full in sure]
        total += routing.utilization[block - 1] * np.mean(flips)
    found = measure_risk(trace, reference, thresholds, Classification())
    assert found.boundary == pytest.approx(total, abs=1e-12)


def test_two_samples_by_hand():
    """One leaves where full precision would go on and is now wrong; one the other way round."""
    quantized = ExitTrace(
        np.array([[0.9, 0.5], [0.2, 0.5]], np.float32),
        np.array([[[3, 1], [1, 1]], [[4, 2], [2, 2]]], np.int32),
        (1, 2),
    )
    full = ExitTrace(
        np.array([[0.4, 0.5], [0.8, 0.5]], np.float32),
        np.array([[[1, 1], [1, 1]], [[2, 2], [5, 2]]], np.int32),
        (1, 2),
    )
    found = measure_risk(quantized, full, [0.6, 0.0], Classification())
    assert found == RiskTerms(gap=0.0, premature=0.5, delayed=0.5, rescue=0.5, harm=0.5)
    assert found.boundary == 1.0


@given(st.integers(0, 10**6), BLOCKS)
def test_the_paired_error_is_that_of_the_samples_differences(seed: int, blocks: tuple[int, ...]):
    trace, reference, thresholds = random_case(seed, blocks)
    terms = measure_risk(trace, reference, thresholds, Classification())
    left = trace.replay(thresholds).statistic
    last = reference.statistic[:, -1]
    change = (left[:, 0] != left[:, 1]).astype(int) - (last[:, 0] != last[:, 1])
    assert terms.paired_se(len(trace)) == pytest.approx(change.std() / len(trace) ** 0.5, abs=1e-12)


@given(st.integers(0, 10**6), BLOCKS)
def test_full_precision_against_itself_risks_nothing(seed: int, blocks: tuple[int, ...]):
    trace, _, thresholds = random_case(seed, blocks)
    own = measure_risk(trace, trace, thresholds, Classification())
    assert (own.premature, own.delayed, own.boundary) == (0, 0, 0)
    # Half the confidence, so that a threshold of 1 keeps everyone to the end.
    deep = ExitTrace(trace.confidence / 2, trace.statistic, blocks)
    never = [1.0] * (len(blocks) - 1) + [0.0]
    assert measure_risk(deep, deep, never, Classification()) == RiskTerms(0, 0, 0, 0, 0)


def test_traces_of_other_samples_or_exits_are_refused(refused):
    rng = np.random.default_rng(0)
    trace = random_trace(rng, 30, (1, 2, 4), 2)
    fewer = random_trace(rng, 29, (1, 2, 4), 2)
    elsewhere = random_trace(rng, 30, (1, 3, 4), 2)
    for other, words in ((fewer, (30, 29)), (elsewhere, ("(1, 2, 4)", "(1, 3, 4)"))):
        with refused(*words, "same split", exit_code=1):
            measure_risk(trace, other, [0.5, 0.5, 0.0], Classification())
        with refused(*words, exit_code=1):
            check_alike(trace, other)
    check_alike(trace, random_trace(rng, 30, (1, 2, 4), 2))
