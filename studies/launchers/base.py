"""What every launcher does, and what launchers share.

A launcher starts worker processes somewhere and watches over them. It knows nothing of trials: the
store is the only truth about what was done, and a worker that is lost costs no more than time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from search import cores
from search.caching import default_cache_folder
from studies.store.address import STORE

MAX_RESTARTS = 5


@dataclass(frozen=True)
class WorkerOrder:
    """The workers that a launch wants.

    Attributes:
        store: address of the store, which may hold a password: workers are given it in their
            environment, never as an argument.
        study: name of the study that they serve until its budget is spent.
        cache: folder of traces and calibrations, None for the default where the worker runs.
        log: file on this machine that collects what workers print.
        count: how many, None for as many as there are cores for.
        threads: cores that each computes with, None for its share of them.
    """

    store: str
    study: str
    cache: Path | None
    log: Path
    count: int | None = None
    threads: int | None = None

    def arguments(self, name: str, index: int, threads: int) -> list[str]:
        """The command line of one worker, after the interpreter.

        Args:
            name: of the worker.
            index: of its place among the workers; names the sampler's random stream, so that a
                worker put in the place of another goes on with its stream.
            threads: cores to compute with.
        """
        return [
            # -P: modules that lie in the working folder are not ours. A name may begin with a dash,
            # so it is one word with its option.
            "-P", "-m", "studies.cli", "worker", f"--study={self.study}", f"--name={name}",
            "--until-done", "--stream", str(index), "--threads", str(threads),
            *(() if self.cache is None else ("--cache", str(self.cache))),
        ]  # fmt: skip

    def environment(self, threads: int) -> dict[str, str]:
        """What a worker's environment holds beside what it inherits."""
        return {STORE: self.store, **cores.environment(threads)}


@dataclass(frozen=True)
class Watched:
    """How the workers of a launch are.

    Attributes:
        alive: how many run, or wait for a place to run.
        lost: names of those that came to a bad end since the last time: a trial that they held
            can go to another.
    """

    alive: int
    lost: tuple[str, ...] = ()


class Launcher(Protocol):
    """Starts the workers of one launch and watches over them.

    Made with the :class:`WorkerOrder` and an address (None for the default). No method waits for
    a worker's trial; whoever launches asks :meth:`poll` again and again.

    Attributes:
        has_addresses: whether ``--on NAME://ADDRESS`` means something.
    """

    has_addresses: ClassVar[bool]

    def start(self) -> None:
        """Start every worker."""
        ...

    def poll(self) -> Watched:
        """Look after the workers: one that is lost is put in place again, up to a limit.

        One that ended with an error is not, since another would meet the same one.
        """
        ...

    def stop(self) -> None:
        """Ask every worker to finish the trial in hand and end; none is put in place again."""
        ...

    def close(self) -> tuple[str, ...]:
        """End at once what still runs, and let go of everything.

        Returns:
            names of the workers that were ended; their trials in hand are lost and go to others.
        """
        ...

    def last_words(self) -> str:
        """Why the workers ended, in one line."""
        ...


def shared_folder(cache: Path) -> Path | None:
    """A cache folder as workers are told it: None for the default, another where they may run."""
    is_default = cache == default_cache_folder() and cache.is_absolute()
    return None if is_default else cache.absolute()


def new_worker_name(index: int) -> str:
    """A name for a worker of this launch that no other has, not even one in its place before."""
    from studies.store.workers import default_worker_name  # nodes that only start workers need none

    return f"{default_worker_name()}-{index}"


class WorkerLog:
    """What the workers of this launch print, all in one file that earlier launches began.

    Args:
        path: of the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = path.stat().st_size if path.exists() else 0

    def add(self, printed: bytes) -> None:
        """Append what a worker has printed elsewhere."""
        with self.path.open("ab") as file:
            file.write(printed)

    def last_line(self) -> str:
        """The last line of this launch's workers, as an error is shown."""
        if not self.path.exists():
            return "they printed nothing"
        with self.path.open("rb") as file:
            file.seek(self._start)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("exitbits: ") if lines else "they printed nothing"
