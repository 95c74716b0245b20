"""Who works on a store: workers register, say that they live, and keep their leases."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import psutil
from optuna.trial import TrialState
from sqlalchemy import Connection, and_, delete, insert, select, update

from search.errors import BadInput, ExitbitsError
from studies.records import Lease
from studies.store.claims import Claims
from studies.store.database import Database
from studies.store.schema import now_seconds, studies, trials, workers

log = logging.getLogger(__name__)

RUNNING = TrialState.RUNNING.value


@dataclass(frozen=True)
class WorkerState:
    """A worker as ``status`` shows it.

    Attributes:
        name, host, pid: who.
        started: since when it runs.
        alive: whether it has been heard of lately, by the database's clock.
        study, trial: what it works on, or None.
        since: when it took that trial.
    """

    name: str
    host: str
    pid: int
    started: datetime
    alive: bool
    study: str | None
    trial: int | None
    since: datetime | None


def default_worker_name() -> str:
    """Host, process and a random part: no two workers share it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"


def list_workers(database: Database) -> Sequence[WorkerState]:
    """Every registered worker, the living first."""
    alive = workers.c.alive_until > now_seconds()
    holds = and_(
        trials.c.worker == workers.c.name,
        trials.c.state == RUNNING,
        trials.c.lease_until > now_seconds(),
    )
    statement = (
        select(
            workers.c.name, workers.c.host, workers.c.pid, workers.c.started,
            alive.label("alive"), studies.c.name.label("study"), trials.c.number.label("trial"),
            trials.c.started.label("since"),
        )
        .select_from(workers.outerjoin(trials, holds).outerjoin(studies))
        .order_by(alive.desc(), workers.c.name)
    )  # fmt: skip
    with database.read() as connection:
        rows = connection.execute(statement).all()
    return [WorkerState(**{**row._mapping, "alive": bool(row.alive)}) for row in rows]


def release_dead(database: Database) -> int:
    """Free the leases of this host's workers whose process is gone, and sign them off.

    Of other hosts nothing can be known; their leases run out by themselves.

    Returns:
        how many trials were freed.
    """

    def step(connection: Connection) -> int:
        here = connection.execute(
            select(workers.c.name, workers.c.pid, workers.c.started).where(
                workers.c.host == socket.gethostname()
            )
        ).all()
        return _release(connection, [row.name for row in here if not _runs(row.pid, row.started)])

    return database.write(step)


def release_workers(database: Database, names: Sequence[str]) -> int:
    """Free the leases of workers that are known to be lost, and sign them off.

    One that lives after all, cut off from whoever said so, finds its trial another's: its result
    is refused, and it signs on no more.

    Returns:
        how many trials were freed.
    """
    if not names:
        return 0
    return database.write(lambda connection: _release(connection, names))


def _release(connection: Connection, names: Sequence[str]) -> int:
    connection.execute(delete(workers).where(workers.c.name.in_(names)))
    return connection.execute(
        update(trials)
        .where(trials.c.worker.in_(names), trials.c.state == RUNNING)
        .values(lease_until=now_seconds() - 1)
    ).rowcount


def _runs(pid: int, registered: datetime) -> bool:
    """Whether process ``pid`` runs and is as old as the registration, not a later one's number."""
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.create_time() <= registered.timestamp() + 1
        )
    except psutil.NoSuchProcess:
        return False


class Registration:
    """One worker's entry, kept alive together with its lease by a thread of its own.

    The thread outlives everything: a database that is away is asked again at the next beat.

    Args:
        claims: of the store.
        name: no living worker may have it.

    Raises:
        BadInput: when a living worker has the name.
    """

    def __init__(self, claims: Claims, name: str) -> None:
        self.claims, self.name = claims, name
        self._session = uuid4().hex
        self._lease: Lease | None = None
        self._ended = threading.Event()
        claims.database.write(self._enter)
        self._thread = threading.Thread(target=self._beat, name="lease-keeper", daemon=True)
        self._thread.start()

    def _enter(self, connection: Connection) -> None:
        held = connection.execute(
            select(workers.c.host, workers.c.pid, workers.c.session).where(
                workers.c.name == self.name, workers.c.alive_until > now_seconds()
            )
        ).one_or_none()
        if held is not None and held.session != self._session:
            raise BadInput(
                f"worker name {self.name!r} is in use (process {held.pid} on {held.host}): "
                "choose another --name, or wait until that one is gone"
            )
        connection.execute(delete(workers).where(workers.c.name == self.name))
        connection.execute(
            insert(workers).values(
                name=self.name,
                session=self._session,
                host=socket.gethostname(),
                pid=os.getpid(),
                started=datetime.now(UTC),
                alive_until=now_seconds() + self.claims.lease_s,
            )
        )

    def hold(self, lease: Lease | None) -> None:
        """Keep this lease from now on, or none."""
        self._lease = lease

    def close(self) -> None:
        """Stop the thread and take the entry away, if the database can be reached."""
        self._ended.set()
        self._thread.join()
        try:
            self.claims.database.write(self._leave, patience_s=1)
        except ExitbitsError as error:
            log.warning("worker %s could not sign off: %s", self.name, error)

    def _leave(self, connection: Connection) -> None:
        connection.execute(
            delete(workers).where(workers.c.name == self.name, workers.c.session == self._session)
        )

    def _beat(self) -> None:
        # Three beats a lease: one may be lost without harm.
        while not self._ended.wait(self.claims.lease_s / 3):
            try:
                self.claims.database.write(self._stay, patience_s=1)
                lease = self._lease
                if lease is not None and not self.claims.renew(lease) and lease is self._lease:
                    log.warning("trial %s: the lease ran out and is another's now", lease.number)
            except ExitbitsError as error:
                log.warning("worker %s: %s", self.name, error)
            except Exception:
                # Whatever it is, a thread that dies here would cost every later lease.
                log.exception("worker %s: unexpected error while renewing", self.name)

    def _stay(self, connection: Connection) -> None:
        connection.execute(
            update(workers)
            .where(workers.c.name == self.name, workers.c.session == self._session)
            .values(alive_until=now_seconds() + self.claims.lease_s)
        )
