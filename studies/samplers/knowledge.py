"""What a sampler may ask about the study that it proposes for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from search.bits.surrogate import Surrogate
from search.policy import Bits, Policy
from search.results import Evaluation


class Knowledge(Protocol):
    """Front, measured bits and pending policies of one study."""

    @property
    def surrogate(self) -> Surrogate:
        """What damage and cost are estimated by, in the study's space."""

    @property
    def reference_gbops(self) -> float:
        """The cost up to which the front's hypervolume counts."""

    def learn(self) -> None:
        """Take up what is new."""

    def front(self) -> tuple[np.ndarray, Sequence[int]]:
        """Metric and GBOPs of the legal policies on the front, ``[K, 2]``, and a key of each."""

    def evaluations(self, keys: Sequence[int]) -> list[Evaluation]:
        """The whole evaluations of points on the front, as far as they can be had now."""

    def best_by_bits(self) -> Mapping[Bits, float]:
        """The best metric recorded of every set of bits."""

    def pending(self) -> list[Policy]:
        """Policies in workers' hands."""
