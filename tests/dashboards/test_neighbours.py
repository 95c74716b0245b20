"""A policy's neighbours and the worth of a bit, against every pair of rows looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from small_study import measure

from dashboards.pages.policy.neighbours import bit_worth, choice_names, neighbours
from dashboards.snapshot import Snapshot
from search.errors import BadInput
from search.policy import Bits, Policy
from studies.records import EvaluationRow, Progress, StudyRecord

MakeSnapshot = Callable[..., Snapshot]


def make_policy(weights: Any, activations: Any, threshold: float = 0.5) -> Policy:
    return Policy(Bits("block", tuple(weights), tuple(activations)), (threshold, 0.0))


def recorded(number: int, policy: Policy, model: str | None = None) -> EvaluationRow:
    found = measure(policy)
    return EvaluationRow(
        number, None, number, "hand", policy.digest, found.value, found.standard_error,
        found.gbops, found.cost.p95 / 1e9, found.mean_exit, policy.to_json(), model,
    )  # fmt: skip


@pytest.fixture
def make_snapshot(make_record: Callable[..., StudyRecord]) -> MakeSnapshot:
    """A study in which these policies, or these rows, were recorded."""

    def make(*found: Policy | EvaluationRow) -> Snapshot:
        record, progress = make_record(), Progress(12, 0, 0, 0, 0)
        rows = [
            recorded(number, one) if isinstance(one, Policy) else one
            for number, one in enumerate(found, start=1)
        ]
        return Snapshot(1, record, progress).extended(record, progress, rows)

    return make


# Neighbours


def test_neighbours_differ_in_one_choice(make_snapshot: MakeSnapshot) -> None:
    policies = [
        make_policy((w1, w2), (a1, a2), t)
        for w1, w2, a1, a2, t in product((3, 5), (4, 6), (4, 8), (5, 7), (0.4, 0.6))
    ]
    snapshot = make_snapshot(*policies)
    assert len(snapshot.rows) == 32
    for index in (0, 13, 31):
        here = snapshot.rows[index]
        expected = set()
        for row in snapshot.rows:
            mine, other = here.policy, row.policy
            parts = [
                *zip(mine.bits.weights, other.bits.weights, strict=True),
                *zip(mine.bits.activations, other.bits.activations, strict=True),
                *zip(mine.thresholds, other.thresholds, strict=True),
            ]
            if sum(a != b for a, b in parts) == 1:
                expected.add(row.id)
        found = neighbours(snapshot, index)
        assert {one.row.id for one in found} == expected
        assert len(expected) == 5
        distances = [abs(one.row.gbops - here.gbops) for one in found]
        assert distances == sorted(distances)
        for one in found:
            assert one.metric == one.row.value - here.value
            assert one.gbops == one.row.gbops - here.gbops
        said = {(one.choice, one.old, one.new) for one in found}
        w1 = here.policy.bits.weights[0]
        assert ("w block1", w1, 8 - w1) in said
        a2 = here.policy.bits.activations[1]
        assert ("a block2", a2, 12 - a2) in said
        t = here.policy.thresholds[0]
        assert ("threshold, block 1", t, {0.4: 0.6, 0.6: 0.4}[t]) in said


def test_another_model_or_other_fixed_bits_are_no_neighbours(make_snapshot: MakeSnapshot) -> None:
    near = make_policy((4, 5), (4, 4))
    wide_heads = replace(near, bits=replace(near.bits, head=32))
    snapshot = make_snapshot(make_policy((4, 4), (4, 4)), recorded(2, near, "a" * 64), wide_heads)
    assert len(snapshot.rows) == 3
    assert neighbours(snapshot, 0) == []
    assert bit_worth(snapshot, 0) == []


def test_a_policy_recorded_twice_is_one_neighbour(make_snapshot: MakeSnapshot) -> None:
    near = make_policy((4, 5), (4, 4))
    snapshot = make_snapshot(make_policy((4, 4), (4, 4)), near, near)
    assert len(snapshot.rows) == 3
    assert [one.row.id for one in neighbours(snapshot, 0)] == [2]


# What one bit buys


def brute_worth(
    snapshot: Snapshot, index: int
) -> dict[tuple[int, bool], tuple[bool, list[tuple[float, float]]]]:
    """Every pair of rows looked at, by column and whether it is about one bit more."""
    rows = snapshot.rows
    vectors = [(*row.policy.bits.weights, *row.policy.bits.activations) for row in rows]
    answers: dict[tuple[int, bool], tuple[bool, list[tuple[float, float]]]] = {}
    for column, more in product(range(len(vectors[0])), (True, False)):
        width = vectors[index][column]
        own, others = [], []
        for a, b in product(range(len(rows)), repeat=2):
            low, high = vectors[a][column], vectors[b][column]
            alone = all(
                (x == y) != (place == column)
                for place, (x, y) in enumerate(zip(vectors[a], vectors[b], strict=True))
            )
            if not alone or low >= high or rows[a].policy.thresholds != rows[b].policy.thresholds:
                continue
            # Nothing recorded lies between the two.
            between = any(
                low < vectors[c][column] < high
                and rows[c].policy.thresholds == rows[a].policy.thresholds
                and all(
                    x == y
                    for place, (x, y) in enumerate(zip(vectors[a], vectors[c], strict=True))
                    if place != column
                )
                for c in range(len(rows))
            )
            if between or not (low <= width < high if more else low < width <= high):
                continue
            slope = (
                (rows[b].value - rows[a].value) / (high - low),
                (rows[b].gbops - rows[a].gbops) / (high - low),
            )
            (own if (a if more else b) == index else others).append(slope)
        if own or others:
            answers[column, more] = (bool(own), own or others)
    return answers


def test_bits_are_worth_what_all_pairs_say(make_snapshot: MakeSnapshot) -> None:
    rng = np.random.default_rng(3)
    policies = {
        make_policy(bits[:2], bits[2:], threshold).digest: make_policy(
            bits[:2], bits[2:], threshold
        )
        for bits, threshold in (
            ([int(one) for one in rng.choice((3, 4, 6), 4)], float(rng.choice((0.4, 0.6))))
            for _ in range(70)
        )
    }
    snapshot = make_snapshot(*policies.values())
    names = choice_names(snapshot.record, snapshot.rows[0].policy)
    kinds = set()
    for index in range(0, len(snapshot.rows), 3):
        expected = brute_worth(snapshot, index)
        found = {(names.index(one.group), one.more): one for one in bit_worth(snapshot, index)}
        assert found.keys() == expected.keys()
        for key, (own, slopes) in expected.items():
            one = found[key]
            kinds.add(own)
            assert (one.other is not None) == own
            pairs = sorted(zip(one.metric, one.gbops, strict=True))
            np.testing.assert_allclose(pairs, sorted(slopes), atol=1e-12)
    assert kinds == {True, False}


def test_one_comparison_by_hand(make_snapshot: MakeSnapshot) -> None:
    snapshot = make_snapshot(make_policy((4, 4), (4, 4)), make_policy((4, 7), (4, 4)))
    narrow, wide = snapshot.rows
    (one,) = bit_worth(snapshot, 0)
    assert (one.group, one.bits, one.more, one.widths) == ("w block2", 4, True, (4, 7))
    assert one.other == wide
    assert one.metric == pytest.approx([(wide.value - narrow.value) / 3])
    (back,) = bit_worth(snapshot, 1)
    assert (back.more, back.bits, back.other) == (False, 7, narrow)
    assert back.gbops == pytest.approx(one.gbops)


# Large studies


@pytest.mark.parametrize("seed", range(3))
def test_other_rows_are_not_parsed(make_snapshot: MakeSnapshot, seed: int) -> None:
    rng = np.random.default_rng(seed)
    policies = [
        make_policy(map(int, bits[:2]), map(int, bits[2:]), float(rng.choice((1e-5, 0.4))))
        for bits in rng.choice((2, 8, 32), (60, 4))
    ]
    snapshot = make_snapshot(*policies)
    assert neighbours(snapshot, 7)
    assert bit_worth(snapshot, 7)
    assert [place for place, row in enumerate(snapshot.rows) if "policy" in vars(row)] == [7]


def test_text_in_another_order_says_the_same(make_snapshot: MakeSnapshot) -> None:
    wide = recorded(2, make_policy((4, 32), (4, 4), 1e-5))
    fields = dict(reversed(json.loads(wide.policy_json).items()))
    odd = replace(wide, policy_json=json.dumps(fields, indent=1))
    here = recorded(1, make_policy((4, 8), (4, 4), 1e-5))
    (found,) = neighbours(make_snapshot(here, odd), 0)
    assert (found.choice, found.old, found.new) == ("w block2", 8, 32)
    (one,) = bit_worth(make_snapshot(here, odd), 0)
    assert (one.group, one.widths, one.other) == ("w block2", (8, 32), odd)


def test_text_that_is_no_policy_is_one_line(make_snapshot: MakeSnapshot) -> None:
    here = recorded(1, make_policy((4, 8), (4, 4)))
    snapshot = make_snapshot(here, replace(here, id=2, policy_json="nonsense"))
    for ask in (neighbours, bit_worth):
        with pytest.raises(BadInput, match="a policy must be JSON"):
            ask(snapshot, 0)
