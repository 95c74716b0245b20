"""MAQEE under budgets, each policy recorded as it is found. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cost import GIGA, NO_BOUNDS, Budget
from search.methods.maqee import Iterate, Maqee, MaqeeResult, bounds_in_words
from search.results import Evaluation
from search.risk.terms import RiskTerms
from search.training.targets import ForBits
from studies.methods.opened import OpenedStudy
from studies.methods.recovery import OnProgress, Recovery, steps_of
from studies.store.contributions import Contribution, contribute

SOURCE = "MAQEE"
RECOVERED = "MAQEE+recovery"


@dataclass(frozen=True)
class MaqeePolicy:
    """A policy that the loop found, or that recovery made of one.

    Attributes:
        source: which of the two.
        result: of the loop.
        evaluation: of the policy.
        terms: its risk.
        seconds: that it took.
        checkpoint: the recovered one, None for the study's own.
    """

    source: str
    result: MaqeeResult
    evaluation: Evaluation
    terms: RiskTerms
    seconds: float
    checkpoint: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """The contract of ``maqee --json``."""
        evaluation, terms = self.evaluation, self.terms
        references, result = evaluation.references, self.result.as_dict()
        fields = {
            "source": self.source,
            "digest": evaluation.policy.digest,
            "budget_gbops": result.pop("budget_gbops"),
            "accuracy": evaluation.value,
            "accuracy_se": evaluation.standard_error,
            "gbops": evaluation.gbops,
            "reduction": evaluation.reduction,
            "reduction_w8a8": 1 - evaluation.cost.expected / references.w8a8,
            "reduction_same_bits": 1 - evaluation.cost.expected / references.same_bits,
            "mean_exit": evaluation.mean_exit,
            "policy": evaluation.policy.as_dict(),
            "gap": terms.gap,
            "premature": terms.premature,
            "delayed": terms.delayed,
            "rescue": terms.rescue,
            "harm": terms.harm,
            "seconds": self.seconds,
            **result,
        }
        return fields if self.checkpoint is None else {**fields, "checkpoint": str(self.checkpoint)}


def search_budgets(
    opened: OpenedStudy,
    budgets: Sequence[float],
    within: Budget = NO_BOUNDS,
    on_progress: OnProgress = lambda what, done, of: None,
) -> Iterator[MaqeePolicy]:
    """Search under every budget, the smallest first, and recover each where that is set up.

    Args:
        opened: the study.
        budgets: expected GBOPs that a policy may cost, infinite for any.
        within: bounds on other costs.
        on_progress: receives how far it is.

    Yields:
        each policy, recorded.

    Raises:
        NoPolicyFound: when no policy fits a budget.
    """
    for budget in sorted(budgets):
        policy = _search(opened, budget, within, on_progress)
        yield policy
        if opened.recovery is not None:
            yield _recover(opened, opened.recovery, policy.result, on_progress)


def _search(
    opened: OpenedStudy, budget: float, within: Budget, on_progress: OnProgress
) -> MaqeePolicy:
    started = time.monotonic()
    bounds = bounds_in_words(budget * GIGA, within)
    what, allocations = f"MAQEE at {bounds}", 0
    on_progress(what, 0, None)

    def on_iterate(iterate: Iterate) -> None:
        nonlocal allocations
        allocations += 1
        on_progress(what, allocations, None)

    result = Maqee(opened.outer, opened.tables, within, on_iterate).search(budget * GIGA)
    evaluation = opened.evaluator.evaluate(result.policy)
    attributes = {"maqee": result.as_dict(), "maqee_settings": opened.outer.settings.as_dict()}
    contribution = Contribution(SOURCE, evaluation, attributes=attributes)
    contribute(opened.store, opened.study.id, [contribution])
    terms = opened.outer.terms(result.policy)
    return MaqeePolicy(SOURCE, result, evaluation, terms, time.monotonic() - started)


def _recover(
    opened: OpenedStudy, recovery: Recovery, result: MaqeeResult, on_progress: OnProgress
) -> MaqeePolicy:
    """Recover the model for a result's policy, choose its thresholds anew, and record it."""
    started = time.monotonic()
    policy = result.policy
    rates = opened.evaluator.evaluate(policy).exit_rates
    on_step = steps_of(f"recovering MAQEE at {result.bounds}", on_progress)
    made = recovery.make(ForBits(policy.bits, rates), on_step=on_step)
    outer = opened.outer.on(made.traces)
    found = outer.under(policy.bits, result.budget, result.within)
    chosen = policy if found is None else found[0]
    evaluation = made.traces.evaluate(chosen)
    contribution = Contribution(RECOVERED, evaluation, made.digest, made.weights)
    contribute(opened.store, opened.study.id, [contribution])
    terms, seconds = outer.terms(chosen), time.monotonic() - started
    return MaqeePolicy(RECOVERED, result, evaluation, terms, seconds, made.weights)
