"""An SQLite file as a store: opened to be written by many processes, or only to be read."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

BUSY_TIMEOUT_S = 60.0
COPIES = 5  # made anew while somebody writes to what is copied


def is_writable(file: Path) -> bool:
    """Whether a store can be written at ``file``: SQLite keeps files of its own beside it."""
    return os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))


def engine_to_write(url: URL) -> Engine:
    """Connections that read and write."""
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # Transactions are begun below, not by the driver, which would begin them too late.
        connection.isolation_level = None
        _switch_to_wal(connection)
        connection.execute("pragma foreign_keys = on")

    _begin_in_time(engine)
    return engine


def engine_to_read(file: Path) -> Engine:
    """Connections to a file that only others can write, or nobody; nothing is left beside it."""
    # A new one each time: what others do to the file may ask for another way to read it.
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=_ReadOnlyFile(file).connect, poolclass=NullPool
    )
    _begin_in_time(engine)
    return engine


def _begin_in_time(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that will write takes the lock at once: one that first reads could find
        # its snapshot outdated when it comes to write, and fail without waiting.
        writes = connection.get_execution_options().get("exitbits_writes")
        connection.exec_driver_sql("begin immediate" if writes else "begin")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch the file's journal to WAL, once for all; of many processes at once one does it.

    The switch turns a read lock into an exclusive one. Where two processes try that together,
    SQLite refuses one at once, whatever the busy timeout, so the waiting is done here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if connection.execute("pragma journal_mode").fetchone() != ("wal",):
                connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.02))


class _ReadOnlyFile:
    """Opens a file that cannot be written, whatever its last writer left beside it.

    Args:
        file: the database.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.absolute()
        self._log, self._journal = (Path(f"{self._file}-{what}") for what in ("wal", "journal"))
        self._copied_from: object = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    def connect(self) -> sqlite3.Connection:
        """A connection that reads.

        Raises:
            sqlite3.Error: when it cannot be read.
        """
        try:
            return self._connect()
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error

    def _connect(self) -> sqlite3.Connection:
        # What SQLite makes beside a file in WAL would be this user's, and lock its owner out.
        if not self._has_wal() or self._log.exists():
            try:
                return _opened(self._file, "?mode=ro&readonly_shm=1")
            except sqlite3.OperationalError:
                if any(map(_size, (self._log, self._journal))):
                    # What its last writer did not finish is played back, which takes a place.
                    return _opened(self._copied(), "")
        return _opened(self._file, "?immutable=1")  # nobody is writing

    def _has_wal(self) -> bool:
        with self._file.open("rb") as file:
            return file.read(20)[18:19] == b"\x02"  # as SQLite's file format has it

    def _copied(self) -> Path:
        """A copy of what stands there now, which lasts until something else does."""
        files = [self._file, self._log, self._journal]
        for _ in range(COPIES):
            state = [(path.stat().st_mtime_ns, _size(path)) for path in files if path.exists()]
            if state == self._copied_from and self._copy is not None:
                break
            folder = tempfile.TemporaryDirectory(prefix="exitbits-")
            for path in files:
                if path.exists():
                    shutil.copyfile(path, Path(folder.name) / path.name)
            self._copied_from, self._copy = state, folder
        assert self._copy is not None
        return Path(self._copy.name) / self._file.name


def _opened(file: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{file.as_uri()}{options}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip
    try:
        connection.execute("pragma query_only = on")  # a copy could be written
        connection.execute("select count(*) from sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
