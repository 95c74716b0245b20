"""The hyperparameters of MAQEE's loop, with their ranges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from search.errors import BadInput, check_range


@dataclass(frozen=True)
class MaqeeSettings:
    """Hyperparameters of the loop.

    Attributes:
        alpha: weight of boundary risk beside gap risk, 0 to 10: how many errors one exit decision
            is worth that full precision would have taken otherwise.
        beta: weight of drift beside noise in the allocation, 0 to 1000.
        epsilons: bounds on the risk, each -1 to 12, under which the loop is run; small ones send
            samples deep, large ones let them leave early. None takes them from the model itself.
        starts: how many epsilons None takes, 1 to 100: the risks of evenly ranked points of the
            threshold front of the widest bits.
        max_iterations: most allocations tried under one epsilon, 1 to 100.
        min_gain: a relative gain in the objective below this ends the loop, 0 to 1.
        amortized: whether allocation weighs layers by use; if not, as if all were used by all.
        one_threshold: whether all exits share one threshold.
    """

    alpha: float = 0.05
    beta: float = 1.0
    epsilons: tuple[float, ...] | None = None
    starts: int = 6
    max_iterations: int = 5
    min_gain: float = 1e-3
    amortized: bool = True
    one_threshold: bool = False

    def __post_init__(self) -> None:
        if self.epsilons == ():
            raise BadInput("no epsilon: give at least one bound on the risk, such as 0.01")
        for name, value, low, high in (
            ("alpha", self.alpha, 0, 10),
            ("beta", self.beta, 0, 1000),
            *(("epsilon", value, -1, 12) for value in self.epsilons or ()),
            ("min_gain", self.min_gain, 0, 1),
        ):
            check_range(name, value, low, high)
        for name in ("starts", "max_iterations"):
            check_range(name, getattr(self, name), 1, 100, whole=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store."""
        return {**asdict(self), "epsilons": self.epsilons and list(self.epsilons)}
