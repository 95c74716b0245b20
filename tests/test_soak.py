"""The soak itself: that it works on either database, and that it sees what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import recorded_study
from running import ROOT, command_env, run_here
from small_study import grow
from soaking.checks import Found, check_records, differences, passes_of

from studies.records import StudyRecord
from studies.store.writer import StudyStore


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a machine that has much else to do
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_quick_soak_finds_nothing_broken(database: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "soak.py", "--quick", "--json", "--database", database],
        env=command_env(), text=True, capture_output=True, timeout=560, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["broken"] == []
    assert result["studies"] >= 3
    assert sum(result["faults"].values()) >= 5
    assert result["reproduced"] == result["evaluations"] > result["passes"] > result["studies"]


def broken_after(change: str, address: str, record: StudyRecord, log: Path) -> str:
    """What the checks say of a small finished study whose rows were changed."""
    store = StudyStore(address, create=True)
    store.create(record)
    grow(store, "small", 12, harvest=True)
    log.write_text("INFO trial 3 of small recorded\n")
    found = Found()
    check_records(store, [log], found)
    assert found.broken == []
    assert (found.studies, found.trials) == (1, 12)
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql(change)
    check_records(store, [log], found)
    store.database.engine.dispose()
    return "\n".join(found.broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update trials set state = 3 where number = 5", "is not its budget of 12"),
        ("update studies set claimed = 13", "13 trials were claimed of a budget of 12"),
        (
            "delete from evaluations where source <> 'harvest' and trial_id = 4",
            "trials [3] have not one evaluation of their own",
        ),
        (
            "update evaluations set source = 'random' where source = 'harvest' and trial_id = 4",
            "trials [3] have not one evaluation of their own",
        ),
        ("update evaluations set trial_id = 5 where source = 'harvest' and trial_id = 4",
         "is not of its trial's bits"),
        ("update trials set worker = 'another' where number = 3",
         "trial 3 was recorded by ['tester'], and is of another"),
        ("delete from studies", "study small: gone, though its trial 3 was recorded"),
    ],
)  # fmt: skip
def test_what_a_soak_would_see(
    change: str, words: str, tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    assert words in broken_after(change, address, make_record(), tmp_path / "tester.log")


def test_a_figure_that_is_not_reproduced_is_seen(tmp_path: Path) -> None:
    text = recorded_study("small", 16, 0.0).replace("harvest = 0", "harvest = 64")
    (tmp_path / "small.toml").write_text(text.replace("racing = 0", "racing = 0.5"))
    address = f"sqlite:///{tmp_path}/store.db"
    places = ["--store", address, "--cache", tmp_path / "cache"]
    assert run_here(["submit", "small.toml", *places], tmp_path).returncode == 0
    assert run_here(["worker", "--until-done", *places], tmp_path).returncode == 0
    store = StudyStore(address)
    passes = passes_of(store, store.get("small"))
    assert {one.samples for one in passes} > {600}  # whole ones, and some that were given up
    assert sum(len(one.files) for one in passes) > len(passes)
    assert [words for one in passes for words in differences(one)] == []

    number, file = next(iter(passes[-1].files.items()))
    first, *others = file.evaluation["exit_rates"]
    file.evaluation["exit_rates"] = (first + 2**-52, *others)
    (words,) = differences(passes[-1])
    assert words.startswith(f"evaluation {number} (trial {file.trial}, ")
