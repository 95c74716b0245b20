"""The space of legal policies, and how a sampler proposes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from search.cost import Ledger
from search.errors import BadInput
from search.policy import (
    FULL_PRECISION,
    QUANTIZED_BITS,
    Bits,
    Granularity,
    Policy,
    check_bits,
    check_threshold,
)


class Proposer(Protocol):
    """Where values come from. An Optuna trial is one."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""


@dataclass(frozen=True)
class PolicySpace:
    """All legal policies of one model.

    A set of bit-widths without gaps is proposed as the width itself; one with gaps as the index
    into it, so that samplers keep its order.

    Attributes:
        granularity: what a group is.
        weight_groups, activation_groups: names of the groups, in order of execution.
        exits: number of exits; the last has no threshold to propose.
        weight_choices, activation_choices: ascending legal bit-widths.
        threshold_low, threshold_high: range of every proposed threshold, within [0, 1].
        embed_bits, head_bits: fixed bits of the patch embedding and of the heads.
    """

    granularity: Granularity
    weight_groups: tuple[str, ...]
    activation_groups: tuple[str, ...]
    exits: int
    weight_choices: tuple[int, ...] = QUANTIZED_BITS
    activation_choices: tuple[int, ...] = QUANTIZED_BITS
    threshold_low: float = 0.0
    threshold_high: float = 1.0
    embed_bits: int = 8
    head_bits: int = 8

    def __post_init__(self) -> None:
        for what in ("weight_choices", "activation_choices"):
            choices = getattr(self, what)
            if not choices or list(choices) != sorted(set(choices)):
                raise BadInput(f"{what} {list(choices)}: give ascending bit-widths, each once")
            for bits in choices:
                check_bits(what, bits)
        check_threshold("lowest threshold", self.threshold_low)
        check_threshold("highest threshold", self.threshold_high)
        if self.threshold_low > self.threshold_high:
            raise BadInput(
                f"lowest threshold {self.threshold_low} is above the highest {self.threshold_high}"
            )

    @classmethod
    def from_ledger(cls, ledger: Ledger, granularity: Granularity, **options: Any) -> PolicySpace:
        """The space over a model's groups and exits; ``options`` are the remaining attributes."""
        weights, activations = ledger.groups(granularity)
        return cls(granularity, weights, activations, len(ledger.exit_blocks), **options)

    def propose(self, proposer: Proposer) -> Policy:
        """Ask ``proposer`` for every value, always in the same order under the same names."""
        weights = [
            self._choose(proposer, f"w.{group}", self.weight_choices)
            for group in self.weight_groups
        ]
        activations = [
            self._choose(proposer, f"a.{group}", self.activation_choices)
            for group in self.activation_groups
        ]
        thresholds = [
            proposer.suggest_float(f"t.exit{index}", self.threshold_low, self.threshold_high)
            for index in range(1, self.exits)
        ]
        return Policy(self.bits(weights, activations), (*thresholds, 0.0))

    def encode(self, policy: Policy) -> dict[str, int | float]:
        """The values by which :meth:`propose` would give ``policy``.

        Raises:
            BadInput: when the policy is not in this space.
        """
        self.check(policy)
        values: dict[str, int | float] = {}
        for prefix, groups, choices, bits in (
            ("w", self.weight_groups, self.weight_choices, policy.bits.weights),
            ("a", self.activation_groups, self.activation_choices, policy.bits.activations),
        ):
            for group, width in zip(groups, bits, strict=True):
                values[f"{prefix}.{group}"] = (
                    width if _without_gaps(choices) else choices.index(width)
                )
        for index, threshold in enumerate(policy.thresholds[:-1], start=1):
            values[f"t.exit{index}"] = threshold
        return values

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise ``BadInput`` unless :meth:`propose` could be given these values, or some of them.

        Args:
            values: by the names of :meth:`propose`, of whatever origin.
        """
        asked = _Asked()
        self.propose(asked)
        for name, value in values.items():
            if name not in asked.ranges:
                names = list(asked.ranges)
                raise BadInput(f"{name!r} is no value of this space: {names[0]} to {names[-1]} are")
            low, high, whole = asked.ranges[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and low <= value <= high) or (whole and value != int(value)):
                kind = "a whole number " if whole else ""
                raise BadInput(f"{name} = {value!r}: this space allows {kind}{low} to {high}")

    def decode(self, values: Mapping[str, Any]) -> Policy:
        """The policy that :meth:`encode` gave ``values`` for."""
        return self.propose(_Recorded(values))

    def contains(self, policy: Policy) -> bool:
        """Whether ``policy`` is in this space."""
        try:
            self.check(policy)
        except BadInput:
            return False
        return True

    def check(self, policy: Policy) -> None:
        """Raise ``BadInput`` unless ``policy`` is in this space."""
        shape = (
            self.granularity, len(self.weight_groups), len(self.activation_groups), self.exits,
            self.embed_bits, self.head_bits,
        )  # fmt: skip
        bits = policy.bits
        given = (
            bits.granularity, len(bits.weights), len(bits.activations), len(policy.thresholds),
            bits.embed, bits.head,
        )  # fmt: skip
        if shape != given:
            raise BadInput(
                "the policy does not fit the space: (granularity, weight groups, activation "
                f"groups, exits, embed bits, head bits) is {given}, must be {shape}"
            )
        for what, widths, choices in (
            ("weight_bits", bits.weights, self.weight_choices),
            ("activation_bits", bits.activations, self.activation_choices),
        ):
            for value in widths:
                if value not in choices:
                    listed = ", ".join(str(choice) for choice in choices)
                    raise BadInput(f"{what} {value}: this space allows {listed}")
        for threshold in policy.thresholds[:-1]:
            if not self.threshold_low <= threshold <= self.threshold_high:
                raise BadInput(
                    f"threshold {threshold}: this space allows "
                    f"{self.threshold_low} to {self.threshold_high}"
                )

    def bits(self, weights: Iterable[int], activations: Iterable[int]) -> Bits:
        """Bits of this space's groups, with its embedding and heads.

        Args:
            weights, activations: one width a group, in the groups' order.
        """
        return Bits(
            self.granularity,
            tuple(int(width) for width in weights),
            tuple(int(width) for width in activations),
            self.embed_bits,
            self.head_bits,
        )

    def policy(self, bits: Bits, threshold: float) -> Policy:
        """Bits under the same threshold at every exit but the last."""
        return Policy(bits, (*[float(threshold)] * (self.exits - 1), 0.0))

    def uniform(self, bits: int, threshold: float) -> Policy:
        """The same bits in every group and the same threshold at every exit but the last."""
        weights, activations = len(self.weight_groups), len(self.activation_groups)
        return self.policy(self.bits([bits] * weights, [bits] * activations), threshold)

    def narrowest(self) -> Policy:
        """The fewest bits everywhere, every threshold at its lowest."""
        return self.policy(self._extreme(0), self.threshold_low)

    def widest(self) -> Policy:
        """The most bits everywhere, every threshold at its highest."""
        return self.policy(self._extreme(-1), self.threshold_high)

    def full_precision(self) -> Bits:
        """No quantization anywhere, embedding and heads included; outside the space."""
        wide = FULL_PRECISION
        weights = (wide,) * len(self.weight_groups)
        return Bits(self.granularity, weights, (wide,) * len(self.activation_groups), wide, wide)

    def _extreme(self, choice: int) -> Bits:
        return self.bits(
            [self.weight_choices[choice]] * len(self.weight_groups),
            [self.activation_choices[choice]] * len(self.activation_groups),
        )

    @staticmethod
    def _choose(proposer: Proposer, name: str, choices: tuple[int, ...]) -> int:
        if _without_gaps(choices):
            return proposer.suggest_int(name, choices[0], choices[-1])
        return choices[proposer.suggest_int(name, 0, len(choices) - 1)]


@dataclass(frozen=True)
class _Recorded:
    """A proposer that repeats recorded values."""

    values: Mapping[str, Any]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.values[name])

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return float(self.values[name])


class _Asked:
    """A proposer that notes what is asked for: lowest, highest, and whether it is whole."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[float, float, bool]] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.ranges[name] = (low, high, True)
        return low

    def suggest_float(self, name: str, low: float, high: float) -> float:
        self.ranges[name] = (low, high, False)
        return low


def _without_gaps(choices: tuple[int, ...]) -> bool:
    return choices == tuple(range(choices[0], choices[-1] + 1))
