"""``exitbits stop``: end a study at the trials that have begun."""

from __future__ import annotations

import argparse

from studies.changing import stop
from studies.commands.common import add_store, read_store
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits stop``."""
    parser.add_argument("study", help="name of the study")
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Let running trials finish and no new one begin."""
    store = StudyStore(read_store(args))
    print(stop(store, store.get(args.study).id))
    return 0
