"""Workers on a Ray cluster: two nodes on this machine, a real store, a node that is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet import recorded_study
from own_modules import imported_ones, put_own_modules
from postgres import free_port, new_database
from ray.cluster_utils import Cluster
from running import command_env, command_line
from sqlalchemy import select

from search.errors import BadInput
from studies.launchers.ray import cores_each
from studies.records import HARVEST
from studies.store.schema import trials
from studies.store.workers import WorkerState, list_workers
from studies.store.writer import StudyStore

PASSWORD = "open-sesame-7316"


class Nodes:
    """A Ray cluster on loopback: a head with two cores, and one more node with one."""

    def __init__(self) -> None:
        self.client_port = free_port()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        head = {
            "num_cpus": 2,
            "include_dashboard": False,
            "ray_client_server_port": self.client_port,
            # A node that is gone is known to be gone after a second, not after fifteen.
            "_system_config": {
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 2,
            },
        }
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        """Where drivers on this machine connect."""
        return str(self.cluster.address)

    @property
    def logs(self) -> Path:
        """Everything that Ray writes down."""
        return Path(self.cluster.head_node.get_session_dir_path())

    def processes_of(self, node: Any) -> list[psutil.Process]:
        """A node's raylet and all that it started, workers of ours with it."""
        (raylet,) = node.all_processes["raylet"]
        process = psutil.Process(raylet.process.pid)
        return [process, *process.children(recursive=True)]

    def lose(self, node: Any) -> None:
        """End a node as a power cut would."""
        for process in self.processes_of(node):
            process.kill()
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.cluster.shutdown()


@pytest.fixture
def address(postgres_url: str) -> str:
    return new_database(postgres_url)


@pytest.fixture
def launch(
    tmp_path: Path, nodes: Nodes, address: str, shared_cache: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``exitbits launch`` of a small study on the cluster."""
    started: list[subprocess.Popen[str]] = []

    def start(trials: int, *options: str, store: str = address) -> subprocess.Popen[str]:
        (tmp_path / "short.toml").write_text(recorded_study("short", trials))
        arguments = ["launch", "short.toml", "--cache", shared_cache, *options]
        environment = {
            **command_env(), "RAY_ADDRESS": nodes.address, "EXITBITS_STORE": store,
            "EXITBITS_DB_PASSWORD": PASSWORD,
        }  # fmt: skip
        process = subprocess.Popen(
            command_line(arguments), cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return found


def at_work(address: str) -> dict[int, WorkerState]:
    """The workers that hold a trial, by process."""
    try:
        database = StudyStore(address).database
    except BadInput:  # the store is only just being made
        return {}
    return {worker.pid: worker for worker in list_workers(database) if worker.trial is not None}


def freeze(pid: int, address: str) -> WorkerState:
    """Stop a worker in the middle of a trial."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.1)  # for a statement that was on its way
        if pid in (held := at_work(address)):
            return held[pid]
        os.kill(pid, signal.SIGCONT)


def own_trials(store: StudyStore) -> list[int | None]:
    """The trial of every evaluation but harvested ones: each trial has one of its own."""
    rows = store.evaluations(store.get("short").id)
    return sorted(row.trial for row in rows if row.source != HARVEST)


def test_a_file_is_no_store_for_a_cluster(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    refused = launch(5, "--on", "ray", store="sqlite:///exitbits.db")
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert errors == (
        "exitbits: store 'sqlite:///exitbits.db' is a file, which the nodes of a Ray cluster do "
        "not share: give --store postgresql://USER@HOST/DATABASE\n"
    )
    assert not (tmp_path / "exitbits.db").exists()


def test_a_study_ends_at_its_budget_although_a_node_is_lost(
    nodes: Nodes, address: str, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    put_own_modules(tmp_path)  # where it is launched; none of them is ours
    running = launch(12, "--on", "ray", "--workers", "2")
    workers = wait_for(lambda: len(at_work(address)) == 2 and at_work(address), "both at work")
    lost = {process.pid for process in nodes.processes_of(nodes.second)} & workers.keys()
    (kept,) = workers.keys() - lost  # one on each node
    for process in psutil.process_iter():
        if process.pid in workers or process.pid == running.pid:
            assert PASSWORD not in " ".join(process.cmdline())

    # What is left of the budget waits until a third worker has taken some of it.
    frozen = {pid: freeze(pid, address) for pid in (kept, *lost)}
    nodes.lose(nodes.second)
    (third,) = wait_for(lambda: at_work(address).keys() - workers.keys(), "another in its place")
    name = at_work(address)[third].name
    os.kill(kept, signal.SIGCONT)

    output, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "Pareto front of short" in output
    assert "Traceback" not in errors
    store = StudyStore(address)
    progress = store.progress(store.get("short").id)
    assert (progress.finished, progress.failed, progress.running) == (12, 0, 0)
    assert own_trials(store) == list(range(12))
    # The lease of the lost one was freed at once: otherwise the third had begun another trial.
    assert progress.lost == 1
    with store.database.read() as connection:
        (trial,) = (frozen[pid].trial for pid in lost)
        held = select(trials.c.worker, trials.c.attempt).where(trials.c.number == trial)
        assert connection.execute(held).one() == (name, 2)
    assert list_workers(store.database) == []
    written = [path for path in nodes.logs.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not any(PASSWORD.encode() in path.read_bytes() for path in written)
    assert imported_ones(tmp_path) == []


def test_ctrl_c_through_a_client_finishes_the_trials_in_hand(
    nodes: Nodes, address: str, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    on = f"ray://127.0.0.1:{nodes.client_port}"
    running = launch(500, "--on", on, "--workers", "1")
    wait_for(lambda: at_work(address), "a trial in hand")
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=100)
    assert running.returncode == 130, errors
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    store = StudyStore(address)
    progress = store.progress(store.get("short").id)
    assert (progress.running, progress.lost) == (0, 0)
    assert own_trials(store) == list(range(progress.finished))
    assert list_workers(store.database) == []


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("cloud", "unknown launcher 'cloud': choose one of local, ray"),
        ("local://here", "launcher 'local://here': local has no addresses, give local alone"),
    ],
)
def test_an_unknown_place_is_refused(
    on: str, words: str, exitbits: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = exitbits("launch", "fashion", "--on", on)
    assert (refused.returncode, refused.stderr) == (2, f"exitbits: {words}\n")


def test_without_ray_the_extra_is_named(
    tmp_path: Path, exitbits: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    without = (
        "import sys; sys.modules['ray'] = None; from studies.cli import main; sys.exit(main())"
    )
    refused = subprocess.run(
        [sys.executable, "-c", without, "launch", "fashion", "--on", "ray"],
        cwd=tmp_path, env=command_env(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (refused.returncode, refused.stderr) == (
        2,
        "exitbits: launcher 'ray' needs Ray, which is not installed: pip install 'exitbits[ray]'\n",
    )


def test_commands_load_no_ray_before_they_use_it() -> None:
    commands = (
        f"studies.commands.{name}" for name in ("launch", "worker", "status", "front", "pick")
    )
    loading = (
        f"import sys, studies.cli, studies.launchers, {', '.join(commands)}; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", loading],
        env=command_env(), text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "ray" not in done.stdout.split()


@pytest.mark.parametrize(
    ("nodes", "workers", "cores"),
    [([8], 3, 2), ([4, 4], 2, 4), ([4, 4], 3, 2), ([2, 1], 2, 1), ([0, 8], 1, 8), ([3, 3], 2, 3)],
)
def test_every_worker_has_as_many_cores_as_all_can_have(
    nodes: list[int], workers: int, cores: int
) -> None:
    assert cores_each(nodes, workers) == cores


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(BadInput, match="4 workers do not fit on a cluster with 3 cores: give"):
        cores_each([2, 1], 4)
