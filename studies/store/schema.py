"""The tables of a store. What changes here needs a migration in ``studies/store/migrations``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    and_,
    func,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from search.errors import BadInput

SCHEMA = "0003"  # the newest migration; see studies/migrations/versions


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone on every database: SQLite keeps none, so UTC is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """JSON kept as text: both databases then take NaN and infinity, which Optuna allows."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        try:
            return None if value is None else json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"a row of the store holds no JSON ({error})") from error


class now_seconds(FunctionElement[float]):  # noqa: N801 - named as the SQL function it is
    """Seconds since 1970 by the database's clock, read when the statement runs."""

    type = Float()
    inherit_cache = True


@compiles(now_seconds, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_seconds, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


metadata = MetaData()

# With sqlite_autoincrement, ids are never used twice, not even after a deletion.
_Id = BigInteger().with_variant(Integer, "sqlite")

studies = Table(
    "studies",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("directions", JsonText, nullable=False),
    Column("user_attrs", JsonText, nullable=False),
    Column("system_attrs", JsonText, nullable=False),
    # What exitbits knows of the study; null for a study that another program made.
    Column("record", JsonText),
    Column("budget", Integer),
    Column("claimed", Integer, nullable=False, default=0),
    Column("trials", Integer, nullable=False, default=0),
    # Every change to a study, its trials or its evaluations takes the next revision, under the
    # lock of this row: revisions are committed in their order, so readers miss none.
    Column("revision", BigInteger, nullable=False, default=0),
    Column("archived", UtcTime),
    Column("created", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)

trials = Table(
    "trials",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("study_id", _Id, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("params", JsonText, nullable=False),
    Column("trial_values", JsonText),
    Column("intermediate", JsonText, nullable=False),
    Column("user_attrs", JsonText, nullable=False),
    Column("system_attrs", JsonText, nullable=False),
    Column("started", UtcTime),
    Column("finished", UtcTime),
    Column("source", Text),
    Column("worker", Text),
    Column("attempt", Integer, nullable=False, default=0),
    # Attempts that were given back, or are tried again: they count against nobody.
    Column("returned", Integer, nullable=False, default=0, server_default="0"),
    Column("lease_until", Float),
    Column("lease_s", Float),
    Column("reason", Text),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("study_id", "number"),
    Index("trials_by_revision", "study_id", "revision"),
    Index("trials_by_state", "study_id", "state", "number"),
    sqlite_autoincrement=True,
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("study_id", _Id, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    # Null for a contribution that is no trial.
    Column("trial_id", _Id, ForeignKey("trials.id", ondelete="CASCADE")),
    Column("revision", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("value", Float, nullable=False),
    Column("standard_error", Float, nullable=False),
    Column("gbops", Float, nullable=False),
    Column("gbops_p95", Float, nullable=False),
    Column("mean_exit", Float, nullable=False),
    Column("policy", Text, nullable=False),
    # The rest of the evaluation, read for one policy at a time.
    Column("detail", Text, nullable=False),
    # Digest and file of a recovered checkpoint; null for the study's own.
    Column("model", String(64)),
    Column("checkpoint", Text),
    Index("evaluations_by_revision", "study_id", "revision"),
    Index("evaluations_by_digest", "study_id", "digest"),
    sqlite_autoincrement=True,
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("session", String(32), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    # Which process it is, see :mod:`studies.store.identity`.
    Column("machine", Text, nullable=False, server_default=""),
    Column("ticks", BigInteger, nullable=False, server_default="0"),
    # Name of the only study that it serves, null for all.
    Column("serves", Text),
    Column("started", UtcTime, nullable=False),
    Column("alive_until", Float, nullable=False),
    Column("lease_s", Float),
)

# Which worker has given a study up, and why. It outlives the worker: who comes later must know.
refusals = Table(
    "refusals",
    metadata,
    Column("study_id", _Id, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", UtcTime, nullable=False),
)

LEASE_S = 60.0  # long beside a lost heartbeat, short beside a lost worker
_SLACK_S = 1.0  # clocks are trimmed by less all the time


def lasts(until: ColumnElement[Any], length_s: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a lease still holds: it has not run out, and is not longer than it was made.

    One that seems longer was made before the clock was set back, and has run out.

    Args:
        until: when it ends, by the database's clock.
        length_s: how long it was made, null where an earlier exitbits made it.
    """
    left = until - now_seconds()
    return and_(left >= 0, left <= func.coalesce(length_s, LEASE_S) + _SLACK_S)


__all__ = [
    "LEASE_S", "evaluations", "lasts", "metadata", "now_seconds", "refusals", "studies", "trials",
    "workers",
]  # fmt: skip
