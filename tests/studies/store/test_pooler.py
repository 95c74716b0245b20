"""Behind a pooler in transaction mode: the next transaction is in another session of the server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fleet import Fleet, recorded_study
from postgres import new_database
from small_study import measure, open_names
from sqlalchemy.engine import make_url
from transaction_proxy import SESSIONS, TransactionProxy

from studies.records import StudyRecord
from studies.store.workers import Registration, list_workers, release_dead
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]

LEFT_BEHIND = """
select (select count(*) from pg_prepared_statements) + (select count(*) from pg_cursors)
  + (select count(*) from pg_listening_channels())
  + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
  + (select count(*) from pg_class where relpersistence = 't')
  + (select count(*) from pg_settings where source = 'session' and name not like 'transaction_%')
"""


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[TransactionProxy]:
    made = TransactionProxy(make_url(postgres_url).port or 5432)
    yield made
    made.close()


def through(proxy: TransactionProxy, postgres_url: str) -> str:
    url = make_url(new_database(postgres_url)).set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)


def left_behind(address: str) -> list[int]:
    """What every session of the pool holds, asked as the store's own connections do."""
    arguments = {"application_name": "exitbits", "prepare_threshold": None, "autocommit": True}
    plain = make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, **arguments) as connection:  # type: ignore[arg-type]
        rows = [connection.execute(LEFT_BEHIND).fetchone() for _ in range(SESSIONS)]
    return [row[0] for row in rows if row]


def test_nothing_is_left_in_a_session(
    proxy: TransactionProxy, postgres_url: str, make_record: Make
) -> None:
    """Protection: no statement is prepared on the server."""
    address = through(proxy, postgres_url)
    store = StudyStore(address, create=True)
    store.create(make_record())
    registration = Registration(store.claims, "ann")
    proposer = Proposer(store, store.get("small"), "ann")
    while claim := proposer.claim("ann"):
        registration.hold(claim.lease)
        assert store.claims.renew(claim.lease)
        assert len(list_workers(store.database)) == 1
        assert release_dead(store.database) == 0
        open_names(store)
        store.record(claim, measure(claim.policy))
    registration.close()
    study = store.get("small").id
    assert Counter(row.trial for row in store.evaluations(study)) == Counter(range(12))
    assert proxy.transactions > 100
    assert left_behind(address) == [0] * SESSIONS


def test_a_session_that_is_dropped_costs_nobody_anything(
    proxy: TransactionProxy, postgres_url: str, make_record: Make
) -> None:
    """Protection: reading is repeated as writing is; nothing need be asked twice by hand."""
    store = StudyStore(through(proxy, postgres_url), create=True, patience_s=0)
    store.create(make_record())
    proposer = Proposer(store, store.get("small"), "ann")
    for _ in range(4):
        claim = proposer.claim("ann")
        assert claim
        proxy.drop_sessions()
        assert store.progress(proposer.study.id).running == 1
        proxy.drop_sessions()
        store.record(claim, measure(claim.policy))
        proxy.drop_sessions()
        assert store.names() == ["small"]
        proxy.drop_sessions()
        assert store.storage.get_study_id_from_name("small") == proposer.study.id
    assert Counter(row.trial for row in store.evaluations(proposer.study.id)) == Counter(range(4))


def test_commands_work_behind_it(
    proxy: TransactionProxy, postgres_url: str, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, through(proxy, postgres_url), tmp_path / "cache")
    (tmp_path / "small.toml").write_text(recorded_study("small", 12, 0.0))
    fleet.run("submit", "small.toml", "--cache", str(fleet.cache))
    workers = [fleet.worker(name, "--until-done") for name in ("ann", "bob")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    (shown,) = json.loads(fleet.run("status", "--json"))["studies"]
    assert (shown["finished"], shown["failed"], shown["lost"]) == (12, 0, 0)
    other = through(proxy, postgres_url)
    assert "12 trials copied" in fleet.run("study", "export", "small", other)
    assert left_behind(fleet.address) == [0] * SESSIONS
