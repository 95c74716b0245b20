"""``exitbits store``: bring a store's tables to this version's schema."""

from __future__ import annotations

import argparse

from studies.commands.common import add_store, read_store
from studies.store.database import Database


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of ``exitbits store``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    upgrade = actions.add_parser("upgrade", help="make or migrate the tables")
    add_store(upgrade)


def run(args: argparse.Namespace) -> int:
    """Make or migrate the tables; does nothing where they are up to date."""
    database = Database(read_store(args), create=True, check=False)
    database.upgrade()
    print(f"store {database.shown} is up to date")
    return 0
