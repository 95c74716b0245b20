"""``exitbits baselines``: evaluate the comparison methods and record them in a study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.methods.settings import MaqeeSettings
from studies.commands.bars import bars
from studies.commands.common import add_places, read_store
from studies.commands.method_options import (
    add_models,
    add_recovery,
    add_settings,
    add_study,
    check_data,
    method_rows,
    print_table,
    read_training,
    study_at_places,
)
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    from search.sensitivity import Additivity

WITHIN = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits baselines``."""
    add_study(parser)
    add_settings(parser)
    add_recovery(parser, required=False)
    add_models(parser)
    add_places(parser, data=False)


def run(args: argparse.Namespace) -> int:
    """Evaluate what is not recorded yet, then print every baseline of the study."""
    check_data(args)
    settings = MaqeeSettings(alpha=args.alpha, beta=args.beta)
    store = StudyStore(read_store(args))
    study = study_at_places(store, args)
    record = study.record

    training = read_training(args)
    from studies.methods.baselines import record_baselines
    from studies.methods.opened import open_for_methods

    with bars(Console(stderr=True)) as on_progress:
        opened = open_for_methods(store, study, args.cache, settings, training, on_progress)
        recorded = record_baselines(opened, on_progress)
    sources, summary, additivity = recorded.sources, recorded.summary, recorded.additivity
    rows = method_rows(store, summary, sources)
    if args.json:
        fields = {
            "study": args.study,
            "additivity": {
                "noise": additivity.noise,
                "drift": additivity.drift,
                "policies": additivity.policies,
            },
            "baselines": rows,
        }
        print(json.dumps(fields, indent=2, allow_nan=False))
        return 0
    reference = record.reference_value
    print_table(
        f"baselines of {args.study}",
        [_summary_row(source, rows, reference) for source in sources],
        [
            f"full precision, full depth: {record.metric} {reference:.4f}, "
            f"{summary.w32a32_gbops:.3f} GBOPs (32x32), {summary.w8a8_gbops:.3f} at W8A8",
            f"within {100 * WITHIN:g} points: the cheapest policy that loses no more, and its "
            "reductions against 32x32, W8A8 and its own bits, all at full depth",
            _additivity_line(additivity),
            "measured on the search split, which chose the thresholds: it flatters them",
            *(() if args.data else ("quantization-aware training left out: give --data DIR",)),
        ],
    )
    return 0


def _additivity_line(measured: Additivity) -> str:
    if measured.noise is None or measured.drift is None:
        return "additive tables: the space has nothing to rank"
    return (
        f"additive tables against {measured.policies} random policies: rank correlation "
        f"{measured.noise:.3f} (noise), {measured.drift:.3f} (drift)"
    )


def _summary_row(
    source: str, rows: Sequence[Mapping[str, Any]], reference: float
) -> dict[str, str]:
    mine = [row for row in rows if row["source"] == source]
    best = max(mine, key=lambda row: (row["accuracy"], -row["gbops"]))
    near = [row for row in mine if row["accuracy"] >= reference - WITHIN]
    cheap = min(near, key=lambda row: row["gbops"], default=None)
    return {
        "method": source,
        "policies": str(len(mine)),
        "best accuracy": f"{best['accuracy']:.4f}",
        "± se": f"{best['accuracy_se']:.4f}",
        "GBOPs": f"{best['gbops']:.4f}",
        f"within {100 * WITHIN:g} pt": f"{cheap['gbops']:.4f}" if cheap else "-",
        "<32x32": f"{cheap['reduction']:.2%}" if cheap else "-",
        "<W8A8": f"{cheap['reduction_w8a8']:.1%}" if cheap else "-",
        "<same bits": f"{cheap['reduction_same_bits']:.1%}" if cheap else "-",
        "mean exit": f"{cheap['mean_exit']:.2f}" if cheap else "-",
    }
