"""A pooler on loopback that gives every transaction another session of the server.

It does what PgBouncer does in transaction mode, and always the worst that it may: sessions are
handed out in turn, so two transactions of one client are never in the same. It speaks as much of
PostgreSQL's protocol as a client needs that asks and waits for the answer.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

SESSIONS = 3
_SSL, _GSS = 80877103, 80877104


@dataclass
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes = b""


@dataclass
class _Pool:
    free: asyncio.Queue[_Session] = field(default_factory=asyncio.Queue)
    all: list[_Session] = field(default_factory=list)


class TransactionProxy:
    """Forwards to ``port``.

    Attributes:
        transactions: how many were handed out.
    """

    def __init__(self, port: int) -> None:
        self.target, self.port, self.transactions = port, 0, 0
        self._pools: dict[bytes, _Pool] = {}
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Stop forwarding."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def drop_sessions(self) -> None:
        """Break every session, as a server that restarts does."""
        done = threading.Event()

        def drop() -> None:
            for pool in self._pools.values():
                for session in pool.all:
                    session.writer.close()
            self._pools.clear()
            done.set()

        self._loop.call_soon_threadsafe(drop)
        done.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for pool in self._pools.values():
            for session in pool.all:
                session.writer.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await _plain(reader)
        while int.from_bytes(startup[4:8]) in (_SSL, _GSS):
            writer.write(b"N")
            startup = await _plain(reader)
        pool = self._pools.get(startup)
        if pool is None:
            pool = self._pools[startup] = _Pool()
            for _ in range(SESSIONS):
                session = await self._open(startup)
                pool.all.append(session)
                pool.free.put_nowait(session)
        writer.write((await self._whole_pool(pool)).greeting)
        session = None
        try:
            while True:
                kind, message = await _typed(reader)
                if kind == b"X":
                    return
                if session is None:
                    session = await pool.free.get()
                    self.transactions += 1
                session.writer.write(message)
                if kind not in (b"Q", b"S"):
                    continue
                status = b""
                while status == b"":
                    answer, part = await _typed(session.reader)
                    writer.write(part)
                    if answer == b"Z":
                        status = part[5:6]
                await writer.drain()
                if status == b"I":
                    pool.free.put_nowait(session)
                    session = None
        finally:
            if session is not None:
                session.writer.write(_query("rollback"))
                while (await _typed(session.reader))[0] != b"Z":
                    pass
                pool.free.put_nowait(session)

    @staticmethod
    async def _whole_pool(pool: _Pool) -> _Session:
        while not pool.all:
            await asyncio.sleep(0.01)
        return pool.all[0]

    async def _open(self, startup: bytes) -> _Session:
        session = _Session(*await asyncio.open_connection("127.0.0.1", self.target))
        session.writer.write(startup)
        while True:
            kind, message = await _typed(session.reader)
            session.greeting += message
            if kind == b"Z":
                return session


def _query(text: str) -> bytes:
    body = text.encode() + b"\0"
    return b"Q" + (len(body) + 4).to_bytes(4) + body


async def _plain(reader: asyncio.StreamReader) -> bytes:
    """A message without a kind: the first of a connection."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length) - 4)


async def _typed(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The kind of a message, and all of it."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
