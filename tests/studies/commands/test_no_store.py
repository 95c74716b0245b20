"""Only ``launch``, ``submit`` and ``store upgrade`` make a store; others say what makes one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import recorded_study
from postgres import new_database
from running import run_here
from sqlalchemy import create_engine, inspect

from studies.cli import COMMANDS, added_commands
from studies.records import StudyRecord
from studies.store.exchange import export_study
from studies.store.writer import StudyStore

MAKING = {"launch", "submit", "store"}
STORELESS = {"evaluate", "recover", "train"}  # of a policy's file, or of images
OTHERS = (
    ("status",),
    ("status", "small"),
    ("worker", "--until-done"),
    ("front", "small"),
    ("pick", "small", "--knee", "-o", "p.json"),
    ("baselines", "small"),
    ("maqee", "small", "--budgets", "1"),
    ("stop", "small"),
    *(("study", action, "small") for action in ("archive", "restore", "retry")),
    ("study", "list"),
    ("study", "rename", "small", "other"),
    ("study", "delete", "small", "--yes"),
    ("study", "export", "small", "sqlite:///theirs.db"),
    ("study", "import", "small", "sqlite:///theirs.db"),
    ("serve", "--port", "0"),
    ("report", "small", "-o", "r.html"),
)


def test_every_command_is_tried() -> None:
    tried = {words[0] for words in OTHERS} | MAKING | STORELESS
    assert tried == {*COMMANDS, *added_commands()}


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_a_mistyped_file_is_not_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run_here((*words, "--store", "sqlite:///mistyped.db"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "exitbits: no store at 'mistyped.db': name it with --store; 'exitbits launch', 'submit' "
        "and 'store upgrade' make one"
    )
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("status",), ("serve", "--port", "0"), ("study", "list")])
def test_no_tables_are_made_in_another_database(
    tmp_path: Path, postgres_url: str, words: tuple[str, ...]
) -> None:
    address = new_database(postgres_url)
    done = run_here((*words, "--store", address), tmp_path)
    assert done.returncode == 2
    assert re.search("no store in .*'exitbits launch', 'submit'", done.stderr)
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    assert inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize("command", ["submit", "launch"])
def test_what_begins_a_study_makes_its_store(tmp_path: Path, command: str) -> None:
    (tmp_path / "small.toml").write_text(recorded_study("small", 1, 0).replace("[4, 8]", "[4]"))
    done = run_here((command, "small.toml", "--cache", "cache"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_here(("study", "list"), tmp_path).stdout == "small\n"


def test_an_upgrade_makes_a_store(tmp_path: Path) -> None:
    assert run_here(("store", "upgrade"), tmp_path).returncode == 0
    assert run_here(("status",), tmp_path).returncode == 0


def test_the_other_database_of_an_import_is_not_made(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
    done = run_here(("study", "import", "small", "sqlite:///mistyped.db"), tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no database at 'mistyped.db'" in done.stderr
    assert not (tmp_path / "mistyped.db").exists()
    # Nor are tables made in a file that is something else.
    (tmp_path / "empty.db").touch()
    done = run_here(("study", "import", "small", "sqlite:///empty.db"), tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "as an Optuna database" in done.stderr
    assert (tmp_path / "empty.db").stat().st_size == 0
    # What is there is read, and an export makes its own.
    store.create(make_record())
    export_study(store, store.get("small").id, f"sqlite:///{tmp_path}/theirs.db")
    store.delete(store.get("small").id)
    done = run_here(("study", "import", "small", "sqlite:///theirs.db"), tmp_path)
    assert done.returncode == 0, done.stderr
