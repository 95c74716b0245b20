"""The space of policies: proposals through real Optuna trials, encoding, and what is outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.cost import Ledger
from search.models.early_exit import EarlyExitModel
from search.policy import QUANTIZED_BITS, Bits, Policy
from search.space import PolicySpace

CHOICES = [QUANTIZED_BITS, (2, 4, 8), (4, 5), (8,), (8, 32), (2, 3, 5, 6)]


def space_of(weight_choices=QUANTIZED_BITS, activation_choices=QUANTIZED_BITS, **options: Any):
    return PolicySpace(
        "layer", ("w1", "w2", "w3"), ("a1", "a2"), 4, weight_choices, activation_choices, **options
    )


@st.composite
def spaces_with_a_policy(draw: st.DrawFn) -> tuple[PolicySpace, Policy]:
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    space = space_of(
        draw(st.sampled_from(CHOICES)),
        draw(st.sampled_from(CHOICES)),
        threshold_low=low,
        threshold_high=high,
        embed_bits=draw(st.sampled_from([4, 8])),
    )
    thresholds = tuple(draw(st.floats(low, high)) for _ in range(3))
    bits = Bits(
        "layer",
        draw(st.tuples(*[st.sampled_from(space.weight_choices)] * 3)),
        draw(st.tuples(*[st.sampled_from(space.activation_choices)] * 2)),
        space.embed_bits,
    )
    return space, Policy(bits, (*thresholds, 0.0))


@given(spaces_with_a_policy())
def test_encode_decode_and_a_fixed_trial_give_the_policy_back(given_: tuple[PolicySpace, Policy]):
    space, policy = given_
    values = space.encode(policy)
    assert list(values) == ["w.w1", "w.w2", "w.w3", "a.a1", "a.a2", "t.exit1", "t.exit2", "t.exit3"]
    assert space.decode(values) == policy
    assert space.propose(optuna.trial.FixedTrial(values)) == policy


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_an_optuna_study_reaches_every_choice_and_nothing_else(choices: tuple[int, ...]):
    space = space_of(choices, choices[:1], threshold_low=0.25, threshold_high=0.75)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    widths, thresholds = set(), []
    for _ in range(30):
        trial = study.ask()
        policy = space.propose(trial)
        space.check(policy)
        assert trial.params == space.encode(policy)
        assert space.decode(trial.params) == policy
        widths.update(policy.bits.weights)
        thresholds += policy.thresholds[:-1]
    assert widths == set(choices)
    assert min(thresholds) < 0.35 < 0.65 < max(thresholds)


def test_gaps_are_proposed_by_index_so_that_samplers_see_the_order():
    values = space_of((2, 4, 8), (2, 3)).encode(
        Policy(Bits("layer", (8, 2, 4), (3, 2)), (0.5, 0.5, 0.5, 0))
    )
    assert [values[f"w.w{i}"] for i in (1, 2, 3)] == [2, 0, 1]
    assert [values[f"a.a{i}"] for i in (1, 2)] == [3, 2]


GOOD = Policy(Bits("layer", (4, 4, 4), (4, 4)), (0.5, 0.5, 0.5, 0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": (4, 3, 4)}, ["weight_bits 3", "2, 4, 8"]),
        ({"weights": (4, 32, 4)}, ["weight_bits 32"]),
        ({"activations": (4, 5)}, ["activation_bits 5", "4, 8"]),
        ({"thresholds": (0.5, 0.19, 0.5, 0.0)}, ["threshold 0.19", "0.2 to 0.9"]),
        ({"thresholds": (0.5, 0.5, 0.91, 0.0)}, ["threshold 0.91"]),
        ({"thresholds": (0.5, 0.5, 0.0)}, ["exits"]),
        ({"weights": (4, 4)}, ["weight groups"]),
        ({"activations": (4, 4, 4)}, ["activation groups"]),
        ({"granularity": "block"}, ["granularity", "'block'"]),
        ({"embed": 4}, ["embed bits"]),
        ({"head": 32}, ["head bits"]),
    ],
    ids=str,
)
def test_check_and_encode_refuse_what_is_outside(change: dict[str, Any], words: list[str], refused):
    space = space_of((2, 4, 8), (4, 8), threshold_low=0.2, threshold_high=0.9)
    space.check(GOOD)
    if "thresholds" in change:
        changed = replace(GOOD, **change)
    else:
        changed = replace(GOOD, bits=replace(GOOD.bits, **change))
    for action in (space.check, space.encode):
        with refused(*words):
            action(changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_choices": ()}, ["weight_choices []"]),
        ({"weight_choices": (4, 2)}, ["[4, 2]", "ascending"]),
        ({"activation_choices": (4, 4)}, ["[4, 4]", "once"]),
        ({"activation_choices": (1, 4)}, ["activation_choices 1"]),
        ({"weight_choices": (4.0,)}, ["weight_choices 4.0"]),
        ({"threshold_low": -0.5}, ["lowest threshold -0.5"]),
        ({"threshold_high": 2}, ["highest threshold 2"]),
        ({"threshold_low": 0.75, "threshold_high": 0.5}, ["0.75", "0.5"]),
    ],
    ids=str,
)
def test_an_impossible_space_is_refused(options: dict[str, Any], words: list[str], refused):
    with refused(*words):
        space_of(**options)


@pytest.fixture(scope="module")
def ledger(fashion_model: EarlyExitModel) -> Ledger:
    return fashion_model.ledger((1, 28, 28))


def test_block_granularity_has_one_group_a_block(ledger: Ledger):
    space = PolicySpace.from_ledger(ledger, "block", weight_choices=(2, 4))
    assert space.weight_groups == space.activation_groups == tuple(f"block{i}" for i in range(1, 7))
    assert (space.exits, space.weight_choices) == (4, (2, 4))


def test_layer_granularity_has_four_weight_and_five_activation_groups_a_block(ledger: Ledger):
    space = PolicySpace.from_ledger(ledger, "layer")
    layers = ["attn.qkv", "attn", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert space.activation_groups == tuple(f"blocks.{b}.{n}" for b in range(6) for n in layers)
    assert space.weight_groups == tuple(n for n in space.activation_groups if n[9:] != "attn")


def test_uniform_gives_the_same_bits_and_thresholds_everywhere(ledger: Ledger):
    policy = PolicySpace.from_ledger(ledger, "layer", head_bits=6).uniform(5, 0.75)
    assert policy == Policy(Bits("layer", (5,) * 24, (5,) * 30, 8, 6), (0.75, 0.75, 0.75, 0.0))


def test_full_precision_has_no_quantized_group_and_is_outside(ledger: Ledger):
    space = PolicySpace.from_ledger(ledger, "layer")
    bits = space.full_precision()
    assert {*bits.weights, *bits.activations, bits.embed, bits.head} == {32}
    ledger.widths(bits)
    assert not space.contains(space.policy(bits, 0.5))
