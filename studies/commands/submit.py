"""``exitbits submit``: create a study that waiting workers take up."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.caching import default_cache_folder
from search.disk_cache import DiskTraceCache
from studies.commands.bars import stages
from studies.commands.common import add_store, positive, read_store
from studies.config import load_config
from studies.creating import open_study


def add_study_source(parser: argparse.ArgumentParser) -> None:
    """Declare what ``launch`` and ``submit`` share."""
    parser.add_argument(
        "study", nargs="?", default="fashion", metavar="PRESET or STUDY.toml",
        help="what to search (default: the preset fashion)",
    )  # fmt: skip
    add_store(parser)
    parser.add_argument("--trials", type=positive, metavar="N", help="budget of the study")
    parser.add_argument("--name", help="name of the study (default: what the file says)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces and calibrations (default %(default)s)",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits submit``."""
    add_study_source(parser)


def run(args: argparse.Namespace) -> int:
    """Create the study, or raise the budget of one that exists with the same configuration."""
    config = load_config(args.study, name=args.name, trials=args.trials)
    cache = DiskTraceCache(args.cache)
    with stages(Console(stderr=True)) as on_stage:
        _, study = open_study(read_store(args), config, cache, on_stage)
    made = study.record.config
    print(f"study {made.name}: budget {made.budget.trials} trials")
    return 0
