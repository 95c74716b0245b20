"""A store of the first schema: refused until it is upgraded, and nothing lost when it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import TrialState
from small_study import measure, take
from sqlalchemy import Connection, text

from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.database import MIGRATIONS, VERSION_TABLE, Database
from studies.store.rows import evaluation_row
from studies.store.schema import SCHEMA
from studies.store.workers import list_workers, release_dead
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]
Run = Callable[..., subprocess.CompletedProcess[str]]
BITS = (8, 6, 4, 3)
CREATED = "2026-01-02 03:04:05.000006"


@pytest.fixture
def old(address: str, make_record: Make) -> Database:
    """A store as an earlier exitbits left it: one trial of four evaluations in a study of 12."""
    return make_old(address, make_record())


def make_old(address: str, record: StudyRecord) -> Database:
    from alembic import command
    from alembic.config import Config

    database = Database(address, create=True, check=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def make(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        fill(connection, record)

    database.write(make)
    return database


def fill(connection: Connection, record: StudyRecord) -> None:
    """Rows by plain SQL: the code of today must have no part in what is of yesterday."""
    insert(
        connection, "studies", name="small", directions="[2, 1]", user_attrs="{}",
        system_attrs='{"study:metric_names": ["accuracy", "gbops"]}',
        record=json.dumps(record.as_dict()), budget=12, claimed=1, trials=1, revision=2,
        created=CREATED,
    )  # fmt: skip
    params = json.dumps({})
    insert(
        connection, "trials", study_id=1, number=0, state=TrialState.COMPLETE.value, params=params,
        trial_values="[0.5, 0.25]", intermediate="{}", user_attrs="{}", system_attrs="{}",
        started=CREATED, finished=CREATED, source="random", worker="gone", attempt=1, revision=2,
    )  # fmt: skip
    for bits in BITS:
        row = evaluation_row(f"W{bits}", measure(record.space.uniform(bits, 0.5)))
        insert(connection, "evaluations", study_id=1, trial_id=1, revision=2, **row)
    insert(
        connection, "workers", name="gone", session="s" * 32, host="here", pid=1, started=CREATED,
        alive_until=1.0,
    )  # fmt: skip


def insert(connection: Connection, table: str, **values: Any) -> None:
    columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    connection.execute(text(f"insert into {table} ({columns}) values ({marks})"), values)


def content(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table as the database gives it."""
    with database.read() as connection:
        return {
            table: [
                dict(row)
                for row in connection.execute(
                    text(f"select * from {table} order by 1")
                ).mappings()
            ]
            for table in ("studies", "trials", "evaluations", "workers")
        }  # fmt: skip


def version(database: Database) -> str:
    with database.read() as connection:
        return str(connection.execute(text(f"select version_num from {VERSION_TABLE}")).scalar())


def without_new(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The same without the columns that later schemas bring."""
    new = ("model", "checkpoint", "returned", "lease_s", "machine", "ticks", "serves")
    return {
        table: [{key: value for key, value in row.items() if key not in new} for row in kept]
        for table, kept in rows.items()
    }


def test_an_old_store_is_refused_with_the_way_out_and_kept(old: Database, address: str) -> None:
    before = content(old)
    for create in (False, True):
        with pytest.raises(BadInput, match=r"older schema 0001.*'exitbits store upgrade") as caught:
            StudyStore(address, create=create)
        assert "\n" not in str(caught.value)
    assert content(old) == before
    assert version(old) == "0001"


def test_an_upgrade_keeps_every_row_and_id(old: Database, address: str, make_record: Make) -> None:
    before = content(old)
    assert len(before["evaluations"]) == len(BITS)
    Database(address, create=False, check=False).upgrade()
    assert version(old) == SCHEMA
    after = content(old)
    assert without_new(after) == before
    assert all(row["model"] is row["checkpoint"] is None for row in after["evaluations"])

    store = StudyStore(address)
    assert store.get("small").record == make_record()
    rows = store.evaluations(store.get("small").id)
    assert [row.id for row in rows] == [1, 2, 3, 4]
    assert [(row.trial, row.source, row.model) for row in rows] == [
        (0, f"W{bits}", None) for bits in BITS
    ]
    space = store.get("small").record.space
    assert store.details(rows) == [measure(space.uniform(bits, 0.5)) for bits in BITS]


def test_an_upgraded_store_takes_up_its_work(old: Database, address: str) -> None:
    old.upgrade()
    store = StudyStore(address)
    claim = take(store, "small", "tester")
    assert claim
    assert claim.lease.number == 1
    store.record(claim, measure(claim.policy))
    model = Contribution("late", measure(claim.policy), "e" * 64, Path("r.safetensors"))
    assert contribute(store, store.get("small").id, [model]) == 1
    rows = store.evaluations(store.get("small").id)
    assert [row.id for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.trial for row in rows[4:]] == [1, None]


def test_an_upgraded_stores_old_worker_and_lease_are_read(old: Database, address: str) -> None:
    """Rows of yesterday lack what the third schema brings: none of it may be taken for granted."""
    with old.engine.connect() as connection, connection.begin():
        connection.execute(
            text(
                "update trials set state = 0, lease_until = "
                + ("strftime('%s','now')" if old.is_sqlite else "extract(epoch from now())")
                + " + 30"
            )
        )
    old.upgrade()
    store = StudyStore(address)
    assert list(list_workers(store.database)) == []  # long gone
    assert store.progress(1).running == 1
    claim = take(store, "small", "tester")
    assert claim
    assert claim.lease.number == 1  # the old lease still holds, though it says no length
    assert release_dead(store.database) == 0


def test_an_id_that_was_deleted_is_not_used_again(old: Database, address: str) -> None:
    """On SQLite the table is written anew: its counter must not fall back to the largest id."""
    old.write(lambda connection: connection.execute(text("delete from evaluations where id > 2")))
    old.upgrade()
    store = StudyStore(address)
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy))
    assert [row.id for row in store.evaluations(store.get("small").id)] == [1, 2, 5]


def test_an_upgraded_store_numbers_on_after_later_deletions(old: Database, address: str) -> None:
    old.upgrade()
    old.write(lambda connection: connection.execute(text("delete from evaluations where id > 2")))
    store = StudyStore(address)
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy))
    assert [row.id for row in store.evaluations(store.get("small").id)] == [1, 2, 5]


def test_an_upgraded_store_has_the_tables_of_a_new_one(old: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from studies.store.schema import metadata

    old.upgrade()
    inspector = sqlalchemy.inspect(old.engine)
    assert {index["name"] for index in inspector.get_indexes("evaluations")} == {
        "evaluations_by_revision", "evaluations_by_digest",
    }  # fmt: skip
    columns = {column["name"]: column for column in inspector.get_columns("evaluations")}
    assert columns["trial_id"]["nullable"]
    assert not columns["study_id"]["nullable"]
    assert not columns["detail"]["nullable"]
    assert inspector.get_pk_constraint("evaluations")["constrained_columns"] == ["id"]
    keys = {
        key["constrained_columns"][0]: (key["referred_table"], key["options"].get("ondelete"))
        for key in inspector.get_foreign_keys("evaluations")
    }
    assert keys == {"study_id": ("studies", "CASCADE"), "trial_id": ("trials", "CASCADE")}
    assert not [name for name in inspector.get_table_names() if name.startswith("_alembic")]
    with old.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        if old.is_sqlite:
            assert connection.execute(text("pragma foreign_key_check")).all() == []
            (definition,) = connection.scalars(
                text("select sql from sqlite_master where name = 'evaluations'")
            )
            assert "AUTOINCREMENT" in definition


def test_references_still_hold_after_an_upgrade(old: Database, address: str) -> None:
    old.upgrade()
    store = StudyStore(address)
    store.delete(store.get("small").id)
    left = content(old)
    assert (left["trials"], left["evaluations"]) == ([], [])


def test_a_second_upgrade_does_nothing(old: Database) -> None:
    old.upgrade()
    after = content(old)
    old.upgrade()
    assert content(old) == after
    assert version(old) == SCHEMA


def test_an_upgrade_that_fails_leaves_the_old_store(old: Database, address: str) -> None:
    before = content(old)

    class Cut(Exception):
        pass

    def cut(connection: Connection) -> None:
        raise Cut

    sqlalchemy.event.listen(old.engine, "commit", cut)
    with pytest.raises(Cut):
        old.upgrade()
    sqlalchemy.event.remove(old.engine, "commit", cut)
    old.engine.dispose()
    assert version(old) == "0001"
    assert content(old) == before
    Database(address, create=False, check=False).upgrade()
    assert without_new(content(old)) == before


def test_the_command_upgrades(exitbits: Run, tmp_path: Path, make_record: Make) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    old = make_old(address, make_record())
    before = content(old)
    refused = exitbits("front", "small", "--store", address)
    assert refused.returncode == 2
    assert "exitbits store upgrade" in refused.stderr
    assert "Traceback" not in refused.stderr
    for _ in range(2):
        done = exitbits("store", "upgrade", "--store", address)
        assert done.returncode == 0, done.stderr
        assert "is up to date" in done.stdout
        assert without_new(content(old)) == before
    shown = exitbits("front", "small", "--store", address, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["evaluations"] == len(BITS)
