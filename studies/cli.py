"""The command ``exitbits``.

Only the module of the command that was asked for is imported, so that reading commands start
without torch, timm or whatever else another command needs. Other packages add commands by entry
points in the group ``exitbits.commands``, each naming a module with ``add_arguments`` and ``run``.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import NoReturn

import shtab

from search.cores import asked_threads, compute_with, usable_cores
from search.display import visible
from search.errors import ExitbitsError

INTERRUPTED = 130
COMPLETION = "--print-completion"

COMMANDS: dict[str, tuple[str, str]] = {
    "launch": (
        "studies.commands.launch",
        "create or resume a study, run workers, show the front",
    ),
    "submit": ("studies.commands.submit", "create a study that waiting workers take up"),
    "worker": ("studies.commands.worker", "serve the studies of a store until told to stop"),
    "status": ("studies.commands.status", "how far the studies in a store are, and who works"),
    "front": ("studies.commands.front", "the Pareto front of a study"),
    "pick": ("studies.commands.pick", "choose one policy of a front under a budget"),
    "baselines": (
        "studies.commands.baselines",
        "evaluate the comparison methods and record them in a study",
    ),
    "maqee": ("studies.commands.maqee", "search bits and thresholds in turn, under budgets"),
    "evaluate": ("studies.commands.evaluate", "measure a policy from scratch"),
    "train": ("studies.commands.train", "train an early-exit model"),
    "recover": ("studies.commands.recover", "train a model for one policy by self-distillation"),
    "stop": ("studies.commands.stop", "end a study at the trials that have begun"),
    "study": ("studies.commands.study", "list, rename, archive, retry, delete, export or import"),
    "store": ("studies.commands.store", "make or migrate the tables of a store"),
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like every other error here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def added_commands() -> dict[str, str]:
    """Commands of other packages: name to module."""
    return {point.name: point.value for point in entry_points(group="exitbits.commands")}


def build_parser(command: str | None, *, whole: bool = False) -> argparse.ArgumentParser:
    """Build the parser, with the arguments of ``command`` only, or ``whole`` with all."""
    parser = _Parser(
        prog="exitbits",
        description="Search depth-precision policies of Vision Transformers.",
        epilog="exit codes: 0 done, 1 failed, 2 bad usage or configuration, "
        "3 no policy satisfies the request, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"exitbits {version('exitbits')}")
    shtab.add_argument_to(
        parser,
        COMPLETION,
        help="print a script that completes commands and options in this shell",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        child = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if whole or name == command:
            importlib.import_module(module).add_arguments(child)
    for name, module in added_commands().items():
        if not whole and command not in (None, name):
            commands.add_parser(name)
            continue
        found = importlib.import_module(module)
        summary = (found.__doc__ or "").partition(":")[2].strip().partition("\n")[0].rstrip(".")
        child = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        found.add_arguments(child)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    _prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    try:
        whole = bool(arguments) and arguments[0].partition("=")[0] == COMPLETION
        parsed = build_parser(command, whole=whole).parse_args(arguments)
        # Before anything loads torch, which reads the environment once.
        parsed.threads = getattr(parsed, "threads", None) or asked_threads()
        compute_with(parsed.threads or usable_cores())
        # What libraries start finds no modules in the working folder either.
        os.environ["PYTHONSAFEPATH"] = "1"
        module = {**added_commands(), **{name: one[0] for name, one in COMMANDS.items()}}
        code: int = importlib.import_module(module[parsed.command]).run(parsed)
        sys.stdout.flush()  # here, where a full disk or a reader that left can still be handled
        return code
    except ExitbitsError as error:
        print("exitbits:", "\n".join(map(visible, error.lines())), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("exitbits: interrupted", file=sys.stderr)
        return INTERRUPTED
    except UnicodeError as error:
        print(
            f"exitbits: a text cannot be read or written in this locale ({error}): set LC_ALL to a "
            "UTF-8 locale, such as C.UTF-8",
            file=sys.stderr,
        )
        return ExitbitsError.exit_code
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error, but nothing more can be written.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        print("exitbits: cannot write the output: no space left on its device", file=sys.stderr)
        return 1


def _prepare_streams() -> None:
    """Make output possible wherever it goes: to a closed stream, or in a locale with few letters.

    A closed one would have its number taken by the next file that is opened, a store even.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the end of the process does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
