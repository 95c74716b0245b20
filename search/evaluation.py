"""The verdict on one policy: metric, cost and routing, from a trace and the ledger. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search.cost import Cost, Ledger, References
from search.policy import Policy
from search.tasks import Task
from search.trace import ExitTrace

GIGA = 1e9


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one policy on one split.

    Attributes:
        policy: the policy.
        metric: name of the metric.
        value, standard_error: the metric and its standard error, in [0, 1].
        cost: BOPs a sample.
        references: what reductions are measured against.
        exit_rates: fraction of samples that leave at each exit.
        utilization: fraction of samples that run each block.
        mean_exit: mean number of blocks executed.
        samples: how many were evaluated.
        engine: name of the engine that ran the model.
    """

    policy: Policy
    metric: str
    value: float
    standard_error: float
    cost: Cost
    references: References
    exit_rates: tuple[float, ...]
    utilization: tuple[float, ...]
    mean_exit: float
    samples: int
    engine: str = "reference"  # of what was recorded before there was another

    @property
    def gbops(self) -> float:
        """Expected cost in 1e9 bit operations a sample."""
        return self.cost.expected / GIGA

    @property
    def reduction(self) -> float:
        """Fraction of the 32x32 full-depth cost that is saved."""
        return 1 - self.cost.expected / self.references.w32a32

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store and for policy bundles."""
        fields = asdict(self)
        fields["policy"] = self.policy.as_dict()
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Evaluation:
        """Build what :meth:`as_dict` gave."""
        return cls(
            **{
                **fields,
                "policy": Policy.from_dict(fields["policy"]),
                "cost": Cost(**fields["cost"]),
                "references": References(**fields["references"]),
                "exit_rates": tuple(fields["exit_rates"]),
                "utilization": tuple(fields["utilization"]),
            }
        )


def judge(policy: Policy, trace: ExitTrace, ledger: Ledger, task: Task) -> Evaluation:
    """Measure ``policy`` on the trace of its own bits."""
    routing = trace.replay(policy.thresholds)
    score = task.score(routing.statistic)
    return Evaluation(
        policy=policy,
        metric=task.metric,
        value=score.value,
        standard_error=score.standard_error,
        cost=ledger.cost(policy, routing.exits),
        references=ledger.references(policy),
        exit_rates=tuple(float(rate) for rate in routing.exit_rates),
        utilization=tuple(float(used) for used in routing.utilization),
        mean_exit=routing.mean_exit,
        samples=len(trace),
        engine=trace.engine,
    )
