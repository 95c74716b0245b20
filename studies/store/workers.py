"""Who works on a store: workers register, say that they live, and keep their leases."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from optuna.trial import TrialState
from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from search.errors import BadInput, ExitbitsError
from studies.records import Lease
from studies.store.claims import Claims
from studies.store.database import Database, StoreUnavailable
from studies.store.identity import machine, own_start, runs
from studies.store.outage import Outage
from studies.store.refusals import refusals_by_worker
from studies.store.schema import lasts, now_seconds, refusals, studies, trials, workers

log = logging.getLogger(__name__)

RUNNING = TrialState.RUNNING.value
GONE_S = 600.0  # long enough for a person to see who was lost

# Not heard of for that long; or for ever, by a clock that was set back.
_LONG_GONE = or_(
    workers.c.alive_until < now_seconds() - GONE_S, workers.c.alive_until > now_seconds() + GONE_S
)


@dataclass(frozen=True)
class WorkerState:
    """A worker as ``status`` shows it.

    Attributes:
        name, host, pid: who.
        started: since when it runs.
        alive: whether it has been heard of lately, by the database's clock.
        study, trial: what it works on, or None.
        since: when it took that trial.
        refuses: studies that it has given up, by name, and why.
    """

    name: str
    host: str
    pid: int
    started: datetime
    alive: bool
    study: str | None
    trial: int | None
    since: datetime | None
    refuses: Mapping[str, str]


def default_worker_name() -> str:
    """Host, process and a random part: no two workers share it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"


def list_workers(database: Database) -> Sequence[WorkerState]:
    """Every registered worker, the living first; not those that are long gone."""
    alive = lasts(workers.c.alive_until, workers.c.lease_s)
    holds = and_(
        trials.c.worker == workers.c.name,
        trials.c.state == RUNNING,
        lasts(trials.c.lease_until, trials.c.lease_s),
    )
    statement = (
        select(
            workers.c.name, workers.c.host, workers.c.pid, workers.c.started,
            alive.label("alive"), studies.c.name.label("study"), trials.c.number.label("trial"),
            trials.c.started.label("since"),
        )
        .select_from(workers.outerjoin(trials, holds).outerjoin(studies))
        .where(~_LONG_GONE)
        .order_by(alive.desc(), workers.c.name)
    )  # fmt: skip
    with database.read() as connection:
        rows = connection.execute(statement).all()
    refused = refusals_by_worker(database)
    return [
        WorkerState(**{**row._mapping, "alive": bool(row.alive)}, refuses=refused.get(row.name, {}))
        for row in rows
    ]


def release_dead(database: Database) -> int:
    """Free the leases of this machine's workers whose process is gone, and sign them off.

    Of other machines, and of other containers on this one, nothing can be known; their leases run
    out by themselves.

    Returns:
        how many trials were freed.
    """

    def step(connection: Connection) -> int:
        here = connection.execute(
            select(workers.c.name, workers.c.pid, workers.c.ticks).where(
                workers.c.machine == machine()
            )
        ).all()
        connection.execute(delete(workers).where(_LONG_GONE))
        return _release(connection, [row.name for row in here if not runs(row.pid, row.ticks)])

    return database.write(step)


def release_workers(database: Database, names: Sequence[str]) -> int:
    """Free the leases of workers that are known to be lost, and sign them off.

    One that lives after all, cut off from whoever said so, finds its trial another's: its result
    is refused, and it signs on again.

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


class Registration:
    """One worker's entry, kept alive together with its lease by a thread of its own.

    A database that is away is waited for. The thread outlives everything: it asks again at the
    next beat.

    Args:
        claims: of the store.
        name: no living worker may have it.
        serves: name of the only study that it serves, None for all.

    Raises:
        BadInput: when a living worker has the name.
    """

    def __init__(self, claims: Claims, name: str, serves: str | None = None) -> None:
        self.claims, self.name, self.serves = claims, name, serves
        self._session = uuid4().hex
        self._lease: Lease | None = None
        self._ended = threading.Event()
        Outage(log.warning).wait_out(lambda: claims.database.write(self._sign_on))
        self._thread = threading.Thread(target=self._beat, name="lease-keeper", daemon=True)
        self._thread.start()

    def _sign_on(self, connection: Connection) -> None:
        self._enter(connection)
        # Whoever had the name may have given up what this one can do.
        connection.execute(delete(refusals).where(refusals.c.worker == self.name))

    def _enter(self, connection: Connection) -> None:
        held = connection.execute(
            select(workers.c.host, workers.c.pid, workers.c.session).where(
                workers.c.name == self.name, lasts(workers.c.alive_until, workers.c.lease_s)
            )
        ).one_or_none()
        if held is not None and held.session != self._session:
            raise BadInput(
                f"worker name {self.name!r} is in use (process {held.pid} on {held.host}): "
                "choose another --name, or wait until that one is gone"
            )
        connection.execute(delete(workers).where(or_(workers.c.name == self.name, _LONG_GONE)))
        connection.execute(
            insert(workers).values(
                name=self.name,
                session=self._session,
                host=socket.gethostname(),
                pid=os.getpid(),
                machine=machine(),
                ticks=own_start(),
                serves=self.serves,
                started=datetime.now(UTC),
                alive_until=now_seconds() + self.claims.lease_s,
                lease_s=self.claims.lease_s,
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
        outage = Outage(log.warning)
        while not self._ended.wait(self.claims.lease_s / 3):
            try:
                self.claims.database.write(self._stay, patience_s=1)
                lease = self._lease
                if lease is not None and not self.claims.renew(lease) and lease is self._lease:
                    log.warning("trial %s: the lease ran out and is another's now", lease.number)
                outage.over()
            except StoreUnavailable as error:
                outage.note(f"{error}; the lease is renewed when it can be")
            except ExitbitsError as error:
                log.warning("worker %s: %s", self.name, error)
            except Exception:
                # Whatever it is, a thread that dies here would cost every later lease.
                log.exception("worker %s: unexpected error while renewing", self.name)

    def _stay(self, connection: Connection) -> None:
        stays = connection.execute(
            update(workers)
            .where(workers.c.name == self.name, workers.c.session == self._session)
            .values(alive_until=now_seconds() + self.claims.lease_s, lease_s=self.claims.lease_s)
        )
        if not stays.rowcount:
            self._enter(connection)  # it was taken for lost, frozen or cut off for long
