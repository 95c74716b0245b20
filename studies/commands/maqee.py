"""``exitbits maqee``: alternate thresholds and bits under budgets, and record what is found."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.cost import GIGA
from search.errors import BadInput
from search.methods.maqee import refuse_impossible
from search.methods.settings import MaqeeSettings
from studies.commands.bars import bars
from studies.commands.bounds import OPTIONS, add_bounds, positive_number, read_bounds
from studies.commands.common import add_places, positive, read_store
from studies.commands.method_options import (
    add_models,
    add_recovery,
    add_settings,
    add_study,
    check_data,
    print_table,
    read_training,
    study_at_places,
)
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    from studies.methods.maqee import MaqeePolicy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits maqee``."""
    add_study(parser)
    parser.add_argument(
        "--budgets", type=positive_number, nargs="+", metavar="X",
        help="expected GBOPs a sample that policies may cost, one policy each (default none, "
        "another bound is needed then)",
    )  # fmt: skip
    add_bounds(parser)
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
    add_places(parser, data=False)


def run(args: argparse.Namespace) -> int:
    """Search under every budget, record each policy as it is found, and print them all."""
    check_data(args)
    within = read_bounds(args)
    if not args.budgets and not within.bounds():
        raise BadInput(f"no budget: give --budgets, {OPTIONS}")
    budgets = args.budgets or [math.inf]
    settings = MaqeeSettings(
        alpha=args.alpha,
        beta=args.beta,
        epsilons=None if args.epsilon is None else tuple(args.epsilon),
        starts=args.starts,
        max_iterations=args.max_iterations,
    )
    store = StudyStore(read_store(args))
    study = study_at_places(store, args)
    record = study.record
    refuse_impossible(record.space, record.ledger, min(budgets) * GIGA)

    training = read_training(args)
    from studies.methods.maqee import search_budgets
    from studies.methods.opened import open_for_methods

    with bars(Console(stderr=True)) as on_progress:
        opened = open_for_methods(store, study, args.cache, settings, training, on_progress)
        policies = list(search_budgets(opened, budgets, within, on_progress))
    rows = [policy.as_dict() for policy in policies]
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
            *_unattained(policies, args.epsilon or ()),
            *(() if args.data else ("not recovered: give --data DIR for self-distillation",)),
        ],
    )
    return 0


def _shown(row: dict[str, Any]) -> dict[str, str]:
    bits = row["policy"]
    return {
        "method": row["source"],
        "budget": "none" if row["budget_gbops"] is None else f"{row['budget_gbops']:g}",
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


def _unattained(policies: Sequence[MaqeePolicy], epsilons: Sequence[float]) -> list[str]:
    """Says which of the asked bounds no policy within a budget meets."""
    results = [policy.result for policy in policies if policy.checkpoint is None]
    return [
        f"epsilon {epsilon:g} is not met within {result.bounds}: the least risk found is "
        f"{result.risk:.4f}"
        for epsilon in epsilons
        for result in results
        if result.risk > epsilon
    ]
