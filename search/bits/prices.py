"""What bits cost by every measure, a layer group at a time: what allocation adds up. Plain."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from search.cost import Ledger, Measure, group_of, untold
from search.space import PolicySpace


@dataclass
class Prices:
    """A cost as it grows with the bits of every site.

    Attributes:
        measure: what it is.
        fixed: of what is not searched.
        products: by group, a bit of weights times a bit of activations.
        squares: by group, a bit of activations squared.
        widths: by group, a bit of weights.
    """

    measure: Measure
    fixed: float = 0.0
    products: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)

    def of(self, group: str, weight_bits: int | None, activation_bits: int) -> float:
        """Of a site at its bits."""
        cost = self.squares.get(group, 0.0) * activation_bits**2
        if weight_bits is not None:
            cost += self.products.get(group, 0.0) * activation_bits * weight_bits
            cost += self.widths.get(group, 0.0) * weight_bits
        return cost


def prices_of(
    measure: Measure,
    space: PolicySpace,
    ledger: Ledger,
    utilization: np.ndarray,
    exit_rates: np.ndarray,
) -> Prices:
    """The prices of a measure.

    Args:
        measure: of the cost.
        space: groups, and the widths of what is not searched.
        ledger: operations.
        utilization: u_l, ``[blocks]``.
        exit_rates: pi_e, ``[E]``.

    Raises:
        BadInput: when the ledger does not tell what it takes.
    """
    fixed = {"embed": space.embed_bits, "head": space.head_bits}
    prices = Prices(measure)
    if measure in ("memory", "mean_bits"):
        if not ledger.tells_weights:
            raise untold(measure)
        for op in ledger.ops:
            if op.part != "block":
                prices.fixed += op.weights * fixed[op.part] / 8
            elif op.weights:
                group = group_of(op, space.granularity)
                prices.widths[group] = prices.widths.get(group, 0.0) + op.weights / 8
        if measure == "memory":
            return prices
        total = sum(prices.widths.values())
        widths = {group: each / total for group, each in prices.widths.items()}
        return Prices(measure, widths=widths)
    paid = _paid(measure, ledger, utilization, exit_rates)
    for op in ledger.ops:
        macs = op.macs * (paid[op.block - 1] if op.block else 1.0)
        if op.part != "block":
            prices.fixed += macs * fixed[op.part] ** 2
            continue
        rates = prices.squares if op.kind == "matmul" else prices.products
        group = group_of(op, space.granularity)
        rates[group] = rates.get(group, 0.0) + macs
    return prices


def _paid(
    measure: Measure, ledger: Ledger, utilization: np.ndarray, exit_rates: np.ndarray
) -> list[float]:
    """How much of every block's BOPs a cost counts; the embedding's are counted by all."""
    if measure == "expected":
        return [float(used) for used in utilization]
    depth = ledger.exit_blocks[-1]
    if measure == "p95":
        depth = ledger.exit_blocks[int(np.argmax(np.cumsum(exit_rates) >= 0.95 - 1e-12))]
    return [float(block <= depth) for block in range(1, ledger.exit_blocks[-1] + 1)]
