"""What a recovery trains a model for: one set of bits, or every set that a space allows. Plain."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Protocol

from search.cost import Ledger
from search.errors import BadInput
from search.policy import Bits
from search.space import PolicySpace

EXIT_FLOOR = 0.1  # an exit that is hardly taken still steers those that pass it
DRAWN = 2  # sets of bits a step between the widest and the narrowest


class Target(Protocol):
    """What is trained for."""

    def check(self, ledger: Ledger) -> None:
        """Raise ``BadInput`` unless it is of this model."""

    def draw(self, step: int) -> list[Bits]:
        """The sets of bits whose losses make up a step's, steps counted from 1."""

    def exit_weights(self) -> list[float]:
        """How much every exit counts, summing to 1."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for cards and keys."""


@dataclass(frozen=True)
class ForBits:
    """One set of bits.

    Attributes:
        bits: what is trained for.
        exit_rates: how often samples leave by each exit, ``[E]``.
    """

    bits: Bits
    exit_rates: tuple[float, ...]

    def check(self, ledger: Ledger) -> None:
        ledger.widths(self.bits)
        if len(self.exit_rates) != len(ledger.exit_blocks):
            raise BadInput(
                f"policy has {len(self.exit_rates)} exits, the model needs "
                f"{len(ledger.exit_blocks)}: use a policy searched for this model"
            )

    def draw(self, step: int) -> list[Bits]:
        return [self.bits]

    def exit_weights(self) -> list[float]:
        weights = [rate + EXIT_FLOOR for rate in self.exit_rates]
        return [weight / sum(weights) for weight in weights]

    def as_dict(self) -> dict[str, Any]:
        return {"bits": self.bits.as_dict(), "exit_rates": list(self.exit_rates)}


@dataclass(frozen=True)
class ForSpace:
    """Every policy of a space, by one model.

    A step takes the widest bits, the narrowest, and two in between (the sandwich rule, Yu and
    Huang, arXiv 1903.05134): the ends hold what lies between them. The two are drawn about a width
    of weights and one of activations, every group a choice to either side at most, since policies
    worth having are of about equal width. Every exit counts alike: thresholds are found later.

    Attributes:
        space: whose policies.
        seed: of the draws.
    """

    space: PolicySpace
    seed: int = 0

    def check(self, ledger: Ledger) -> None:
        ledger.check(self.space.widest())

    def draw(self, step: int) -> list[Bits]:
        rng = random.Random(self.seed * 1_000_003 + step)
        between = [
            self.space.bits(
                _about(rng, self.space.weight_choices, len(self.space.weight_groups)),
                _about(rng, self.space.activation_choices, len(self.space.activation_groups)),
            )
            for _ in range(DRAWN)
        ]
        return [self.space.widest().bits, *between, self.space.narrowest().bits]

    def exit_weights(self) -> list[float]:
        return [1 / self.space.exits] * self.space.exits

    def as_dict(self) -> dict[str, Any]:
        space = self.space
        return {
            "space": {
                "granularity": space.granularity,
                "weight_bits": list(space.weight_choices),
                "activation_bits": list(space.activation_choices),
                "embed_bits": space.embed_bits,
                "head_bits": space.head_bits,
                "exits": space.exits,
            },
            "draws": self.seed,
        }


def _about(rng: random.Random, choices: tuple[int, ...], groups: int) -> list[int]:
    """A width of every group, about one that is drawn for all."""
    middle = rng.randrange(len(choices))
    last = len(choices) - 1
    return [choices[min(max(middle + rng.choice((-1, 0, 1)), 0), last)] for _ in range(groups)]
