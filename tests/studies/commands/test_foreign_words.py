"""Words that others put into a store reach a person's terminal as words, never as commands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fleet import Fleet, wait_for
from small_study import grow
from sqlalchemy import text

from dashboards.report.figures import front_figure
from search.display import visible
from studies.fronts import FrontSummary, harmless
from studies.records import StudyRecord
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]
Run = Callable[..., CompletedProcess[str]]

EVIL = "\x1b]0;mine\x07\x1b[2J\r\n\x9b31m\u202eevil"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("two\nlines\r\t\x00\x7f\x9b", r"two\nlines\r\t\x00\x7f\x9b"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("\udc80", r"\udc80"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_by_its_code(given: object, shown: str) -> None:
    assert visible(given) == shown
    assert visible(shown) == shown


@pytest.fixture
def hostile(tmp_path: Path, make_record: Make) -> StudyStore:
    """A store in which every text that somebody else can write is a command to a terminal."""
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
    store.create(make_record())
    grow(store, "small", 6)
    store.create(make_record(name="other"))
    with store.database.engine.begin() as connection:
        for statement in (
            "update studies set name = :evil where name = 'other'",
            "update trials set reason = :evil, state = 3 where number = 5",
            "insert into workers (name, session, host, pid, started, alive_until, lease_s) "
            "values (:evil, 's', :evil, 1, '2026-01-01 00:00:00.000000', 99999999999, 60)",
            "update trials set worker = :evil, state = 0, lease_until = 99999999999 "
            "where number = 4",
            "update evaluations set source = :evil where id = 1",
        ):
            connection.execute(text(statement), {"evil": EVIL})
    return store


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("status", "--json"),
        ("status", EVIL),
        ("status", "none"),
        ("front", "small"),
        ("front", "small", "--csv"),
        ("front", "small", "--json"),
        ("front", EVIL),
        ("pick", "small", "--knee"),
        ("pick", "small", "--digest", "0"),
        ("study", "list"),
        ("study", "delete", EVIL),
        ("study", "delete", "none"),
        ("stop", EVIL),
    ],
)
def test_commands_print_no_raw_sequence(exitbits: Run, command: tuple[str, ...]) -> None:
    done = exitbits(*command)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert printed.replace("\n", "").isprintable()
    assert len(done.stderr.splitlines()) <= 2  # an error, and a warning of what is left out


def test_a_workers_log_has_one_line_a_record(hostile: StudyStore, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, hostile.address, tmp_path / "cache")
    try:
        fleet.worker("w")
        wait_for(lambda: "cannot be read" in fleet.log("w"), "the study that cannot be read")
        log = fleet.log("w")
    finally:
        fleet.close()
    assert log.replace("\n", "").isprintable()
    assert "evil" in log


def test_worker_names_are_checked_as_study_names_are(exitbits: Run) -> None:
    for name in (EVIL, " ", "x" * 101):
        done = exitbits("worker", "--name", name)
        assert done.returncode == 2
        assert "printable" in done.stderr


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_no_formula_in_a_spreadsheet(first: str) -> None:
    assert harmless(f"{first}cmd") == f"'{first}cmd"


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    for number in (-0.5, 1, "0.5 0.7", None):
        assert harmless(number) == number


def test_a_source_that_is_a_formula_is_quoted_in_csv_alone(
    tmp_path: Path, make_record: Make, exitbits: Run
) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
    store.create(make_record())
    grow(store, "small", 4)
    with store.database.engine.begin() as connection:
        connection.execute(text("update evaluations set source = '=HYPERLINK(\"http://x\")'"))
    rows = list(csv.DictReader(io.StringIO(exitbits("front", "small", "--csv").stdout)))
    assert rows
    for row in rows:
        assert row["source"].startswith("'=")
        assert float(row["drop"]) == pytest.approx(0.9 - float(row["accuracy"]))
    found = json.loads(exitbits("front", "small", "--json").stdout)["front"]
    assert {row["source"] for row in found} == {'=HYPERLINK("http://x")'}


def test_no_name_becomes_a_link_in_the_report(tmp_path: Path, make_record: Make) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
    store.create(make_record())
    grow(store, "small", 4)
    link = '<a href="https://example.org">accuracy</a>'
    with store.database.engine.begin() as connection:
        connection.execute(text("update evaluations set source = :link"), {"link": link})
        (record,) = connection.execute(text("select record from studies")).scalars()
        record = json.dumps({**json.loads(record), "metric": link})
        connection.execute(text("update studies set record = :record"), {"record": record})
    summary = FrontSummary.load(store, store.get("small"))
    drawn = front_figure(summary).to_json()
    assert "&lt;a href" in drawn
    assert "<a href" not in drawn
    assert "\\u003ca href" not in drawn
