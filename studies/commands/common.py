"""Options and small steps that several commands share."""

from __future__ import annotations

import argparse
import os

from rich.console import Console

DEFAULT_STORE = "sqlite:///exitbits.db"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare ``--store``."""
    parser.add_argument(
        "--store", metavar="URL", default=os.environ.get("EXITBITS_STORE", DEFAULT_STORE),
        help=f"where studies are kept (default $EXITBITS_STORE, else {DEFAULT_STORE})",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def stdout_console() -> Console:
    """A console for data: as wide as needed where the output is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=220)


def positive(text: str) -> int:
    """An argparse type: an integer from 1 up."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 up")
    return value
