"""The seam to the database: how an Optuna storage is opened for a store's URL.

Today it is Optuna's own ``RDBStorage`` on SQLite. Only :mod:`studies.store` calls it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from search.errors import BadInput

BUSY_TIMEOUT_S = 60

optuna.logging.set_verbosity(optuna.logging.WARNING)


def sqlite_file(url: str) -> Path:
    """The file behind a store's URL.

    Raises:
        BadInput: when the URL is not one of an SQLite file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite":
        raise BadInput(f"store {url!r}: give the URL of an SQLite file, such as sqlite:///study.db")
    if not parsed.database or parsed.database == ":memory:":
        raise BadInput(f"store {url!r}: workers share it, so it must be a file")
    return Path(parsed.database)


def check_writable(url: str) -> None:
    """Raise ``BadInput`` unless a store can be written at ``url``; nothing is created."""
    file = sqlite_file(url)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise BadInput(
            f"cannot write store {str(file)!r}: choose a writable folder that exists with --store"
        )


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open the storage at ``url``.

    Args:
        url: an SQLAlchemy URL of an SQLite file.
        create: whether to make the file when it is missing.

    Raises:
        BadInput: when the file is missing, cannot be opened or is no store.
    """
    file = sqlite_file(url)
    if not create and not file.is_file():
        raise BadInput(f"no store at {str(file)!r}: name it with --store, or launch a study first")
    try:
        with exclusive(url):
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}})
            event.listen(storage.engine, "connect", _use_write_ahead_log)
            storage.engine.dispose()  # so that the next connection passes the listener
            with storage.engine.connect() as connection:
                connection.execute(sqlalchemy.text("select 1"))
            return storage
    except (DatabaseError, RuntimeError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise BadInput(
            f"cannot open store {str(file)!r} ({reason}): name a writable SQLite file that "
            "exitbits made"
        ) from error


def _use_write_ahead_log(connection: Any, _: Any) -> None:
    connection.execute("pragma journal_mode=wal")


@contextmanager
def exclusive(url: str) -> Iterator[None]:
    """Hold the store's lock file: one claim at a time on this machine.

    The system frees the lock of a process that dies, however it dies.
    """
    path = sqlite_file(url)
    path = path.with_name(f"{path.name}.lock")
    try:
        lock = path.open("w")
    except OSError as error:
        raise BadInput(
            f"cannot write {str(path)!r} ({error.strerror}): the store needs a writable folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
