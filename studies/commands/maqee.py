"""``exitbits maqee``: alternate thresholds and bits under budgets, and record what is found."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.methods.maqee import refuse_impossible
from search.methods.settings import MaqeeSettings
from search.results import GIGA
from studies.commands.common import positive, read_store
from studies.commands.method_options import (
    add_models,
    add_recovery,
    add_settings,
    add_study,
    check_data,
    print_table,
    read_training,
)
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    from search.methods.maqee import MaqeeResult
    from search.results import Evaluation
    from search.risk.terms import RiskTerms
    from studies.methods.bench import Workbench
    from studies.methods.recovery import Recovery

SOURCE = "MAQEE"
RECOVERED = "MAQEE+recovery"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits maqee``."""
    add_study(parser)
    parser.add_argument(
        "--budgets", type=_gbops, nargs="+", required=True, metavar="X",
        help="expected GBOPs a sample that policies may cost",
    )  # fmt: skip
    add_settings(parser)
    parser.add_argument(
        "--epsilon", type=float, nargs="+", metavar="E",
        help="bounds on the risk from which the loop starts (default: taken from the model)",
    )  # fmt: skip
    parser.add_argument(
        "--starts", type=positive, default=MaqeeSettings.starts,
        help="how many bounds are taken from the model (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-iterations", type=positive, default=MaqeeSettings.max_iterations,
        help="most allocations under one bound (default %(default)s)",
    )  # fmt: skip
    add_recovery(parser, required=False)
    add_models(parser)


def _gbops(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number of GBOPs")
    return value


def run(args: argparse.Namespace) -> int:
    """Search under every budget, record each policy as it is found, and print them all."""
    check_data(args)
    settings = MaqeeSettings(
        alpha=args.alpha,
        beta=args.beta,
        epsilons=None if args.epsilon is None else tuple(args.epsilon),
        starts=args.starts,
        max_iterations=args.max_iterations,
    )
    store = StudyStore(read_store(args))
    study = store.get(args.study)
    record = study.record
    refuse_impossible(record.space, record.ledger, min(args.budgets) * GIGA)
    console = Console(stderr=True)

    from studies.methods.bench import open_workbench

    bench = open_workbench(record, args.cache, settings, console, read_training(args))
    rows: list[dict[str, Any]] = []
    for budget in sorted(args.budgets):
        result, row = _search(store, study.id, bench, budget, console)
        rows.append(row)
        if bench.recovery is not None:
            rows.append(
                _recover(store, study.id, bench, bench.recovery, result, args.models, console)
            )
    if args.json:
        print(json.dumps({"study": args.study, "policies": rows}, indent=2, allow_nan=False))
        return 0
    print_table(
        f"MAQEE on {args.study}",
        [_shown(row) for row in rows],
        [
            f"full precision, full depth: {record.metric} {record.reference_value:.4f}",
            "risk is G + alpha BSR on the search split, which chose these policies: it flatters",
            "passes: sets of bits traced for the budget, those known from before included",
            *_unattained(rows, args.epsilon),
            *(() if args.data else ("not recovered: give --data DIR for self-distillation",)),
        ],
    )
    return 0


def _search(
    store: StudyStore, study_id: int, bench: Workbench, budget: float, console: Console
) -> tuple[MaqeeResult, dict[str, Any]]:
    """Run the loop under a budget in GBOPs and record what it finds."""
    from search.methods.maqee import Maqee
    from studies.methods.bench import bar
    from studies.store.contributions import Contribution, contribute

    started = time.monotonic()
    with bar(console) as shown:
        task = shown.add_task(f"MAQEE at {budget:g} GBOPs", total=None)
        loop = Maqee(bench.outer, bench.tables, lambda iterate: shown.advance(task))
        result = loop.search(budget * GIGA)
    evaluation = bench.evaluator.evaluate(result.policy)
    attributes = {"maqee": result.as_dict(), "maqee_settings": bench.outer.settings.as_dict()}
    contribute(store, study_id, [Contribution(SOURCE, evaluation, attributes=attributes)])
    terms = bench.outer.terms(result.policy)
    return result, _row(SOURCE, result, evaluation, terms, time.monotonic() - started)


def _recover(
    store: StudyStore,
    study_id: int,
    bench: Workbench,
    recovery: Recovery,
    result: MaqeeResult,
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Recover the model for a result's policy, choose its thresholds anew, and record it."""
    from studies.methods.bench import recovery_bar
    from studies.store.contributions import Contribution, contribute

    started = time.monotonic()
    policy = result.policy
    rates = bench.evaluator.evaluate(policy).exit_rates
    file = folder / f"{recovery.key(policy.bits, rates)[:16]}.safetensors"
    with recovery_bar(console, f"MAQEE at {result.budget / GIGA:g} GBOPs") as on_step:
        made = recovery.make(policy.bits, rates, file, on_step)
    outer = bench.outer.on(made.traces)
    found = outer.under(policy.bits, result.budget)
    chosen = policy if found is None else found[0]
    better = made.traces.evaluate(chosen)
    contribution = Contribution(RECOVERED, better, made.digest, made.weights)
    contribute(store, study_id, [contribution])
    row = _row(RECOVERED, result, better, outer.terms(chosen), time.monotonic() - started)
    return {**row, "checkpoint": str(made.weights)}


def _row(
    source: str,
    result: MaqeeResult,
    evaluation: Evaluation,
    terms: RiskTerms,
    seconds: float,
) -> dict[str, Any]:
    references = evaluation.references
    return {
        "source": source,
        "digest": evaluation.policy.digest,
        "budget_gbops": result.as_dict()["budget_gbops"],
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
        "seconds": seconds,
        **{key: value for key, value in result.as_dict().items() if key != "budget_gbops"},
    }


def _shown(row: dict[str, Any]) -> dict[str, str]:
    bits = row["policy"]
    return {
        "method": row["source"],
        "budget": f"{row['budget_gbops']:g}",
        "accuracy": f"{row['accuracy']:.4f}",
        "± se": f"{row['accuracy_se']:.4f}",
        "GBOPs": f"{row['gbops']:.4f}",
        "<32x32": f"{row['reduction']:.2%}",
        "gap": f"{row['gap']:+.4f}",
        "premature": f"{row['premature']:.3f}",
        "delayed": f"{row['delayed']:.3f}",
        "exit": f"{row['mean_exit']:.2f}",
        "bits w": "".join(str(width) for width in bits["weight_bits"]),
        "bits a": "".join(str(width) for width in bits["activation_bits"]),
        "passes": str(row["passes"]),
        "s": f"{row['seconds']:.0f}",
    }


def _unattained(rows: list[dict[str, Any]], epsilons: list[float] | None) -> list[str]:
    """Says which of the asked bounds no policy within a budget meets."""
    return [
        f"epsilon {epsilon:g} is not met within {row['budget_gbops']:g} GBOPs: the least risk "
        f"found is {row['risk']:.4f}"
        for epsilon in epsilons or ()
        for row in rows
        if row["source"] == SOURCE and row["risk"] > epsilon
    ]
