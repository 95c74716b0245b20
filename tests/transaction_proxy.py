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
_SYNC = b"S\0\0\0\4"


@dataclass
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes = b""


@dataclass
class _Pool:
    startup: bytes
    free: asyncio.Queue[_Session | None] = field(default_factory=asyncio.Queue)  # None: to be made
    open: list[_Session] = field(default_factory=list)
    greeting: bytes = b""


class TransactionProxy:
    """Forwards to ``port`` of ``host``, whose server asks for no password.

    Attributes:
        transactions: how many were handed out.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target, self.port, self.transactions = (host, port), 0, 0
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
                for session in pool.open:
                    session.writer.close()
                pool.open.clear()
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
            for session in pool.open:
                session.writer.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
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
            pool = self._pools[startup] = _Pool(startup)
            for _ in range(SESSIONS):
                pool.free.put_nowait(None)
        if not pool.greeting:
            pool.free.put_nowait(await self._take(pool))
        writer.write(pool.greeting)
        session = None
        try:
            while True:
                kind, message = await _typed(reader)
                if kind == b"X":
                    return
                if session is None:
                    session = await self._take(pool)
                    self.transactions += 1
                session.writer.write(message)
                if kind not in (b"Q", b"S"):
                    continue
                status = b""
                while status == b"":
                    answer, part = await _typed(session.reader)
                    if not writer.is_closing():
                        writer.write(part)
                    if answer == b"Z":
                        status = part[5:6]
                await writer.drain()
                if status == b"I":
                    pool.free.put_nowait(session)
                    session = None
        finally:
            if session is not None:
                await self._roll_back(pool, session)

    async def _take(self, pool: _Pool) -> _Session:
        """The next session of a pool, made anew where it was lost."""
        session = await pool.free.get()
        if session is not None and session in pool.open:
            return session
        try:
            session = _Session(*await asyncio.open_connection(*self.target))
            session.writer.write(pool.startup)
            kind = b""
            while kind != b"Z":
                kind, message = await _typed(session.reader)
                session.greeting += message
        except (OSError, asyncio.IncompleteReadError):
            pool.free.put_nowait(None)
            raise
        pool.open.append(session)
        pool.greeting = session.greeting
        return session

    async def _roll_back(self, pool: _Pool, session: _Session) -> None:
        """Take a session from a client that is gone; one that is lost leaves its place empty."""
        try:
            session.writer.write(_SYNC + _query("rollback"))
            for _ in range(2):
                while (await _typed(session.reader))[0] != b"Z":
                    pass
        except (OSError, asyncio.IncompleteReadError):
            session.writer.close()
            if session in pool.open:
                pool.open.remove(session)
        pool.free.put_nowait(session)


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
