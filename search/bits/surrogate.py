"""Cheap guesses of what bits are worth: cost by the ledger, damage by additive tables.

Many candidates can be ranked in the time of a fraction of a pass. Costs are exact for the exit
rates that are assumed. Damage is the objective of APQ (:mod:`search.bits.allocation`); without
measured tables the noise of a group stands in as 4^-b, the power of rounding noise at b bits, and
drift as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.bits.allocation import Usage
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import GIGA, Ledger, group_of
from search.policy import Bits
from search.space import PolicySpace


@dataclass(frozen=True)
class Surrogate:
    """Ranks bit vectors of one space: weight bits, then activation bits, as in a policy.

    Attributes:
        space: legal widths and groups.
        ledger: operations.
        tables: measured sensitivities, or None.
        beta: weight of drift beside noise. Accuracy follows drift, by much the same slope at all;
            noise says what lies in the way of exits that are hardly taken.
    """

    space: PolicySpace
    ledger: Ledger
    tables: SensitivityTables | None = None
    beta: float = 10.0

    def vector(self, bits: Bits) -> np.ndarray:
        """Weight widths, then activation widths, int64 ``[G]``."""
        return np.array(bits.weights + bits.activations, dtype=np.int64)

    def bits(self, vector: np.ndarray) -> Bits:
        """The bits that :meth:`vector` gave ``vector`` for."""
        weights = len(self.space.weight_groups)
        return self.space.bits(vector[:weights], vector[weights:])

    @cached_property
    def _macs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """MACs by block ``[blocks + 1, ...]`` (0 always runs): of weights times activations of
        each weight group, of activations times activations of each activation group, and BOPs of
        what has fixed bits; and the activation group of every weight group."""
        blocks = self.ledger.exit_blocks[-1] + 1
        by_weights = np.zeros((blocks, len(self.space.weight_groups)))
        by_activations = np.zeros((blocks, len(self.space.activation_groups)))
        fixed = np.zeros(blocks)
        bits = {"embed": self.space.embed_bits, "head": self.space.head_bits}
        for op in self.ledger.ops:
            if op.part != "block":
                fixed[op.block] += op.macs * bits[op.part] ** 2
                continue
            group = group_of(op, self.space.granularity)
            if op.kind == "matmul":
                by_activations[op.block, self.space.activation_groups.index(group)] += op.macs
            else:
                by_weights[op.block, self.space.weight_groups.index(group)] += op.macs
        partner = [self.space.activation_groups.index(name) for name in self.space.weight_groups]
        return by_weights, by_activations, fixed, np.array(partner)

    def gbops(self, vectors: np.ndarray, usage: Usage) -> np.ndarray:
        """Expected GBOPs of bit vectors ``[M, G]`` under a usage, ``[M]``."""
        by_weights, by_activations, fixed, partner = self._macs
        used = np.concatenate([[1.0], usage.utilization])
        weights = vectors[:, : len(self.space.weight_groups)]
        activations = vectors[:, len(self.space.weight_groups) :]
        bops = (weights * activations[:, partner]) @ (used @ by_weights)
        bops = bops + activations**2 @ (used @ by_activations) + used @ fixed
        cost: np.ndarray = bops / GIGA
        return cost

    def damage(self, vectors: np.ndarray, usage: Usage) -> np.ndarray:
        """The objective of APQ for bit vectors ``[M, G]`` under a usage, ``[M]``."""
        table = self._table(usage)
        found: np.ndarray = table[np.arange(vectors.shape[1]), vectors].sum(axis=1)
        return found

    @property
    def blocks(self) -> np.ndarray:
        """The block of every entry of a vector, from 1, int64 ``[G]``."""
        return np.array([block for block, _ in self._rows], dtype=np.int64)

    def _table(self, usage: Usage) -> np.ndarray:
        """Damage of every group at every width, ``[G, 33]``; infinite where none was measured."""
        groups = len(self.space.weight_groups) + len(self.space.activation_groups)
        table = np.full((groups, 33), np.inf)
        for index, (block, row) in enumerate(self._rows):
            used = usage.utilization[block - 1]
            if row is None:
                table[index] = used * 4.0 ** -np.arange(33)
                continue
            drift = row.drift @ usage.exit_rates
            table[index, list(row.bits)] = used * row.noise + self.beta * drift
            table[index, 32] = 0.0
        return table

    @cached_property
    def _rows(self) -> list[tuple[int, Sensitivity | None]]:
        """Block and sensitivity of every group, in the order of the vectors."""
        blocks = {
            group_of(op, self.space.granularity): op.block
            for op in self.ledger.ops
            if op.part == "block"
        }
        tables = self.tables
        return [
            (blocks[name], None if tables is None else tables.weights[name])
            for name in self.space.weight_groups
        ] + [
            (blocks[name], None if tables is None else tables.activations[name])
            for name in self.space.activation_groups
        ]


def front_gain(points: np.ndarray, front: np.ndarray, high: float, *, log: bool) -> np.ndarray:
    """Area that each point alone would add below a front, up to the cost ``high``.

    Args:
        points: metric and cost, ``[M, 2]``.
        front: non-dominated points by ascending cost, ``[K, 2]``.
        high: cost at which a point is worth nothing.
        log: whether area is measured over the logarithm of cost, from the cheapest cost here on.
    """
    low = min(points[:, 1].min(), front[0, 1])
    edges = np.concatenate([[low], front[:, 1], [max(high, front[-1, 1])]])
    costs = np.clip(points[:, 1], low, edges[-1])
    if log:
        edges, costs = np.log(edges), np.log(costs)
    values = np.concatenate([[0.0], front[:, 0]])
    widths = np.maximum(0, edges[1:] - np.maximum(edges[:-1], costs[:, None]))
    gain: np.ndarray = (np.maximum(0, points[:, 0, None] - values) * widths).sum(axis=1)
    return gain
