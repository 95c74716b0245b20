"""The command in odd places: other locales, closed streams, no home, names that mean something."""

from __future__ import annotations

import ast
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import recorded_study
from running import ROOT, command_env, command_line

from search.caching import default_cache_folder, expanded
from search.engines.cpu import native
from studies.cli import main
from studies.launchers.base import WorkerOrder
from studies.store.writer import StudyStore

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # ASCII, as strict as any


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose name means something to URLs and formats."""
    folder = tmp_path / "100% sure? %s {x} #1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EXITBITS_CACHE", str(folder / "cache"))
    return folder


def study(path: Path, name: str = "plain", prefix: str = "") -> Path:
    text = recorded_study("plain", 1, 0).replace('name = "plain"', f'name = "{name}"')
    path.write_text(prefix + text.replace("[4, 8]", "[4]"), encoding="utf-8")
    return path


def run_in_shell(
    redirect: str, *words: str, **more: str
) -> tuple[subprocess.CompletedProcess[bytes], str]:
    line = f'"$@" {redirect}'
    ended = subprocess.run(
        ["sh", "-c", line, "sh", *map(str, command_line(words))],
        env={**command_env(), **more}, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    return ended, ended.stderr.decode("ascii", "backslashreplace")


def test_text_files_are_read_and_written_in_utf8_everywhere():
    """Every call that opens a text says its encoding: the locale's is another on each machine."""
    found = []
    for package in ("search", "studies", "dashboards"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                named = {keyword.arg for keyword in node.keywords}
                first = 0 if node.func.attr == "read_text" else 1
                if node.func.attr not in ("read_text", "write_text") or len(node.args) > first:
                    continue
                # What the system itself writes under /proc is ASCII.
                if "encoding" not in named and path.name != "identity.py":
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_a_byte_order_mark_is_no_part_of_a_study(here: Path):
    assert main(["submit", str(study(here / "a.toml", prefix="\ufeff"))]) == 0


def test_a_locale_of_few_letters_prints_and_stores_the_others(here: Path):
    study(here / "a.toml", "étude 絵")
    for words in (("submit", "a.toml"), ("status",), ("status", "--json")):
        ended, said = run_in_shell("", *words, **PLAIN)
        assert "Traceback" not in said
        assert ended.returncode == 0, said
    assert StudyStore("sqlite:///exitbits.db").names() == ["étude 絵"]
    ended, said = run_in_shell("", "study", "list", **PLAIN)
    assert ended.stdout == rb"\xe9tude \u7d75" + b"\n"


def test_a_path_that_the_locale_cannot_name_is_no_traceback(here: Path):
    text = study(here / "a.toml").read_text(encoding="utf-8")
    (here / "a.toml").write_text(text.replace('"recorded:plain@0"', '"絵.safetensors"'), "utf-8")
    ended, said = run_in_shell("", "submit", "a.toml", **PLAIN)
    assert ended.returncode in (1, 2)
    assert said.startswith("exitbits: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_place(here: Path, redirect: str):
    study(here / "a.toml")
    for words in (("submit", "a.toml"), ("status",)):
        ended, said = run_in_shell(redirect, *words)
        assert "Traceback" not in said
        assert ended.returncode == 0, said
    assert StudyStore("sqlite:///exitbits.db").names() == ["plain"]
    ended, said = run_in_shell(">&-", "front", "absent")
    assert ended.returncode == 2
    assert said.count("\n") == 1


def test_without_a_home_the_cache_lies_among_temporary_files(
    monkeypatch: pytest.MonkeyPatch, refused_words
):
    for name in ("HOME", "EXITBITS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert default_cache_folder().name.startswith("exitbits-")
    refused_words(lambda: expanded("~/images"), "'~/images'", "write it in full")
    assert main(["status", "--store", "sqlite:////nowhere/x.db"]) == 2


@pytest.fixture
def refused_words():
    """Demands an error that says all words."""
    from search.errors import BadInput

    def check(call, *words: str) -> None:
        with pytest.raises(BadInput) as caught:
            call()
        assert all(word in str(caught.value) for word in words)

    return check


def test_signs_in_paths_are_letters_like_others(here: Path, capsys: pytest.CaptureFixture[str]):
    study(here / "50%?.toml")
    assert main(["submit", "50%?.toml", "--store", "sqlite:///a?b.db"]) == 2
    assert "write ? as %3F" in capsys.readouterr().err
    store = ("--store", "sqlite:///a%3Fb% c.db")
    assert main(["submit", "50%?.toml", *store]) == 0
    assert (here / "a?b% c.db").is_file()
    assert main(["worker", "--study", "plain", "--until-done", *store]) == 0
    assert main(["pick", "plain", "--max-drop", "1", "-o", "out %d?.json", *store]) == 0
    assert (here / "out %d?.json").is_file()
    assert main(["evaluate", "out %d?.json"]) == 0
    assert main(["report", "plain", "-o", "front %?.html", *store]) == 0
    assert main(["launch", "50%?.toml", "--workers", "1", *store]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_names_that_begin_with_a_dash_are_names(here: Path, capsys: pytest.CaptureFixture[str]):
    study(here / "a.toml")
    assert main(["launch", "a.toml", "--name=-x", "--workers", "1", "--report=-r.html"]) == 0
    assert (here / "-r.html").is_file()
    assert main(["front", "--json", "--", "-x"]) == 0
    assert '"study": "-x"' in capsys.readouterr().out
    order = WorkerOrder("sqlite:///x.db", "-x", None, here / "log", 1)
    assert "--study=-x" in order.arguments("-w", 0, 1)
    assert "--name=-w" in order.arguments("-w", 0, 1)


def test_a_compiler_may_go_through_another_command(monkeypatch: pytest.MonkeyPatch):
    env = shutil.which("env")
    monkeypatch.setenv("CXX", f"env {sys.executable}")
    assert native._compiler() == [env, sys.executable]
    assert native._output([*native._compiler(), "--version"]).startswith("Python")
    for nothing in ("nowhere g++", "'unended", " "):
        monkeypatch.setenv("CXX", nothing)
        assert native._compiler() == []
