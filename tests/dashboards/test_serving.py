"""Connections that never finish a request do not keep others out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

import pytest

from dashboards import serving


def application(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(serving, "REQUEST_S", 1)
    monkeypatch.setattr(serving, "CHECK_S", 0.2)
    server = serving.create_server(application, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield int(server.effective_port)
    server.close()


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_half_open_connections_silence_nobody_and_are_closed(port: int) -> None:
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
    for connection in opened:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        connection.setblocking(False)
    with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        assert answer.read() == b"served"
    deadline = time.monotonic() + 20
    while not all(map(is_closed, opened)):
        assert time.monotonic() < deadline
        for connection in opened:  # a byte now and then is no sign of life
            with suppress(OSError):
                connection.send(b"x")
        time.sleep(0.1)
    for connection in opened:
        connection.close()
