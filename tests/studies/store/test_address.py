"""Passwords of addresses: never shown, never an argument's, and told to the store alone."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import command_env, command_line

from search.errors import BadInput
from studies.store.address import connectable, parse_url, refuse_password, shown

Run = Callable[..., subprocess.CompletedProcess[str]]

HIDDEN = "hidden-8271"


class Eavesdropper:
    """Answers in a PostgreSQL server's place, asks for the password and keeps what it is told."""

    def __init__(self) -> None:
        self.told = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(5)
                try:
                    self._ask(peer)
                except OSError:
                    continue

    def _ask(self, peer: socket.socket) -> None:
        while True:
            size = struct.unpack("!i", peer.recv(4))[0]
            kind = peer.recv(size - 4)
            if kind[:4] not in (struct.pack("!i", 80877103), struct.pack("!i", 80877104)):
                break
            peer.sendall(b"N")  # neither TLS nor GSS
        peer.sendall(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
        self.told += peer.recv(1000)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def eavesdropper() -> Iterator[Eavesdropper]:
    server = Eavesdropper()
    yield server
    server.close()


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(arguments), cwd=folder, env={**command_env(), **more}, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://me@127.0.0.1:1/d?password={HIDDEN}",
        f"postgresql://me@127.0.0.1:1/d?pass%77ord={HIDDEN}",
        f"postgresql://me:{HIDDEN}@127.0.0.1:1/d",
        f"postgresql://me@127.0.0.1:1/d?sslpassword={HIDDEN}",
        f"mysql://me@127.0.0.1:1/d?password={HIDDEN}",
        f"sqlite:///no/such.db?password={HIDDEN}",
        f"nothing?password={HIDDEN}",
    ],
)
def test_a_password_is_refused_in_arguments_and_hidden_elsewhere(
    tmp_path: Path, address: str
) -> None:
    done = run(tmp_path, "status", "--store", address)
    assert done.returncode == 2
    assert "process list" in done.stderr
    assert HIDDEN not in done.stdout + done.stderr
    with pytest.raises(BadInput, match="process list"):
        refuse_password(address)
    assert HIDDEN not in shown(address)
    done = run(tmp_path, "status", EXITBITS_STORE=address)
    assert done.returncode in (1, 2)
    assert HIDDEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_of_the_query_is_still_the_password() -> None:
    url = parse_url(f"postgresql://me@host/d?password={HIDDEN}&sslmode=require")
    assert url.password == HIDDEN
    assert dict(url.query) == {"sslmode": "require"}


def test_the_stores_password_is_told_to_its_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = "postgresql://me@host/exitbits"
    monkeypatch.setenv("EXITBITS_DB_PASSWORD", HIDDEN)
    assert parse_url(store).password == HIDDEN
    for other in (
        "postgresql://me@other/exitbits",
        "postgresql://me@host:5433/exitbits",
        "postgresql://you@host/exitbits",
        "postgresql://me@host/exitbits?host=other",
    ):
        assert parse_url(other, store=store).password is None
        assert parse_url(other, store="sqlite:///mine.db").password is None
    assert parse_url("postgresql://me@host/optuna", store=store).password == HIDDEN
    assert parse_url("postgresql://me:own@other/d", store=store).password == "own"


@pytest.mark.parametrize("extra", ["", "?require_auth=password"])
def test_import_sends_no_password_of_the_store(
    tmp_path: Path, eavesdropper: Eavesdropper, extra: str
) -> None:
    theirs = f"postgresql://me@127.0.0.1:{eavesdropper.port}/studies{extra}"
    done = run(tmp_path, "study", "import", "theirs", theirs, EXITBITS_DB_PASSWORD=HIDDEN)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert HIDDEN.encode() not in eavesdropper.told


def test_no_server_is_handed_the_password_unless_the_address_says_so(
    tmp_path: Path, eavesdropper: Eavesdropper
) -> None:
    address = f"postgresql://me@127.0.0.1:{eavesdropper.port}/studies"
    done = run(tmp_path, "status", "--store", address, EXITBITS_DB_PASSWORD=HIDDEN)
    assert done.returncode in (1, 2)
    assert HIDDEN not in done.stderr
    assert eavesdropper.told.strip(b"\0") == b""
    # What the test's server hears when it may ask: else nothing above says anything.
    address += "?require_auth=password"
    run(tmp_path, "status", "--store", address, EXITBITS_DB_PASSWORD=HIDDEN)
    assert HIDDEN.encode() in eavesdropper.told


def test_a_server_that_proves_who_it_is_may_ask() -> None:
    plain = parse_url("postgresql://me@host/d")
    assert connectable(plain).query["require_auth"] == "!password"
    for said in ("sslmode=verify-full", "require_auth=password,none"):
        url = parse_url(f"postgresql://me@host/d?{said}")
        assert connectable(url) == url
