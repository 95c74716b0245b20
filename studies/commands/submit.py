"""``exitbits submit``: create a study that waiting workers take up."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.caching import default_cache_folder
from search.disk_cache import DiskTraceCache
from studies.commands.bars import stages
from studies.commands.common import add_places, add_store, add_threads, positive, read_store
from studies.creating import budget_words, open_study, read_config


def add_study_source(parser: argparse.ArgumentParser) -> None:
    """Declare what ``launch`` and ``submit`` share."""
    parser.add_argument(
        "study", nargs="?", default="fashion", metavar="PRESET, STUDY.toml or NAME",
        help="what to search: a preset, a file, or a study of the store (default: the preset "
        "%(default)s)",
    )  # fmt: skip
    add_store(parser)
    add_places(parser)
    parser.add_argument("--trials", type=positive, metavar="N",
                        help="budget of the study (default: what the file says); that of one "
                        "that is there can only grow")  # fmt: skip
    parser.add_argument("--name", help="name of the study (default: what the file says)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces and calibrations (default %(default)s)",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits submit``."""
    add_study_source(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Create the study, or raise the budget of one that exists with the same configuration."""
    address = read_store(args)
    config = read_config(
        args.study, address, name=args.name, trials=args.trials, model=args.model, data=args.data
    )
    cache = DiskTraceCache(args.cache)
    with stages(Console(stderr=True)) as on_stage:
        _, study = open_study(address, config, cache, on_stage)
    print(budget_words(study, config.budget.trials))
    return 0
