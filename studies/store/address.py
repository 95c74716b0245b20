"""A store's address: checked, completed with the password that belongs to it, and shown without.

Passwords never stand in an argument, an error or a log: they come from ``EXITBITS_DB_PASSWORD`` or
from the file that ``EXITBITS_DB_PASSWORD_FILE`` names, and are sent to the store alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from search.errors import BadInput
from search.files import warn_if_others_read

STORE = "EXITBITS_STORE"
DEFAULT_STORE = "sqlite:///exitbits.db"
PASSWORD, PASSWORD_FILE = "EXITBITS_DB_PASSWORD", "EXITBITS_DB_PASSWORD_FILE"

_FORMS = "sqlite:///FILE or postgresql://USER@HOST:PORT/DATABASE"
# libpq takes a password, the passphrase of a key, and a client's secret from the query as well.
_SECRET = re.compile("password|secret", re.IGNORECASE)
_IN_AUTHORITY = re.compile(r"[^/]+://[^/@]*:.+@")
_HIDDEN = "***"
# Of the ways to log in, the one that hands the password itself to whoever answers.
_NO_PLAIN_PASSWORD = "!password"


def default_address() -> str:
    """``$EXITBITS_STORE``, else an SQLite file in the working folder."""
    return os.environ.get(STORE, DEFAULT_STORE)


def parse_url(address: str, *, store: str | None = None) -> URL:
    """Check a database's address and complete it.

    Args:
        address: ``sqlite:///FILE`` or ``postgresql://USER@HOST:PORT/DATABASE``.
        store: the store's own address, where this is another database: it is not told the store's
            password unless it is the same user's on the same server.

    Raises:
        BadInput: for another kind of database, or an SQLite database that no other process can
            share.
    """
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):
        backend = ""
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise BadInput(f"store {shown(address)!r}: workers share it, so it must be a file")
        if "?" in address:  # what follows it would be cut off
            raise BadInput(
                f"store {shown(address)!r}: an SQLite file takes no options; write ? as %3F"
            )
        return url.set(drivername="sqlite")
    if backend != "postgresql":
        raise BadInput(f"store {shown(address)!r}: give {_FORMS}")
    url = url.set(drivername="postgresql+psycopg")
    # Where it stands in the query, it is taken out of it: what is not the password is shown.
    if (given := url.query.get("password")) is not None:
        last = given if isinstance(given, str) else given[-1]
        url = url.difference_update_query(["password"]).set(password=last)
    if url.password is None and (store is None or _server(url) == _server(parse_url(store))):
        url = url.set(password=_password())
    return url


def connectable(url: URL) -> URL:
    """The address as libpq is to take it: no server is handed the password itself.

    An address that says which ways of logging in it allows, or that has the server prove who it
    is, is taken as it stands.
    """
    if url.get_backend_name() == "sqlite" or "require_auth" in url.query:
        return url
    if url.query.get("sslmode") in ("verify-ca", "verify-full"):
        return url
    return url.update_query_dict({"require_auth": _NO_PLAIN_PASSWORD})


def shown(address: str | URL) -> str:
    """An address as a person may see it: without passwords, wherever in it they stand."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        text = str(address).rpartition("@")[2]
        return re.sub(rf"(?i)(\w*(?:{_SECRET.pattern})\w*=)[^&]*", rf"\1{_HIDDEN}", text)
    hidden = {key: _HIDDEN for key in url.query if _SECRET.search(key)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def refuse_password(address: str) -> None:
    """Raise ``BadInput`` when an address given as an argument holds a password."""
    try:
        keys = list(make_url(address).query)
    except (ArgumentError, ValueError):
        keys = re.findall(r"[?&]([^=&]*)=", address)
    if _IN_AUTHORITY.match(address) or any(_SECRET.search(key) for key in keys):
        raise BadInput(
            "the address holds a password, which other users can see in the process list: leave "
            f"it out and set {PASSWORD} or {PASSWORD_FILE}"
        )


def _server(url: URL) -> tuple[object, ...]:
    """Whom a password is told: server and user, and the options, which may change either."""
    return url.username, url.host, url.port or 5432, url.query


def _password() -> str | None:
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if PASSWORD_FILE not in os.environ:
        return None
    path = os.environ[PASSWORD_FILE]
    warn_if_others_read(Path(path))
    try:
        # Editors and `echo` end a file with a newline that belongs to no password.
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(
            f"cannot read {PASSWORD_FILE} {path!r} ({reason}): name the password's file"
        ) from error
