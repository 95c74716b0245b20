"""What the documents name exists: links, files, modules, classes, keys, and lines of a shell."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    REFERENCE,
    anchors,
    fences,
    inline_code,
    links,
    name_of,
    sections,
    table,
)
from running import ROOT, command_env

from studies.cli import COMMANDS, added_commands, build_parser
from studies.config import StudyConfig, parse_config

PACKAGES = ("search", "studies", "dashboards")
# The changelog speaks of what was; everything else speaks of what is.
PRESENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
EVERY_COMMAND = {*COMMANDS, *added_commands()}
LANGUAGES = {"sh", "toml", "python", "text"}

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
every_present_document = pytest.mark.parametrize("path", PRESENT, ids=name_of)


# Links, files, names


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue  # of the web: what is there today is no test of ours
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


@every_present_document
def test_files_that_are_named_exist(path: Path) -> None:
    top = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"dist", "build"}
    for code in inline_code(path):
        for word in code.split():
            word, *placeholder = word.partition("NAME")  # of a file that a reader adds
            if placeholder[0]:
                word = word.rpartition("/")[0]
            if re.fullmatch(r"[\w./*-]+", word) and word.partition("/")[0] in top and "/" in word:
                assert list(ROOT.glob(word.rstrip("/"))), word


def names_in(module: Path) -> dict[str, set[str]]:
    """What a module defines: its names, and of its classes the names in them."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            inside = node.body if isinstance(node, ast.ClassDef) else []
            found[node.name] = {name for part in inside for name in assigned(part)}
        for name in assigned(node):
            found.setdefault(name, set())
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name): set() for alias in node.names}
    return found


def assigned(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    yield from (target.id for target in targets if isinstance(target, ast.Name))


@every_present_document
def test_modules_that_are_named_exist(path: Path) -> None:
    for code in inline_code(path):
        for dotted in re.findall(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+", code):
            parts = dotted.split(".")
            if parts[-1] in ("py", "md", "toml"):
                continue
            place = ROOT
            while parts and (place / parts[0]).is_dir():
                place /= parts.pop(0)
            if parts and (place / f"{parts[0]}.py").is_file():
                place /= f"{parts.pop(0)}.py"
            module = place / "__init__.py" if place.is_dir() else place
            if parts:
                assert parts[0] in names_in(module), dotted
            if len(parts) > 1:
                assert parts[1] in names_in(module)[parts[0]], dotted


@cache
def text_of_the_code() -> str:
    """The Python files as one text, this one left out."""
    files = [file for folder in (*PACKAGES, "tests") for file in (ROOT / folder).rglob("*.py")]
    return "\n".join(file.read_text() for file in files if file != Path(__file__))


@cache
def words_of_the_code() -> frozenset[str]:
    """Every word in it."""
    return frozenset(re.findall(r"\w+", text_of_the_code()))


@every_present_document
def test_classes_and_options_in_capitals_that_are_named_exist(path: Path) -> None:
    for code in inline_code(path):
        if re.fullmatch(r"([A-Z][a-z]+){2,}(\.\w+)?|[A-Z]+(_[A-Z]+)+", code):
            assert set(code.split(".")) <= words_of_the_code(), code


def test_the_architecture_names_every_package_and_every_module_beside_them() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in PACKAGES:
        for path in (ROOT / package).iterdir():
            if (path / "__init__.py").exists():
                assert f"`{package}/{path.name}/" in text, path
            elif path.suffix == ".py" and path.name != "__init__.py":
                assert f"`{package}/{path.name}`" in text, path


def test_what_the_architecture_calls_plain_loads_no_torch() -> None:
    found = sections(ROOT / "docs" / "architecture.md")
    rows = [*table(found["search/: the domain"]), *table(found["studies/: orchestration"])]
    named = [name for where, _, kind in rows if kind.startswith("plain")
             for name in where.split(", ")] + ["dashboards"]  # fmt: skip
    files = [ROOT / name for name in named]
    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for file in files
        for path in (file.rglob("*.py") if file.is_dir() else [file])
        if path.name != "env.py" and "versions" not in path.parts  # Alembic's own scripts
    }
    code = f"""
import importlib, sys
for name in {sorted(modules)!r}:
    importlib.import_module(name.removesuffix(".__init__"))
    assert not {{"torch", "timm"}} & {{*sys.modules}}, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=command_env(), timeout=120)


def test_the_kinds_of_code_blocks_are_said() -> None:
    for path in DOCUMENTS:
        for fence in fences(path):
            assert fence.language in LANGUAGES, (name_of(path), fence.text)


# TOML and Python


@every_document
def test_toml_is_a_study_or_names_entry_points_of_ours(path: Path) -> None:
    for fence in fences(path):
        fields = tomllib.loads(fence.text) if fence.language == "toml" else {}
        if "project" in fields:
            for group in fields["project"]["entry-points"]:
                assert f'"{group}"' in text_of_the_code(), group
        elif fields:
            parse_config(fields, name_of(path))


@every_document
def test_python_compiles(path: Path) -> None:
    for fence in fences(path):
        if fence.language == "python":
            compile(fence.text, name_of(path), "exec")


@every_present_document
def test_keys_that_are_named_exist(path: Path) -> None:
    for code in inline_code(path):
        if named := re.fullmatch(r"\[(\w+)\] (.+)", code):
            section = StudyConfig.model_fields[named[1]].annotation
            assert section is not None
            for part in named[2].split(", "):
                if key := re.match(r"[a-z_]+", part):
                    assert key[0] in section.model_fields, code


# Lines of a shell


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Options of a command and of its actions."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for child in action.choices.values() for option in options_of(child)}
    return found


@cache
def options(command: str) -> frozenset[str]:
    """Options of ``exitbits COMMAND`` and of its actions."""
    for action in build_parser(command)._actions:
        if isinstance(action, argparse._SubParsersAction):
            return frozenset(options_of(action.choices[command]))
    raise AssertionError(command)


def lines(text: str) -> Iterator[list[str]]:
    """Commands of a code block, continued lines joined, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def variables() -> set[str]:
    found = sections(REFERENCE)
    headings = ("Environment variables", "Variables of libraries", "Variables of the tests")
    return {row[0] for heading in headings for row in table(found[heading])}


def check_script(words: list[str]) -> None:
    """A Python script or module of ours, with options that its source names."""
    if words[0] == "-m":
        module = words[1].split(".")
        if module == ["pytest"]:
            for word in words[2:]:
                assert not word.startswith("tests/") or (ROOT / word).exists(), word
            return
        assert (ROOT.joinpath(*module).with_suffix(".py")).is_file(), words
        return
    script = ROOT / words[0]
    source = script.read_text() + (ROOT / "tests" / "benchmarks" / "common.py").read_text()
    for word in words[1:]:
        assert not word.startswith("-") or f'"{word}"' in source, words


def check_line(words: list[str]) -> None:
    """Fail unless a line calls what exists."""
    while re.match(r"[A-Z_]+=", words[0]):
        assert words[0].partition("=")[0] in variables(), words
        words = words[1:]
    if words[0] == "taskset":
        words = words[3:]
    program, arguments = words[0], words[1:]
    if program == "exitbits":
        build_parser(arguments[0]).parse_args(arguments)  # ends the test if it does not parse
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), words
    elif program in ("python", ".venv/bin/python"):
        check_script(arguments)
    elif program == "export":
        assert arguments[0].partition("=")[0] in variables(), words
    else:
        assert words == ["pre-commit", "install"], f"{words} is no command that the docs may show"


@every_document
def test_lines_of_a_shell_call_what_exists(path: Path) -> None:
    for fence in fences(path):
        if fence.language == "sh":
            for words in lines(fence.text):
                check_line(words)


@every_present_document
def test_commands_and_options_in_the_text_exist(path: Path) -> None:
    ours = {option for command in EVERY_COMMAND for option in options(command)}
    for code in inline_code(path):
        words = code.split()
        if words[0] == "exitbits" and len(words) > 1 and words[1].startswith("-"):
            assert words[1] in build_parser(None)._option_string_actions, code
        elif words[0] == "exitbits" and len(words) > 1 and words[1].islower():
            assert words[1] in EVERY_COMMAND, code
            given = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert given <= options(words[1]), code
        elif words[0].startswith("--"):
            assert words[0] in ours | {"--scale"}, code  # of docker compose
        elif words[0] == "python":
            check_script(words[1:])


# Claims


def test_every_test_that_a_claim_names_exists_and_every_claim_names_one() -> None:
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    claims = [
        line
        for table in text.split("| claim | test |\n|---|---|\n")[1:]
        for line in table.split("\n\n")[0].strip().splitlines()
    ]
    assert len(claims) > 20
    for line in claims:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, line
        for file, test in named:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (file, test)
