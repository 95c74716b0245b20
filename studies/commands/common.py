"""Options and small steps that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.errors import BadInput
from search.files import check_folder_writable
from studies.commands.front_table import front_table
from studies.config import StudyConfig, check_name
from studies.fronts import FrontSummary
from studies.places import moved
from studies.store.address import DEFAULT_STORE, STORE, default_address, refuse_password
from studies.words import report_mark

HEAD_BYTES = 4096  # of a page, where its mark stands


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare ``--store``."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="where studies are kept: sqlite:///FILE or postgresql://USER@HOST/DATABASE (default "
        f"${STORE}, else {DEFAULT_STORE}); the password comes from EXITBITS_DB_PASSWORD or the "
        "file EXITBITS_DB_PASSWORD_FILE names",
    )


def read_store(args: argparse.Namespace) -> str:
    """The store's address from ``--store``, the environment, or the default.

    Raises:
        BadInput: when a password stands in ``--store``.
    """
    if args.store is None:
        return default_address()
    address: str = args.store
    refuse_password(address)
    return address


def add_places(parser: argparse.ArgumentParser, *, data: bool = True) -> None:
    """Declare where model and images lie instead of where a study or a policy says."""
    parser.add_argument(
        "--model", metavar="FILE", help="the same model at another place than is recorded"
    )
    if data:
        parser.add_argument(
            "--data", metavar="DIR", help="the same images at another place than is recorded"
        )


def at_places(config: StudyConfig, args: argparse.Namespace) -> StudyConfig:
    """A study's configuration with model and images where ``--model`` and ``--data`` say.

    Images that come with exitbits lie nowhere else: ``--data`` then means what trains alone.
    """
    data = None if config.data.path is None or args.data is None else str(args.data)
    return moved(config, args.model, data)


def add_threads(parser: argparse.ArgumentParser, *, default: str = "") -> None:
    """Declare ``--threads``; commands find in it also what ``OMP_NUM_THREADS`` asks for."""
    parser.add_argument(
        "--threads", type=positive, metavar="N",
        help="cores to compute with (default: $OMP_NUM_THREADS, else "
        f"{default or 'all that the process may use'})",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def stdout_console() -> Console:
    """A console for data, which breaks no line where the output is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def print_front(summary: FrontSummary) -> None:
    """Print a front as wide as the terminal allows."""
    console = stdout_console()
    console.print(front_table(summary, console.width if console.is_terminal else None))


def check_writable(path: Path, option: str) -> None:
    """Raise ``BadInput`` unless a file can be written at ``path``; nothing is left there.

    Raises:
        BadInput: naming the option to change.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        check_folder_writable(path.parent)
    except OSError as error:
        raise BadInput(
            f"cannot write {str(path)!r} ({error.strerror}): name another file with {option}"
        ) from error


def check_report(path: Path, study: str, option: str, *, force: bool = False) -> None:
    """Raise ``BadInput`` unless a report may be written at ``path``.

    Args:
        path: of the report.
        study: which is reported. An earlier report of it is replaced, any other file is not.
        option: which names the file.
        force: whether any file may be replaced.
    """
    check_writable(path, option)
    if force or not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if report_mark(study).encode() not in head:
        raise BadInput(
            f"{str(path)!r} exists and is no report of study {study!r}: name another file with "
            f"{option}, or remove it"
        )


def printable_name(text: str) -> str:
    """An argparse type: a name as those of studies are."""
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """An argparse type: an integer from 1 up."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 up")
    return value
