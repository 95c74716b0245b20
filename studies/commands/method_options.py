"""Options and figures that ``baselines``, ``maqee`` and ``recover`` share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from search.caching import default_cache_folder
from search.cost import GIGA
from search.errors import BadInput
from search.methods.settings import MaqeeSettings
from search.policy import Bits
from studies.commands.common import add_json, add_store, add_threads, at_places, stdout_console
from studies.fronts import FrontSummary
from studies.records import Study
from studies.store.reader import StudyReader
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    from search.training.recovery import RecoverRecipe
    from studies.methods.opened import Training


def add_study(parser: argparse.ArgumentParser) -> None:
    """Declare the study, its store, the cache and the form of the output."""
    parser.add_argument("study", help="name of the study")
    add_store(parser)
    add_json(parser)
    add_threads(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces, calibrations and tables (default %(default)s)",
    )  # fmt: skip


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the weights that allocation and thresholds share."""
    parser.add_argument(
        "--alpha", type=float, default=MaqeeSettings.alpha,
        help="weight of boundary risk beside gap risk, 0 to 10 (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--beta", type=float, default=MaqeeSettings.beta,
        help="weight of drift beside noise, 0 to 1000 (default %(default)s)",
    )  # fmt: skip


def add_recovery(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare what recovery needs."""
    parser.add_argument(
        "--data", type=Path, metavar="DIR", required=required,
        help="training images, for recovery by self-distillation"
        + (" (required)" if required else " (without it nothing is recovered)"),
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="optimizer steps of a recovery (default 200)")
    parser.add_argument("--batch-size", type=int, help="images a step of recovery (default 128)")
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate of recovery (default 0.0005)"
    )
    parser.add_argument("--seed", type=int, help="of recovery's order and augmentation (default 0)")
    parser.add_argument(
        "--compile", action="store_true",
        help="compile the recovery step: most of a minute to start, then faster",
    )  # fmt: skip


def add_models(parser: argparse.ArgumentParser) -> None:
    """Declare where the checkpoints go that a command recovers and names itself."""
    parser.add_argument(
        "--models", type=Path, metavar="DIR", default=Path("recovered"),
        help="folder of recovered checkpoints (default %(default)s)",
    )  # fmt: skip


def read_recipe(args: argparse.Namespace) -> RecoverRecipe:
    """The recovery's hyperparameters, with torch's modules imported."""
    from search.training.recovery import RecoverRecipe

    names = ("steps", "batch_size", "learning_rate", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return RecoverRecipe(**given, compile=args.compile)


def read_training(args: argparse.Namespace) -> Training | None:
    """How models are recovered, where that is asked for."""
    if args.data is None:
        return None
    from studies.methods.opened import Training

    return Training(args.data, read_recipe(args), args.models)


def check_data(args: argparse.Namespace) -> None:
    """Raise ``BadInput`` unless ``--data``, where it is given, is a folder."""
    if args.data is not None and not args.data.is_dir():
        raise BadInput(f"no folder {str(args.data)!r}: --data names the folder of the images")


def study_at_places(store: StudyStore, args: argparse.Namespace) -> Study:
    """The study, its model and images where ``--model`` and ``--data`` say."""
    study = store.get(args.study)
    record = replace(study.record, config=at_places(study.record.config, args))
    return replace(study, record=record)


def method_rows(
    reader: StudyReader, summary: FrontSummary, sources: Sequence[str]
) -> list[dict[str, Any]]:
    """Every recorded evaluation of the sources, in the contract's fields and the reductions.

    Ordered by source as given, then by cost.
    """

    def same_bits(bits: Bits) -> float:
        return summary.record.ledger.references(bits).same_bits

    rows = [row for row in summary.rows if row.source in sources]
    rows.sort(key=lambda row: (sources.index(row.source), row.gbops))
    return [
        {
            **summary.row_as_dict(row, detail),
            "reduction_w8a8": 1 - row.gbops / summary.w8a8_gbops,
            "reduction_same_bits": 1 - row.gbops * GIGA / same_bits(row.policy.bits),
            "model": row.model,
            "checkpoint": row.checkpoint,
        }
        for row, detail in zip(rows, reader.details(rows), strict=True)
    ]


def print_table(title: str, rows: Sequence[Mapping[str, str]], notes: Sequence[str]) -> None:
    """Print rows of text under their headings; the first column is on the left."""
    table = Table(box=SIMPLE, pad_edge=False)
    for index, heading in enumerate(rows[0] if rows else ()):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    console = stdout_console()
    console.print(Text(title, style="bold"))
    console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
