"""Policies: canonical text, digests, and the refusal of every value outside the definition."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.policy import ALLOWED_BITS, Bits, Policy

LITERAL = Policy(Bits("block", (4, 8, 2), (5, 8, 3), embed=8, head=6), (0.5, 0.875, 0.0))
LITERAL_JSON = (
    '{"activation_bits":[5,8,3],"embed_bits":8,"granularity":"block","head_bits":6,"schema":1,'
    '"thresholds":[0.5,0.875,0.0],"weight_bits":[4,8,2]}'
)
BITS_JSON = (
    '{"activation_bits":[5,8,3],"embed_bits":8,"granularity":"block","head_bits":6,"schema":1,'
    '"weight_bits":[4,8,2]}'
)
LITERAL_DIGEST = "f47589417738464cb38f54bf991fdf6365c3772c5d3fed0aa6ae0ddc0aae8348"

bits = st.sampled_from(ALLOWED_BITS)
bit_vectors = st.lists(bits, min_size=1, max_size=8).map(tuple)
policies = st.builds(
    Policy,
    st.builds(Bits, st.sampled_from(["block", "layer"]), bit_vectors, bit_vectors, bits, bits),
    st.lists(st.floats(0, 1) | st.integers(0, 1), max_size=6).map(lambda head: (*head, 0.0)),
)


def test_text_and_digest_of_one_policy_are_pinned():
    assert LITERAL.to_json() == LITERAL_JSON
    assert LITERAL.digest == LITERAL_DIGEST == hashlib.sha256(LITERAL_JSON.encode()).hexdigest()


def test_text_and_digest_of_bits_are_those_of_the_policy_without_thresholds():
    fields = json.loads(LITERAL_JSON)
    del fields["thresholds"]
    assert LITERAL.bits.as_dict() == fields
    assert LITERAL.bits.to_json() == BITS_JSON
    assert LITERAL.bits.digest == hashlib.sha256(BITS_JSON.encode()).hexdigest()


@given(policies)
def test_bits_round_trip_and_stand_in_sets(policy: Policy):
    again = Bits.from_dict(policy.bits.as_dict())
    assert {again} == {policy.bits}
    assert again.digest == policy.bits.digest
    assert Policy(again, policy.thresholds) == policy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": ()}, ["weight_bits", "at least one"]),
        ({"activations": (4, 9)}, ["activation_bits 9", "2 to 8"]),
        ({"embed": True}, ["embed_bits True"]),
        ({"head": 1}, ["head_bits 1"]),
        ({"granularity": "channel"}, ["'channel'", "block, layer"]),
    ],
    ids=str,
)
def test_bits_outside_the_definition_are_refused(change: dict[str, Any], words: list[str], refused):
    with refused(*words):
        replace(LITERAL.bits, **change)


def test_fields_of_bits_are_checked(refused):
    with refused("thresholds", "unknown"):
        Bits.from_dict(LITERAL.as_dict())
    with refused("schema None"):
        Bits.from_dict({})


def test_text_does_not_depend_on_order_spacing_or_number_type():
    fields = json.loads(LITERAL_JSON)
    shuffled = json.dumps(dict(reversed(fields.items())), indent=3)
    assert shuffled != LITERAL_JSON
    assert Policy.from_json(shuffled).to_json() == LITERAL_JSON
    integral = replace(LITERAL, thresholds=(1, 0, 0))
    assert integral.to_json() == replace(LITERAL, thresholds=(1.0, -0.0, -0.0)).to_json()
    assert integral.digest != LITERAL.digest


@given(policies)
def test_json_round_trip(policy: Policy):
    again = Policy.from_json(policy.to_json())
    assert (again, again.to_json(), again.digest) == (policy, policy.to_json(), policy.digest)


@pytest.mark.parametrize(
    "change",
    [
        {"granularity": "layer"},
        {"weights": (4, 8, 3)},
        {"activations": (5, 3, 8)},
        {"thresholds": (math.nextafter(0.5, 1), 0.875, 0.0)},
        {"embed": 32},
        {"head": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_frozen_and_in_the_digest(change: dict[str, Any]):
    (field, value), *_ = change.items()
    owner = LITERAL if field == "thresholds" else LITERAL.bits
    with pytest.raises(FrozenInstanceError):
        setattr(owner, field, value)
    part = replace(owner, **change)
    changed = part if isinstance(part, Policy) else replace(LITERAL, bits=part)
    assert changed.digest != LITERAL.digest
    assert (changed.bits.digest != LITERAL.bits.digest) == (field != "thresholds")


def test_with_thresholds_keeps_the_bits():
    other = LITERAL.with_thresholds([1, 0.25, 0])
    assert other.thresholds == (1.0, 0.25, 0.0)
    assert other.bits == LITERAL.bits


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits", "embed_bits", "head_bits"])
@pytest.mark.parametrize("value", [1, 9, 0, -4, 16, True, 4.0, "4", None, math.nan], ids=repr)
def test_bad_bits_are_refused(field: str, value: object, refused):
    listed = field in ("weight_bits", "activation_bits")
    with refused(field, repr(value), "2 to 8"):
        Policy.from_dict({**LITERAL.as_dict(), field: [4, value] if listed else value})


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf, True, "0.5", None])
def test_bad_thresholds_are_refused(value: object, refused):
    with refused("threshold", repr(value)):
        Policy.from_dict({**LITERAL.as_dict(), "thresholds": [value, 0.0]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"thresholds": [0.5, 0.25]}, ["0.25", "must be 0"]),
        ({"thresholds": []}, ["thresholds", "at least one"]),
        ({"weight_bits": []}, ["weight_bits", "at least one"]),
        ({"activation_bits": []}, ["activation_bits", "at least one"]),
        ({"weight_bits": "44"}, ["weight_bits", "'44'", "list"]),
        ({"thresholds": 0.0}, ["thresholds", "0.0", "list"]),
        ({"granularity": "channel"}, ["'channel'", "block, layer"]),
        ({"granularity": ["block"]}, ["['block']", "block, layer"]),
        ({"schema": 2}, ["schema 2", "1"]),
        ({"schema": None}, ["schema None"]),
        ({"bitz": 4}, ["unknown: 'bitz'"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_other_bad_fields_are_refused(change: dict[str, Any], words: list[str], refused):
    with refused(*words):
        Policy.from_dict({**LITERAL.as_dict(), **change})


@pytest.mark.parametrize("field", [*LITERAL.as_dict()])
def test_a_missing_field_is_refused(field: str, refused):
    fields = LITERAL.as_dict()
    del fields[field]
    with refused(field):
        Policy.from_dict(fields)


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "[1]", "null", '"policy"', LITERAL_JSON[:-1]]
)
def test_text_that_is_no_policy_is_refused(text: str, refused):
    with refused("must be", "JSON"):
        Policy.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        LITERAL_JSON.replace("0.875", str(10**400)),
        LITERAL_JSON.replace('"schema"', '"a\\nb":1,"schema"'),
        "[" * 100_000,
    ],
    ids=["integer-beyond-float", "newline-in-a-field-name", "deep-nesting"],
)
def test_hostile_text_is_refused(text: str, refused):
    with refused():
        Policy.from_json(text)
