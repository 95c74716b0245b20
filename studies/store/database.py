"""The connection to a store's database: SQLite or PostgreSQL, opened, versioned, and retried."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Executable,
    ScalarResult,
    inspect,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from search.errors import BadInput, ExitbitsError
from studies.store import schema, sqlite
from studies.store.address import PASSWORD, PASSWORD_FILE, connectable, parse_url, shown

# Behind a pooler the next transaction may be in another session of the server, so nothing is left
# in one: no statement is prepared there, and nothing set.
CONNECT_ARGUMENTS: Mapping[str, Any] = {
    "connect_timeout": 5, "application_name": "exitbits", "prepare_threshold": None,
}  # fmt: skip
PATIENCE_S = 10.0
VERSION_TABLE = "exitbits_version"
_MADE_BY = "'exitbits launch', 'submit' and 'store upgrade' make one"
MIGRATIONS = Path(__file__).with_name("migrations")

Result = TypeVar("Result")


class StoreUnavailable(ExitbitsError):
    """The database cannot be reached now; what was asked may succeed later."""


class EmptyStore(BadInput):
    """There is no store yet at the address."""


class Database:
    """One store's database.

    Args:
        address: see :func:`studies.store.address.parse_url`.
        create: whether to make the tables (and an SQLite file) where there are none.
        check: whether to refuse tables of another version; only an upgrade does not.
        patience_s: how long what only reads waits for a database that is away.

    Raises:
        EmptyStore: when there is none and ``create`` is not set.
        BadInput: when it cannot be used as a store.
        StoreUnavailable: when it cannot be reached.
    """

    def __init__(
        self, address: str, *, create: bool, check: bool = True, patience_s: float = PATIENCE_S
    ) -> None:
        self._address, self.patience_s = address, patience_s
        self.url = parse_url(address)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.shown = shown(self.url)
        self.is_read_only = False
        if self.is_sqlite:
            self._check_file(create)
        self.engine = _make_engine(connectable(self.url), self.is_read_only)
        if check:
            self._prepare(create)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._address,)

    def _check_file(self, create: bool) -> None:
        file = Path(str(self.url.database))
        if not file.is_file() and not create:
            raise EmptyStore(f"no store at {str(file)!r}: name it with --store; {_MADE_BY}")
        if file.is_file() and not os.access(file, os.R_OK):
            raise BadInput(f"cannot read store {str(file)!r}: ask its owner, or name another")
        self.is_read_only = not sqlite.is_writable(file)
        if create:
            self.refuse_read_only()

    def refuse_read_only(self) -> None:
        """Raise ``BadInput`` for a file that can only be read, before anything long begins."""
        if self.is_read_only:
            raise BadInput(
                f"cannot write store {str(self.url.database)!r}: choose a writable file in a "
                "writable folder"
            )

    @contextmanager
    def read(self) -> Iterator[Reading]:
        """For single statements that only read; each is repeated if the database drops it."""
        reading = Reading(self)
        try:
            with self._explained():
                yield reading
        finally:
            reading.close()

    def _connect_to_read(self) -> Connection:
        connection = self.engine.connect()
        if not self.is_sqlite:
            # One statement sees one state by itself; begin and end would be two round trips.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        return connection

    def repeated(self, attempt: Callable[[], Result], patience_s: float) -> Result:
        """Do it again as long as the database is away, and at least once: a session may be dropped.

        Raises:
            StoreUnavailable: when it is away for longer than ``patience_s``.
        """
        deadline = time.monotonic() + patience_s
        pause, again = 0.05, False
        while True:
            try:
                with self._explained():
                    return attempt()
            except StoreUnavailable:
                if again and time.monotonic() + pause > deadline:
                    raise
                again = True
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, 2.0)

    def write(
        self,
        step: Callable[[Connection], Result],
        patience_s: float = PATIENCE_S,
        *,
        one_statement: bool = False,
    ) -> Result:
        """Run ``step`` in one transaction, again if the database drops it.

        ``step`` must be safe to repeat: it may have been committed although the answer was lost.

        Args:
            step: receives the connection.
            patience_s: how long to go on trying when the database is away.
            one_statement: whether ``step`` executes one statement only, which is a transaction by
                itself: begin and commit would be two more round trips.

        Raises:
            StoreUnavailable: when it stays away.
        """

        def attempt() -> Result:
            with self.engine.connect() as plain:
                connection = plain.execution_options(exitbits_writes=True)
                if one_statement and not self.is_sqlite:
                    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                with connection.begin():
                    return step(connection)

        return self.repeated(attempt, patience_s)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a database error into one line without secrets."""
        try:
            yield
        except IntegrityError:
            raise  # the caller knows what was violated
        except DBAPIError as error:
            raise _explain(error, self.shown) from error
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise ExitbitsError(f"store {self.shown}: {reason}") from error

    def _found_version(self) -> str | None:
        with self.engine.connect() as connection:
            return _version(connection)

    def _prepare(self, create: bool) -> None:
        """Check the version of the tables, and make them where there are none and it may be."""
        found = self.repeated(self._found_version, 0)
        if found is None:
            if not create:
                raise EmptyStore(f"no store in {self.shown}, it is empty; {_MADE_BY}")
            self.upgrade()
            return
        self._check_version(found)

    def _check_version(self, found: str) -> None:
        if found == schema.SCHEMA:
            return
        if found in known_versions():
            raise BadInput(
                f"store {self.shown} has the older schema {found}, this exitbits needs "
                f"{schema.SCHEMA}: run 'exitbits store upgrade --store ...'"
            )
        raise BadInput(
            f"store {self.shown} has schema {found}, newer than this exitbits knows "
            f"({schema.SCHEMA}): install a newer exitbits"
        )

    def upgrade(self) -> None:
        """Bring the tables to this version's schema; of many processes at once one does it.

        Raises:
            BadInput: when the tables are another program's, or newer.
        """
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))

        def migrate(connection: Connection) -> None:
            if not self.is_sqlite:
                # Any constant will do, as long as only this program uses it.
                connection.execute(text("select pg_advisory_xact_lock(7316203148)"))
            found = _version(connection)
            if found is not None and found not in known_versions():
                self._check_version(found)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        self.write(migrate, patience_s=sqlite.BUSY_TIMEOUT_S)


class Reading:
    """Executes single statements that only read, on a connection that is made anew when lost.

    Args:
        database: what is read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    def execute(self, statement: Executable) -> CursorResult[*tuple[Any, ...]]:
        """The rows of a statement.

        Raises:
            StoreUnavailable: when the database stays away.
        """

        def attempt() -> CursorResult[*tuple[Any, ...]]:
            if self._connection is None:
                self._connection = self._database._connect_to_read()
            try:
                return self._connection.execute(statement)
            except DBAPIError:
                self.close()
                raise

        return self._database.repeated(attempt, self._database.patience_s)

    def scalars(self, statement: Executable) -> ScalarResult[Any]:
        """The first value of every row."""
        return self.execute(statement).scalars()

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _reopen(address: str) -> Database:
    return Database(address, create=False)


def known_versions() -> list[str]:
    """Every schema version that this exitbits can bring up to date."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


def _version(connection: Connection) -> str | None:
    """The schema version found, or None in an empty database.

    Raises:
        BadInput: when the tables are another program's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        return None
    if VERSION_TABLE not in names:
        store, some = shown(connection.engine.url), ", ".join(sorted(names)[:3])
        raise BadInput(
            f"store {store} holds tables of another program ({some}): name another database"
        )
    version: str | None = connection.execute(
        text(f"select version_num from {VERSION_TABLE}")
    ).scalar()
    return version


def _make_engine(url: URL, is_read_only: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sqlalchemy.create_engine(url, connect_args=CONNECT_ARGUMENTS)
    if is_read_only:
        return sqlite.engine_to_read(Path(str(url.database)))
    return sqlite.engine_to_write(url)


def _explain(error: DBAPIError, store: str) -> ExitbitsError:
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no reason"
    if isinstance(error.orig, sqlite3.Error):
        name = getattr(error.orig, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreUnavailable(f"store {store} is busy ({reason}): try again")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            # A full disk is either, by what SQLite was about to write.
            cause = "full" if name.startswith("SQLITE_FULL") else f"full or failing ({reason})"
            return StoreUnavailable(f"store {store}: the disk is {cause}: free some room")
        if name.startswith("SQLITE_READONLY"):
            return BadInput(f"store {store} is read-only: make it writable, or name another")
        return BadInput(f"cannot open store {store} ({reason}): name a file that exitbits made")
    # A connection that is refused comes without a code, only in words.
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith("28") or re.search("authentication failed|no password", reason):
        return BadInput(
            f"store {store} refuses the login: check the user, and the password in "
            f"{PASSWORD} or {PASSWORD_FILE}"
        )
    if state == "3D000" or re.search('database ".*" does not exist', reason):
        return BadInput(f"store {store}: no such database: create it first")
    if state == "25006":
        return BadInput(f"store {store} is read-only: make it writable, or name another")
    if state.startswith(("08", "57", "53", "40")) or error.connection_invalidated or not state:
        return StoreUnavailable(f"cannot reach store {store} ({reason}): start it, or try again")
    return ExitbitsError(f"store {store}: {reason}")
