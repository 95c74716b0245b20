"""docs/reference.md against the code, both ways: commands, variables, exit codes."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from statistics import mode

import pytest
from documents import REFERENCE, sections, table
from running import ROOT

from search.errors import ExitbitsError
from search.training.recipes import RECIPES
from search.training.recovery import RecoverRecipe
from studies.cli import COMMANDS, INTERRUPTED, added_commands, build_parser

SECTIONS = sections(REFERENCE)
EVERY_COMMAND = sorted({*COMMANDS, *added_commands()})
VARIABLE = re.compile(r"EXITBITS_[A-Z_]+")


# Commands


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's actions, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def parser_of(words: str) -> argparse.ArgumentParser:
    """The parser of ``exitbits COMMAND`` or of ``exitbits COMMAND ACTION``."""
    _, command, *action = words.split()
    parser = children(build_parser(command))[command]
    return children(parser)[action[0]] if action else parser


def with_options() -> list[str]:
    """Every command, or every action of a command that has some."""
    found = []
    for command in EVERY_COMMAND:
        name = f"exitbits {command}"
        found += [f"{name} {action}" for action in children(parser_of(name))] or [name]
    return found


def spelling(action: argparse.Action) -> str:
    """How an option or argument is written on the command line."""
    value = action.metavar or action.dest.upper()
    if action.choices is not None:
        value = "{" + ",".join(action.choices) + "}"
    elif not action.option_strings:
        value = action.metavar or action.dest
    value = f"[{value}]" if action.nargs == "?" else value
    value = f"{value} ..." if action.nargs == "+" else value
    if not action.option_strings:
        return str(value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def default(command: str, action: argparse.Action, one_of: set[str]) -> str:
    """What holds where an option is not given."""
    if action.dest in one_of:
        return "one of these"
    if action.required and action.nargs != "?":
        return "required"
    if action.nargs == 0:
        return "off"
    if action.option_strings and action.nargs == "?":
        return "off" if action.const is True else f"off; {action.const:g} without a value"
    told = re.search(r"\(default:? (.+?)\)", (action.help or "") % {"default": action.default})
    if told:
        return told.group(1).replace(str(Path.home()), "~")
    if action.default is not None:
        return str(action.default)
    return recipe_default(command, action.dest)


def recipe_default(command: str, name: str) -> str:
    """The value of a training's or a recovery's recipe, for what an option may replace in it."""
    if command == "exitbits train":
        values = {key: f"{getattr(recipe, name):g}" for key, (recipe, _) in RECIPES.items()
                  if hasattr(recipe, name)}  # fmt: skip
        if not values:
            return "none"
        usual = mode(reversed(values.values()))  # of all different ones the last
        others = [f"{value} for {key}" for key, value in values.items() if value != usual]
        return f"{', '.join(others)}, else {usual}" if others else usual
    if name in {field.name for field in fields(RecoverRecipe)}:
        return f"{getattr(RecoverRecipe, name):g}"
    return "none"


def rows_of(command: str, parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Spelling and default of everything that a command's help shows, in its order."""
    groups = parser._mutually_exclusive_groups
    one_of = {a.dest for group in groups if group.required for a in group._group_actions}
    return [
        (spelling(action), default(command, action, one_of))
        for action in parser._actions
        if action.dest != "help" and action.help != argparse.SUPPRESS
    ]


@pytest.fixture
def ordinary_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine in the defaults."""
    monkeypatch.delenv("EXITBITS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.mark.parametrize("command", with_options())
def test_every_default_stands_in_the_help_and_is_what_holds(command: str) -> None:
    parser = parser_of(command)
    required = {
        action.dest
        for group in parser._mutually_exclusive_groups
        for action in group._group_actions
        if group.required
    }
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        shown = action.help or ""
        assert shown, f"{command}: {action.dest} has no help"
        if not action.option_strings or action.dest in required or action.nargs == 0:
            continue
        held = recipe_default(command, action.dest)
        if action.required:
            assert shown.endswith("(required)"), (command, action.dest)
        elif action.default is not None and action.default is not False:
            assert "(default" in shown, (command, action.dest)
        elif held != "none" and "(default 0.1 with" not in shown:  # of two, by another option
            assert f"(default {held})" in shown, (command, action.dest)


@pytest.mark.usefixtures("ordinary_cache")
@pytest.mark.parametrize("command", with_options())
def test_every_option_is_documented_with_its_default(command: str) -> None:
    rows = table(SECTIONS[command])
    assert [(row[0], row[1]) for row in rows] == rows_of(command, parser_of(command))
    assert all(row[2] for row in rows)


def test_every_command_is_documented_and_no_other() -> None:
    documented = {name for name in SECTIONS if name.startswith("exitbits ")}
    assert documented == {f"exitbits {command}" for command in EVERY_COMMAND} | {*with_options()}


def test_the_readme_lists_every_command() -> None:
    listed = {row[0].split()[1] for row in table(sections(ROOT / "README.md")["Commands"])}
    assert listed == set(EVERY_COMMAND)


# Environment variables


def sources(*folders: str) -> Iterator[ast.Module]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ast.parse(path.read_text())


def reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def variables(*folders: str) -> set[str]:
    """Names of ours that stand in the code, and others that it takes from ``os.environ``."""
    found: set[str] = set()
    for module in sources(*folders):
        for node in ast.walk(module):
            names: list[ast.AST] = []
            if isinstance(node, ast.Subscript) and reads_environment(node.value):
                names = [node.slice]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names = [*node.args[:1]] if reads_environment(node.func.value) else []
            elif isinstance(node, ast.Compare):
                names = [node.left] if any(map(reads_environment, node.comparators)) else []
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node] if VARIABLE.fullmatch(node.value) else []
            found |= {name.value for name in names if isinstance(name, ast.Constant)}
    return found


def documented_variables(section: str) -> set[str]:
    return {row[0] for row in table(SECTIONS[section])}


def test_every_variable_is_documented_and_no_other() -> None:
    read = variables("search", "studies", "dashboards")
    assert documented_variables("Environment variables") == read


def test_every_variable_of_the_tests_is_documented_and_no_other() -> None:
    read = {name for name in variables("tests") if VARIABLE.fullmatch(name)}
    assert documented_variables("Variables of the tests") == {
        name for name in read - documented_variables("Environment variables") if name[-1] != "_"
    }


@pytest.mark.parametrize("name", ["docker-compose.yml", "Dockerfile", ".ci/run", "README.md"])
def test_no_other_variable_is_set_or_named(name: str) -> None:
    named = set(VARIABLE.findall((ROOT / name).read_text()))
    assert named <= documented_variables("Environment variables") | documented_variables(
        "Variables of the tests"
    )


def test_variables_of_libraries_are_known_to_them() -> None:
    for variable, library, _ in table(SECTIONS["Variables of libraries"]):
        folder = Path(str(importlib.import_module(library).__file__)).parent
        assert any(variable in path.read_text() for path in folder.glob("*.py")), variable


# Exit codes


def exit_codes() -> set[int]:
    """Every exit code in the code: of errors, of parsers, and what commands return."""
    found = {0, INTERRUPTED, ExitbitsError.exit_code}
    commands = [ROOT / "studies" / "cli.py", *(ROOT / "studies" / "commands").glob("*.py"),
                *(ROOT / "dashboards" / "commands").glob("*.py")]  # fmt: skip
    for path in (*commands, ROOT / "search" / "errors.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value: ast.AST | None = None
            if isinstance(node, ast.FunctionDef) and node.name in ("run", "main"):
                found |= {
                    part.value.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Return) and isinstance(part.value, ast.Constant)
                    and isinstance(part.value.value, int)
                }  # fmt: skip
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                value = node.args[0] if node.func.attr in ("exit", "_exit") and node.args else None
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                value = node.value if name in ("exit_code", "INTERRUPTED") else None
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                found.add(value.value)
    return found


def test_every_exit_code_is_documented_and_no_other() -> None:
    documented = [(int(row[0]), row[1]) for row in table(SECTIONS["Exit codes"])]
    assert {code for code, _ in documented} == exit_codes()
    epilog = build_parser(None).epilog or ""
    told = re.findall(r"(\d+) ([^,]+)", epilog.partition("exit codes: ")[2])
    assert documented == [(int(code), meaning) for code, meaning in told]
    readme = (ROOT / "README.md").read_text()
    assert ", ".join(f"{code} {meaning}" for code, meaning in documented) in readme
