"""What a person may name where a study is asked for, and what is said of its budget."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fleet import recorded_study
from running import run_here

from studies.cli import main
from studies.store.writer import StudyStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small study's file."""
    (tmp_path / "one.toml").write_text(recorded_study("one", 6, 0))
    return tmp_path


def ok(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_here([*arguments, "--store", f"sqlite:///{folder}/s.db"], folder)
    assert done.returncode == 0, done.stderr
    return done


def test_a_study_goes_on_by_its_name_and_keeps_what_it_is(folder: Path) -> None:
    assert ok(folder, "submit", "one.toml").stdout == "study one: budget 6 trials\n"
    store = StudyStore(f"sqlite:///{folder}/s.db")
    before = store.get("one")
    (folder / "one.toml").unlink()
    assert ok(folder, "submit", "one").stdout == "study one: budget 6 trials\n"
    assert store.get("one") == before
    assert ok(folder, "submit", "one", "--trials", "8").stdout == "study one: budget 8 trials\n"
    assert store.names() == ["one"]


def test_under_another_name_a_new_study_is_made_like_it(folder: Path) -> None:
    ok(folder, "submit", "one.toml")
    assert ok(folder, "submit", "one", "--name", "two").stdout == "study two: budget 6 trials\n"
    store = StudyStore(f"sqlite:///{folder}/s.db")
    one, two = (store.get(name).record.config.identity() for name in ("one", "two"))
    assert {**one, "name": "two"} == two


def test_fewer_trials_are_said_to_change_nothing(folder: Path) -> None:
    ok(folder, "submit", "one.toml")
    said = ok(folder, "submit", "one.toml", "--trials", "5").stdout
    assert said.startswith("study one: budget 6 trials, as before; 5 is less and changes nothing")
    assert "'exitbits stop'" in said
    assert StudyStore(f"sqlite:///{folder}/s.db").get("one").record.config.budget.trials == 6
    launched = ok(folder, "launch", "one", "--trials", "5", "--workers", "1", "--cache", "cache")
    assert "5 is less and changes nothing" in launched.stderr
    assert StudyStore(f"sqlite:///{folder}/s.db").progress(1).finished == 6
    assert ok(folder, "stop", "one").stdout == "study 'one' ends at 6 trials\n"


def test_what_nothing_is_called_is_refused_with_what_there_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    store = ["--store", f"sqlite:///{folder}/s.db"]
    for command in ("launch", "submit"):
        assert main([command, "oen", *store]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "nothing is called 'oen': presets are fashion, fashion-deep, this store" in said
    assert not (folder / "s.db").exists()  # a look makes no store
    ok(folder, "submit", "one.toml")
    capsys.readouterr()
    assert main(["launch", "oen", *store]) == 2
    assert "this store has one; a file's name ends in .toml" in capsys.readouterr().err
    assert main(["stop", "one", *store]) == 2
    assert "has not begun" in capsys.readouterr().err


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    for option, words in (("--version", "exitbits "), ("--print-completion=bash", "--max-gbops")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert words in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "zsh"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--until-done" in out
    assert "rename" in out
