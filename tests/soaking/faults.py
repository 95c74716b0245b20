"""What a soak does to a service: every fault begins, lasts for a while, and is taken back.

A fault is a generator. It begins with its first step, yields how many seconds may pass before the
next one, and has healed what it did when it ends.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from soaking.databases import FULL_DISK, PostgresStore, SqliteStore
from soaking.service import Service

HOUR_S, DAY_S = 3600.0, 86400.0

# What a worker's own copy of ``faulty.py`` is told.
BREAKDOWNS = (
    "run RuntimeError the accelerator is lost",
    "run OSError it is on fire",
    "open ImportError no module named sharp",
    "read ValueError not a PNG",
    "reference MemoryError no room",
    "bits RuntimeError 2 bits break it",
)


class NotNow(Exception):
    """There is nothing at hand to which this could be done."""


@dataclass(frozen=True)
class Scene:
    """What faults are done to."""

    service: Service
    store: SqliteStore | PostgresStore
    rng: random.Random

    def worker(self) -> str:
        """Any worker that runs."""
        living = self.service.living()
        if not living:
            raise NotNow
        return self.rng.choice(living)


Fault = Callable[[Scene], Iterator[float]]


def killed(scene: Scene) -> Iterator[float]:
    """A worker is gone from one moment to the next; another comes for it."""
    scene.service.kill(scene.worker())
    yield 0.0


def frozen(scene: Scene) -> Iterator[float]:
    """A worker stands still for longer than its lease, and goes on as if nothing had been."""
    service, name = scene.service, scene.worker()
    service.frozen.add(name)
    service.send(name, signal.SIGSTOP)
    yield service.lease_s * scene.rng.uniform(1.2, 2.5)
    service.send(name, signal.SIGCONT)
    service.frozen.discard(name)


def broken(scene: Scene) -> Iterator[float]:
    """A worker fails whatever it is asked for; then it is mended, and replaced or left as it is."""
    service, name = scene.service, scene.worker()
    service.break_worker(name, scene.rng.choice(BREAKDOWNS))
    yield scene.rng.uniform(1.0, 8.0)
    service.break_worker(name, None)
    if scene.rng.random() < 0.7:  # it may have given studies up, and would not take them again
        service.kill(name)


def dropped(scene: Scene) -> Iterator[float]:
    """The server ends one session, or all."""
    some = scene.rng.choice(["order by random() limit 1", ""])
    gone = scene.store.ask(
        "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where "
        f"application_name = 'exitbits' and datname = current_database() {some}) as sessions"
    )
    if not gone:
        raise NotNow
    yield 0.0


def dropped_by_pooler(scene: Scene) -> Iterator[float]:
    """The pooler breaks every session at once."""
    assert isinstance(scene.store, PostgresStore)
    assert scene.store.proxy is not None
    scene.store.proxy.drop_sessions()
    yield 0.0


def restarted(scene: Scene) -> Iterator[float]:
    """The server crashes and comes back, at times later than a statement is repeated."""
    store = scene.store
    assert isinstance(store, PostgresStore)
    assert store.server is not None
    if store.down:
        raise NotNow
    store.down = True
    store.server.kill()
    yield scene.rng.choice([0.0, 3.0, 14.0])
    store.server.start()
    store.down = False


def full_disk(scene: Scene) -> Iterator[float]:
    """The store's disk has no room left for a while."""
    assert isinstance(scene.store, SqliteStore)
    if scene.store.down:
        raise NotNow
    scene.store.down = True
    filler = scene.store.fill()
    yield scene.rng.uniform(2.0, 10.0)
    filler.unlink()
    scene.store.down = False


def stepped_clock(scene: Scene) -> Iterator[float]:
    """The database's clock is set, forward or back: every lease seems to end so much sooner or
    later.
    """
    lease_s = scene.service.lease_s
    step = scene.rng.choice([-1, 1]) * scene.rng.choice([lease_s / 2, lease_s, HOUR_S, DAY_S])
    scene.store.ask(
        f"update trials set lease_until = lease_until + {step} where lease_until is not null"
    )
    scene.store.ask(f"update workers set alive_until = alive_until + {step}")
    yield 0.0


def damaged(kind: str) -> Fault:
    """Files of one kind in the cache are damaged, and a fresh worker meets them."""

    def damage(scene: Scene) -> Iterator[float]:
        found = list((scene.service.cache / kind).rglob("*.*"))
        for folder in found:
            if folder.is_dir():  # of an earlier time: nothing could be kept there since
                folder.rmdir()
        whole = [file for file in found if file.is_file()]
        if not whole:
            raise NotNow
        for file in scene.rng.sample(whole, (len(whole) + 1) // 2):
            spoil(file, scene.rng)
        scene.service.kill(scene.worker())
        yield 0.0

    return damage


def spoil(file: Path, rng: random.Random) -> None:
    """Change one byte of a file in place, cut it off, empty it, or put a folder in its place."""
    how = rng.choice(["byte", "cut", "empty", "folder"])
    try:
        content = bytearray(file.read_bytes())
        if how == "folder" or not content:
            file.unlink()
            file.mkdir()
        elif how == "byte":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            with file.open("r+b") as changed:
                changed.write(content)
        else:
            with file.open("r+b") as changed:
                changed.truncate(rng.randrange(len(content)) if how == "cut" else 0)
    except (FileNotFoundError, FileExistsError):
        pass  # a worker was just replacing it


FAULTS: Mapping[str, Fault] = {
    "killed": killed,
    "frozen": frozen,
    "broken worker": broken,
    "dropped sessions": dropped,
    "dropped by the pooler": dropped_by_pooler,
    "restarted database": restarted,
    FULL_DISK: full_disk,
    "clock step (leases moved)": stepped_clock,
    "damaged kernels": damaged("kernels"),
    "damaged traces": damaged("traces"),
    "damaged calibrations": damaged("calibrations"),
}
# Under which evaluations are recorded and recomputed by the thousand: mostly kills.
STRESS = ("killed", "killed", "killed", "frozen", "damaged kernels", "damaged traces")
