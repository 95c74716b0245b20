"""What our messages tell people to type: every command and option in them exists."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator

from running import ROOT

from studies.cli import COMMANDS, added_commands, build_parser

EVERY_COMMAND = {*COMMANDS, *added_commands()}
PACKAGES = ("search", "studies", "dashboards")


def words_of(parser: argparse.ArgumentParser) -> tuple[set[str], set[str]]:
    """Options of a parser and of its actions, and the actions' names."""
    options: set[str] = set()
    actions: set[str] = set()
    for action in parser._actions:
        options |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                more, below = words_of(child)
                options |= more
                actions |= {name} | below
    return options, actions


OPTIONS, _ = words_of(build_parser(None, whole=True))


def sentences() -> Iterator[tuple[str, str]]:
    """File and text of every string in the code that is not a docstring."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value for p in node.values if isinstance(p, ast.Constant)]
                    yield str(path.relative_to(ROOT)), " … ".join(map(str, parts))
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in docstrings
                ):
                    yield str(path.relative_to(ROOT)), node.value


def test_there_is_something_to_check() -> None:
    assert len(OPTIONS) > 50
    assert sum("--" in text for _, text in sentences()) > 50


def test_every_option_in_a_message_exists() -> None:
    wrong = [
        (file, option)
        for file, text in sentences()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)
        if option not in OPTIONS
    ]
    assert wrong == []


def test_every_command_in_a_message_exists() -> None:
    wrong = [
        (file, text)
        for file, text in sentences()
        for command, action in re.findall(r"'exitbits ([a-z]+)(?: ([a-z]+))?", text)
        if command not in EVERY_COMMAND
        or (command in ("study", "store") and action not in words_of(build_parser(command))[1])
    ]
    assert wrong == []
