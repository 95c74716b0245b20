"""Worker processes on the nodes of a Ray cluster. Needs the extra ``exitbits[ray]``.

Ray decides where a worker runs and says when it is lost; what was done is in the store alone. Each
worker is ``exitbits worker`` as a process of its node, beside an actor that starts it, passes on
its signals and its output, and dies with the node.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from search.errors import BadInput, ExitbitsError
from studies.launchers.base import (
    MAX_RESTARTS,
    Watched,
    WorkerLog,
    WorkerOrder,
    new_worker_name,
)
from studies.store.address import parse_url

KILL_S = 5.0
MAX_PRINTED = 65_536

Answer = tuple[int | None, bytes]
"""A worker's exit code, None while more is to come, and what it has printed since the last."""


class WorkerActor:
    """One worker as a process of the node that Ray chose. Lives there, so it needs no Ray."""

    def start(self, arguments: list[str], environment: dict[str, str]) -> Answer:
        """Start the worker with this node's interpreter."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the actor
        self._read = 0
        self._process = subprocess.Popen(
            # The worker ends when this actor is gone.
            [sys.executable, *arguments, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **environment},
            process_group=0,
        )
        return self.poll()

    def poll(self) -> Answer:
        """How it is."""
        code = self._process.poll()
        # By position: the process writes at the file's own, which it shares.
        printed = os.pread(self._output.fileno(), MAX_PRINTED, self._read)
        self._read += len(printed)
        return (code if len(printed) < MAX_PRINTED else None), printed

    def signal(self, number: int) -> None:
        """Pass a signal on, unless the worker has ended."""
        self._process.send_signal(number)


@dataclass(frozen=True)
class _Placed:
    """A worker that Ray has placed or will place.

    Attributes:
        name: of the worker.
        actor: Ray's handle.
        answer: Ray's reference to the answer that is waited for.
        is_placed: whether there was an answer yet.
    """

    name: str
    actor: Any
    answer: Any
    is_placed: bool = False


class RayLauncher:
    """The workers of one launch on a Ray cluster, a :class:`~studies.launchers.base.Launcher`.

    A worker that is killed, or lost with its node, is placed again, up to :data:`MAX_RESTARTS`
    times each; where no node has room for it, it waits.

    Args:
        order: the workers wanted; without a count, one for each of the cluster's cores.
        address: ``ray://HOST:PORT``; None for the cluster of this machine (or ``RAY_ADDRESS``),
            which is started where there is none.

    Raises:
        BadInput: when Ray is not installed, the cluster cannot be reached or has fewer cores than
            there are workers, or the store is a file and the cluster is more than this machine.
    """

    has_addresses: ClassVar[bool] = True

    def __init__(self, order: WorkerOrder, address: str | None = None) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise BadInput(
                "launcher 'ray' needs Ray, which is not installed: pip install 'exitbits[ray]'"
            ) from error
        self._ray = ray
        self._is_connected_here = _connect(ray, address)
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._order = replace(order, store=_shared_address(order.store, nodes))
            cores = [int(node["Resources"].get("CPU", 0)) for node in nodes]
            self._count, self._threads = placing(cores, order.count, order.threads)
        except BaseException:
            self._disconnect()
            raise
        self._log = WorkerLog(order.log)
        self._placed: dict[int, _Placed] = {}
        self._restarts: Counter[int] = Counter()
        self._stopping = False

    def start(self) -> None:
        """Have every worker placed."""
        for index in range(self._count):
            self._place(index)

    def _place(self, index: int) -> None:
        name = new_worker_name(index)
        actor = (
            self._ray.remote(WorkerActor)
            .options(num_cpus=self._threads, scheduling_strategy="SPREAD", max_restarts=0)
            .remote()
        )
        # The environment may hold a password. A runtime environment would be shown by Ray's
        # dashboard and logs, and an actor's own arguments kept by its control store; those of a
        # method go to the actor alone.
        answer = actor.start.remote(
            self._order.arguments(name, index, self._threads),
            self._order.environment(self._threads),
        )
        self._placed[index] = _Placed(name, actor, answer)

    def poll(self) -> Watched:
        """Take in what the workers' actors have answered, and place again what is lost.

        Raises:
            ExitbitsError: when the connection to the cluster is lost.
        """
        waited = {placed.answer: index for index, placed in self._placed.items()}
        if not waited:
            return Watched(0)
        try:
            ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
            names = [self._take_in(waited[answer]) for answer in ready]
        except ConnectionError as error:
            raise ExitbitsError(
                "the connection to the Ray cluster is lost: the same command goes on"
            ) from error
        return Watched(len(self._placed), tuple(name for name in names if name is not None))

    def _take_in(self, index: int) -> str | None:
        """Take in one answer; returns the worker's name if it came to a bad end."""
        placed = self._placed[index]
        errors = self._ray.exceptions
        try:
            code, printed = self._ray.get(placed.answer)
        except errors.ActorUnavailableError:
            code, printed = None, b""  # it may be back
        except errors.RayTaskError as error:
            reason = str(error).strip().splitlines()[-1]
            words = f"worker {placed.name} cannot be started on its node: {reason}\n"
            code, printed = 1, words.encode()
        except errors.RayError:
            code, printed = -signal.SIGKILL, f"worker {placed.name} is lost\n".encode()
        self._log.add(printed)
        if code is None:
            answer = placed.actor.poll.remote()
            self._placed[index] = replace(placed, answer=answer, is_placed=True)
            return None
        self._ray.kill(placed.actor)
        del self._placed[index]
        if code < 0 and not self._stopping and self._restarts[index] < MAX_RESTARTS:
            self._restarts[index] += 1
            self._place(index)
        return placed.name if code != 0 else None

    def stop(self) -> None:
        """Ask every worker to finish the trial in hand and end."""
        self._stopping = True
        for index, placed in list(self._placed.items()):
            if placed.is_placed:
                placed.actor.signal.remote(signal.SIGTERM)
            else:
                self._ray.kill(placed.actor)
                del self._placed[index]

    def close(self) -> tuple[str, ...]:
        """End at once what still runs, and leave the cluster."""
        ended = tuple(self._placed.values())
        self._placed.clear()
        placed_ones = [placed.actor for placed in ended if placed.is_placed]
        if killed := [actor.signal.remote(signal.SIGKILL) for actor in placed_ones]:
            self._ray.wait(killed, num_returns=len(killed), timeout=KILL_S)
        for placed in ended:
            self._ray.kill(placed.actor)
        self._disconnect()
        return tuple(placed.name for placed in ended)

    def _disconnect(self) -> None:
        if self._is_connected_here:
            self._ray.shutdown()
            self._is_connected_here = False

    def last_words(self) -> str:
        """Why the workers of this launch ended, in one line."""
        worst = max(self._restarts.values(), default=0)
        if worst >= MAX_RESTARTS:
            return f"one was lost {worst + 1} times"
        return self._log.last_line()


def placing(nodes: Sequence[int], workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many workers there are, and the cores that each has.

    Args:
        nodes: each node's cores.
        workers: how many are wanted, None for as many as there is room for.
        threads: cores that each is to have, None for as many as they can.

    Raises:
        BadInput: when so many do not fit.
    """
    if threads is None:
        count = workers or sum(nodes)
        return count, cores_each(nodes, count)
    room = sum(node // threads for node in nodes)
    if room < max(1, workers or 0):
        raise BadInput(
            f"{workers or 1} workers with {threads} cores each do not fit on a cluster whose nodes "
            f"have {', '.join(map(str, nodes))}: give fewer --workers or --threads"
        )
    return workers or room, threads


def cores_each(nodes: Sequence[int], workers: int) -> int:
    """The most cores that every one of ``workers`` can have.

    Args:
        nodes: each node's cores.
        workers: how many there are to be.

    Raises:
        BadInput: when there are more workers than cores.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= workers:
            return cores
    raise BadInput(
        f"{workers} workers do not fit on a cluster with {sum(nodes)} cores: give fewer --workers"
    )


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to a cluster; returns False where this process is connected already.

    Raises:
        BadInput: when it cannot be reached.
    """
    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    try:
        # Nothing on the terminal: what workers print comes through their actors.
        logging.getLogger("ray").addHandler(logging.NullHandler())
        quiet = {"log_to_driver": False, "configure_logging": False}
        if address is None:
            quiet["include_dashboard"] = False  # of a cluster that is started here
        # Ray has its workers import from the folder in which it is started. Whatever modules lie
        # in a person's, they are not ours.
        with chdir(os.sep):
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        shown = address or os.environ.get("RAY_ADDRESS") or "of this machine"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"cannot use the Ray cluster {shown} ({reason}): check that it runs there, with the "
            "same versions of Ray and Python"
        ) from error
    finally:
        # Ray puts its own in place, which ends this process in the middle of anything.
        if threading.current_thread() is threading.main_thread():
            with suppress(TypeError):  # one that was not set from Python
                signal.signal(signal.SIGTERM, handler)
    return True


def _shared_address(address: str, nodes: Sequence[Any]) -> str:
    """The store's address as workers on the nodes need it, password and all.

    Raises:
        BadInput: when it is a file and there are other machines.
    """
    url = parse_url(address)
    if url.get_backend_name() == "sqlite":
        if [node["NodeManagerHostname"] for node in nodes] != [socket.gethostname()]:
            raise BadInput(
                f"store {address!r} is a file, which the nodes of a Ray cluster do not share: "
                "give --store postgresql://USER@HOST/DATABASE"
            )
        url = url.set(database=str(Path(str(url.database)).absolute()))
    return url.render_as_string(hide_password=False)
