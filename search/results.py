"""What was measured of one policy: metric, cost and routing, from a trace and the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search.cost import GIGA, Cost, Ledger, References
from search.display import compact, html_table
from search.policy import Policy
from search.risk.terms import RiskTerms, measure_risk
from search.tasks import Task
from search.trace import ExitTrace, Routing


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
        exit_values: the metric of the samples that leave at each exit, None where none leaves.
        risk: what changes against full precision at full depth, sample by sample.

    The last two are None where they were not measured: before there were such figures, and ``risk``
    where a pass was given up.
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
    exit_values: tuple[float | None, ...] | None = None
    risk: RiskTerms | None = None

    @property
    def gbops(self) -> float:
        """Expected cost in 1e9 bit operations a sample."""
        return self.cost.expected / GIGA

    @property
    def reduction(self) -> float:
        """Fraction of the 32x32 full-depth cost that is saved."""
        return 1 - self.cost.expected / self.references.w32a32

    @property
    def drop_se(self) -> float | None:
        """Standard error of the metric's drop below full precision, image by image.

        None where it was not measured, or the metric is no mean of losses that are 0 or 1.
        """
        if self.risk is None or self.metric != "accuracy":
            return None
        return self.risk.paired_se(self.samples)

    def summary(self) -> dict[str, Any]:
        """The figures that a person compares, one row of a table: plain values."""
        bits = self.policy.bits
        return {
            self.metric: self.value,
            "se": self.standard_error,
            "gbops": self.gbops,
            "gbops_p95": self.cost.p95 / GIGA,
            "reduction": self.reduction,
            "mean_exit": self.mean_exit,
            "weight_bits": compact(bits.weights),
            "activation_bits": compact(bits.activations),
            "thresholds": " ".join(f"{value:.2f}" for value in self.policy.thresholds[:-1]),
            "digest": self.policy.digest[:12],
        }

    def __str__(self) -> str:
        rates = " ".join(f"{rate:.3f}" for rate in self.exit_rates)
        lines = [
            f"{self.metric} {self.value:.4f} ± {self.standard_error:.4f} on {self.samples} images "
            f"({self.engine} engine)",
            f"GBOPs {self.gbops:.4f} expected, {self.cost.p95 / GIGA:.4f} at the 95th percentile, "
            f"{self.cost.worst / GIGA:.4f} at worst; {self.reduction:.2%} below 32x32 full depth",
            f"exits {rates}; mean exit after block {self.mean_exit:.2f}",
        ]
        if (risk := self.risk) is not None:
            lines.append(
                f"risk {risk.gap:+.4f} against full precision: {risk.rescue:.2%} rescued, "
                f"{risk.harm:.2%} harmed, {risk.boundary:.3f} flipped exit decisions"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        row = self.summary()
        return html_table(f"policy {row.pop('digest')}", [*row], [[*row.values()]])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store and for policy bundles."""
        fields = asdict(self)
        fields["policy"] = self.policy.as_dict()
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Evaluation:
        """Build what :meth:`as_dict` gave."""
        values, risk = fields.get("exit_values"), fields.get("risk")
        return cls(
            **{
                **fields,
                "exit_values": None if values is None else tuple(values),
                "risk": None if risk is None else RiskTerms(**risk),
                "policy": Policy.from_dict(fields["policy"]),
                "cost": Cost(**fields["cost"]),
                "references": References(**fields["references"]),
                "exit_rates": tuple(fields["exit_rates"]),
                "utilization": tuple(fields["utilization"]),
            }
        )


def evaluate_trace(
    policy: Policy,
    trace: ExitTrace,
    ledger: Ledger,
    task: Task,
    reference: ExitTrace | None = None,
) -> Evaluation:
    """Measure ``policy`` on the trace of its own bits.

    Args:
        policy: whose thresholds, and whose cost.
        trace: of its bits.
        ledger: operations of the model.
        task: gives metric and loss.
        reference: of the full-precision model over the same samples, for the risk terms.
    """
    routing = trace.replay(policy.thresholds)
    score = task.score(routing.statistic)
    return Evaluation(
        policy=policy,
        metric=task.metric,
        value=score.value,
        standard_error=score.standard_error,
        cost=ledger.cost(policy.bits, routing.exits),
        references=ledger.references(policy.bits),
        exit_rates=tuple(float(rate) for rate in routing.exit_rates),
        utilization=tuple(float(used) for used in routing.utilization),
        mean_exit=routing.mean_exit,
        samples=len(trace),
        engine=trace.engine,
        exit_values=_exit_values(routing, task),
        risk=None if reference is None else measure_risk(trace, reference, policy.thresholds, task),
    )


def _exit_values(routing: Routing, task: Task) -> tuple[float | None, ...]:
    values = []
    for exit_index in range(len(routing.exit_blocks)):
        left = routing.statistic[routing.exits == exit_index]
        values.append(task.score(left).value if len(left) else None)
    return tuple(values)
