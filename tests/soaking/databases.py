"""The database under a soak: where workers reach it, and what can be done to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg
from postgres import Postgres, new_database
from sqlalchemy.engine import make_url
from transaction_proxy import TransactionProxy


class Away(Exception):
    """The database does not answer now, or somebody holds what was asked for."""


class Store(Protocol):
    """What a soak knows of a database.

    Attributes:
        kind: its name and version.
        address: as workers reach it.
        direct: as it is reached without a pooler.
        down: whether it was stopped.
        left_out: kinds of faults that it cannot have here, and why.
        pooled: how many transactions went through a pooler.
    """

    kind: str
    address: str
    direct: str
    down: bool
    left_out: Mapping[str, str]

    @property
    def pooled(self) -> int: ...

    def ask(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Rows of a statement, or none; never waits for longer than a second or two.

        Raises:
            Away: when it cannot be answered now.
        """

    def close(self) -> None:
        """Take away what was made for the soak."""


SERVER_ONLY = ("dropped sessions", "dropped by the pooler", "restarted database")
FULL_DISK = "full disk"


class SqliteStore:
    """A file, on a small disk of its own where one can be mounted.

    Args:
        folder: where it lies.
        megabytes: of the disk.
    """

    kind = f"SQLite {sqlite3.sqlite_version}"

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.disk, self.down = folder / "disk", False
        self.left_out = dict.fromkeys(SERVER_ONLY, "SQLite has no server")
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.disk)]
        self._mounted = False
        if os.geteuid() != 0:
            self.left_out[FULL_DISK] = "only root can mount a small disk"
        elif subprocess.run(mount, capture_output=True, check=False).returncode:
            self.left_out[FULL_DISK] = "no disk can be mounted here"
        else:
            self._mounted = True
        self._file = self.disk / "store.db"
        self.address = self.direct = f"sqlite:///{self._file}"

    @property
    def pooled(self) -> int:
        """None: there is no pooler."""
        return 0

    def fill(self) -> Path:
        """Leave no room on the disk, until the file that is returned is removed."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    pass
        return filler

    def ask(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """See :class:`Store`."""
        try:
            connection = sqlite3.connect(self._file, timeout=1.0, isolation_level=None)
            try:
                return connection.execute(statement).fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise Away(str(error)) from error

    def close(self) -> None:
        """See :class:`Store`."""
        if self._mounted:
            shutil.copytree(self.disk, self.disk.with_name("kept"))  # for whoever looks into it
            subprocess.run(["umount", "-l", str(self.disk)], check=True)


class PostgresStore:
    """A database on a server, reached through a pooler in transaction mode.

    Args:
        server_url: of a server on which databases can be made; None for one of the soak's own.
    """

    def __init__(self, server_url: str | None = None) -> None:
        self.down, self.server = False, None
        self.left_out = {FULL_DISK: "only under SQLite"}
        if server_url is None:
            self.server = Postgres()
            self.server.start()
            server_url = self.server.url()
        else:
            self.left_out["restarted database"] = "the server is not the soak's own"
        self.direct = self.address = new_database(server_url)
        self.kind = f"PostgreSQL {self.ask('show server_version')[0][0]}"
        url = make_url(self.direct)
        self.proxy: TransactionProxy | None = None
        if url.password or url.query:
            self.left_out["dropped by the pooler"] = "the pooler of the tests knows no passwords"
        else:
            self.proxy = TransactionProxy(url.port or 5432, url.host or "127.0.0.1")
            through = url.set(host="127.0.0.1", port=self.proxy.port)
            self.address = through.render_as_string(hide_password=False)

    @property
    def pooled(self) -> int:
        """See :class:`Store`."""
        return 0 if self.proxy is None else self.proxy.transactions

    def ask(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """See :class:`Store`."""
        try:
            with psycopg.connect(
                self.direct, autocommit=True, connect_timeout=2, options="-c lock_timeout=1000"
            ) as connection:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise Away(str(error)) from error

    def close(self) -> None:
        """See :class:`Store`."""
        if self.proxy is not None:
            self.proxy.close()
        if self.server is not None:
            self.server.close()


def open_database(given: str, folder: Path, megabytes: int) -> SqliteStore | PostgresStore:
    """The database that ``--database`` names."""
    if given == "sqlite":
        return SqliteStore(folder, megabytes)
    return PostgresStore(None if given == "postgresql" else given)
