"""A depth-precision policy: bits for every layer group and a threshold for every exit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, cast

from search.digest import canonical_json, digest_of
from search.display import compact, html_table
from search.errors import BadInput

POLICY_SCHEMA = 1
QUANTIZED_BITS = (2, 3, 4, 5, 6, 7, 8)
FULL_PRECISION = 32
ALLOWED_BITS = (*QUANTIZED_BITS, FULL_PRECISION)

Granularity = Literal["block", "layer"]
GRANULARITIES: tuple[Granularity, ...] = ("block", "layer")


@dataclass(frozen=True, slots=True)
class Bits:
    """What costs a pass of the model: a bit-width for every layer group, embedding and heads.

    Attributes:
        granularity: ``"block"`` (one group a block) or ``"layer"`` (one group a layer).
        weights: bits of each weight group, each 2..8, or 32 for full precision.
        activations: bits of each activation group, likewise.
        embed: both operands of the patch embedding.
        head: both operands of every exit head.

    Raises:
        BadInput: when a value is outside what is said above.
    """

    granularity: Granularity
    weights: tuple[int, ...]
    activations: tuple[int, ...]
    embed: int = 8
    head: int = 8

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise BadInput(
                f"granularity {self.granularity!r}: choose one of {', '.join(GRANULARITIES)}"
            )
        for what, widths in (
            ("weight_bits", self.weights),
            ("activation_bits", self.activations),
            ("embed_bits", (self.embed,)),
            ("head_bits", (self.head,)),
        ):
            if not widths:
                raise BadInput(f"a policy needs at least one value in {what}")
            for width in widths:
                check_bits(what, width)

    def as_dict(self) -> dict[str, Any]:
        """The bits as plain values with the schema version of policies."""
        return {
            "schema": POLICY_SCHEMA,
            "granularity": self.granularity,
            "weight_bits": list(self.weights),
            "activation_bits": list(self.activations),
            "embed_bits": self.embed,
            "head_bits": self.head,
        }

    def to_json(self) -> str:
        """Canonical JSON: equal bits give equal text."""
        return canonical_json(self.as_dict())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest_of(self.as_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Bits:
        """Build bits from plain values, checking every one.

        Raises:
            BadInput: for an unknown schema, a missing or unknown field, or a value out of range.
        """
        _check_fields(fields, _BITS_FIELDS)
        return cls(
            granularity=cast(Granularity, fields["granularity"]),
            weights=_numbers("weight_bits", fields["weight_bits"]),
            activations=_numbers("activation_bits", fields["activation_bits"]),
            embed=fields["embed_bits"],
            head=fields["head_bits"],
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """One point of the search: bits, which cost a pass, and thresholds, which cost NumPy.

    Attributes:
        bits: of every layer group, the patch embedding and the heads.
        thresholds: one per exit, in [0, 1]. A sample leaves at the first exit whose confidence is
            at least its threshold; the last is 0, since nothing follows it.

    Raises:
        BadInput: when a threshold is outside what is said above.
    """

    bits: Bits
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise BadInput("a policy needs at least one value in thresholds")
        for threshold in self.thresholds:
            check_threshold("threshold", threshold)
        if self.thresholds[-1] != 0:
            raise BadInput(
                f"the last exit's threshold is {self.thresholds[-1]!r}: it must be 0, "
                "since no exit follows it"
            )

    def as_dict(self) -> dict[str, Any]:
        """The policy as plain values with its schema version."""
        thresholds = [float(value) + 0.0 for value in self.thresholds]
        return {**self.bits.as_dict(), "thresholds": thresholds}

    def to_json(self) -> str:
        """Canonical JSON: equal policies give equal text."""
        return canonical_json(self.as_dict())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest_of(self.as_dict())

    def _repr_html_(self) -> str:
        bits = self.bits
        thresholds = " ".join(f"{value:.2f}" for value in self.thresholds[:-1])
        rows = [
            (f"weights, a {bits.granularity}", compact(bits.weights)),
            (f"activations, a {bits.granularity}", compact(bits.activations)),
            ("patch embedding, heads", f"{bits.embed}, {bits.head}"),
            ("thresholds", thresholds),
        ]
        return html_table(f"policy {self.digest[:12]}", ("", ""), rows)

    def with_thresholds(self, thresholds: Iterable[float]) -> Policy:
        """The same bits under other thresholds."""
        return Policy(self.bits, tuple(float(value) for value in thresholds))

    def at_full_depth(self) -> Policy:
        """The same bits under thresholds that only a confidence of 1 reaches."""
        return self.with_thresholds([1.0] * (len(self.thresholds) - 1) + [0.0])

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Policy:
        """Build a policy from plain values, checking every one.

        Raises:
            BadInput: for an unknown schema, a missing or unknown field, or a value out of range.
        """
        _check_fields(fields, {*_BITS_FIELDS, "thresholds"})
        bits = Bits.from_dict({name: fields[name] for name in _BITS_FIELDS})
        return cls(bits, _numbers("thresholds", fields["thresholds"]))

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Parse what :meth:`to_json` wrote.

        Raises:
            BadInput: when the text is not a policy.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"a policy must be JSON ({error}): export it again") from error
        if not isinstance(fields, dict):
            raise BadInput("a policy must be a JSON object: export it again")
        return cls.from_dict(fields)


_BITS_FIELDS = frozenset(
    {"schema", "granularity", "weight_bits", "activation_bits", "embed_bits", "head_bits"}
)


def _check_fields(fields: Mapping[str, Any], expected: Set[str]) -> None:
    if repr(fields.get("schema")) != repr(POLICY_SCHEMA):  # True is no schema
        raise BadInput(
            f"policy schema {fields.get('schema')!r} is not {POLICY_SCHEMA}: "
            "export the policy again with this version of exitbits"
        )
    if set(fields) != expected:
        odd = ", ".join(sorted(repr(name) for name in set(fields) ^ expected))
        raise BadInput(f"policy fields missing or unknown: {odd}; export the policy again")


def _numbers(what: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise BadInput(f"policy field {what} is {values!r}: it must be a list of numbers")
    return tuple(values)


def check_bits(what: str, value: object) -> None:
    """Raise ``BadInput`` unless ``value`` is a bit-width that can be evaluated."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in ALLOWED_BITS:
        raise BadInput(f"{what} {value!r}: choose from 2 to 8, or 32 for full precision")


def check_threshold(what: str, value: object) -> None:
    """Raise ``BadInput`` unless ``value`` is a number in [0, 1]."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 <= cast(float, value) <= 1:  # also false for NaN
        raise BadInput(f"{what} {value!r}: give a number from 0 (always exit) to 1")
