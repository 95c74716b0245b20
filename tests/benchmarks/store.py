"""What a trial costs in the store, ours beside Optuna's RDBStorage.

24 integers and 12 floats a trial, two objectives. Ours claims, proposes and records 50 evaluations;
stock asks, suggests and tells, and records none. Then: the cost of a trial with many finished ones,
and of reading evaluations cold and since a revision.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from rich.table import Table
from sqlalchemy import Engine, create_engine, event, insert, select, update

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from common import machine, parse, show, spread
from delay_proxy import DelayProxy
from postgres import Postgres, new_database

from search.cost import Ledger, Op
from search.policy import Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import resolve_task
from search.trace import ExitTrace
from studies.config import parse_config
from studies.records import StudyRecord
from studies.store.schema import evaluations, studies, trials
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

DELAY_S = 0.005
EVALUATIONS = 50


def wide_ledger() -> Ledger:
    """Twelve blocks with an exit after each and a thirteenth at the end: 24 bits, 12 thresholds."""
    ops = []
    for block in range(1, 14):
        if block <= 12:
            ops.append(Op(f"blocks.{block}", "linear", "block", block, 1000, f"blocks.{block}"))
        ops.append(Op(f"heads.{block}", "linear", "head", block, 10, f"heads.{block}"))
    return Ledger(tuple(ops), tuple(range(1, 14)))


def record_of_study(name: str, budget: int) -> StudyRecord:
    """A study with random proposals and no anchors."""
    fields = {
        "name": name, "model": {"checkpoint": "none"}, "data": {"dataset": "fashion"},
        "sampler": {"name": "random"}, "budget": {"trials": budget},
        "anchors": {"bits": [8], "thresholds": []},
    }  # fmt: skip
    return StudyRecord(
        parse_config(fields, "benchmark"), wide_ledger(), 0.9, "accuracy", "0" * 64, "0" * 64
    )


def evaluate(policy: Policy) -> Evaluation:
    """A cheap evaluation of the right shape."""
    import numpy as np

    rng = np.random.default_rng(len(policy.bits.weights))
    trace = ExitTrace(
        rng.random((20, 13), dtype=np.float32), np.ones((20, 13, 2), np.int32), tuple(range(1, 14))
    )
    return evaluate_trace(policy, trace, wide_ledger(), resolve_task("classification"))


@contextmanager
def counting(engine: Engine) -> Iterator[dict[str, int]]:
    """Count statements and commits on an engine. BEGIN, COMMIT and ROLLBACK are no statements."""
    counts = {"statements": 0, "commits": 0}

    def statement(_: Any, __: Any, text: str, *rest: Any) -> None:
        counts["statements"] += not text.lower().startswith("begin")

    def commit(_: Any) -> None:
        counts["commits"] += 1

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    yield counts
    event.remove(engine, "before_cursor_execute", statement)
    event.remove(engine, "commit", commit)


def ours(address: str, count: int) -> tuple[dict[str, float], list[float]]:
    """Statements and commits a trial, and milliseconds of each trial."""
    store = StudyStore(address, create=True)
    study = store.create(record_of_study("ours", count + 5))
    assert study is not None
    proposer = Proposer(store, study, "bench")
    for _ in range(5):
        one_trial(proposer)
    with counting(store.database.engine) as counts:
        times = [one_trial(proposer) for _ in range(count)]
    store.database.engine.dispose()
    return {key: value / count for key, value in counts.items()}, times


def one_trial(proposer: Proposer) -> float:
    """Claim, propose, and record with 50 evaluations; returns the store's milliseconds."""
    started = time.perf_counter()
    claim = proposer.claim("bench")
    claimed = time.perf_counter()
    assert claim is not None
    found = evaluate(claim.policy)
    evaluated = time.perf_counter()
    proposer.store.record(claim, found, *[("harvest", found)] * (EVALUATIONS - 1))
    return 1000 * (claimed - started + time.perf_counter() - evaluated)


def stock(address: str, count: int) -> tuple[dict[str, float], list[float]]:
    """The same for RDBStorage, without evaluations."""
    storage = RDBStorage(address.replace("postgresql:", "postgresql+psycopg:"))
    study = optuna.create_study(
        storage=storage,
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    space = record_of_study("stock", 1).space

    def trial() -> None:
        asked = study.ask()
        space.propose(asked)
        study.tell(asked, [0.5, 1.0])

    for _ in range(5):
        trial()
    times = []
    with counting(storage.engine) as counts:
        for _ in range(count):
            started = time.perf_counter()
            trial()
            times.append(1000 * (time.perf_counter() - started))
    storage.engine.dispose()
    return {key: value / count for key, value in counts.items()}, times


def grown(address: str, sizes: tuple[int, int], reads: int, repeat: int) -> dict[str, Any]:
    """Claim plus record with few and with many finished trials, and reading evaluations."""
    store = StudyStore(address, create=True)
    result: dict[str, Any] = {}
    for size in sizes:
        name = f"size{size}"
        store.create(record_of_study(name, size + 1000))
        fill(store, name, trials_to_add=size, evaluations_a_trial=0)
        fresh = StudyStore(address)
        started = time.perf_counter()
        proposer = Proposer(fresh, fresh.get(name), "bench")
        first = 1000 * (time.perf_counter() - started) + one_trial(proposer)
        times = [one_trial(proposer) for _ in range(repeat)]
        result[f"trial with {size} finished, ms"] = spread(times)
        result[f"a worker's first trial with {size} finished, ms"] = spread([first])
    store.create(record_of_study("reads", reads))
    fill(store, "reads", trials_to_add=reads // EVALUATIONS, evaluations_a_trial=EVALUATIONS)
    cold, news = [], []
    for _ in range(5):
        reader = StudyStore(address)
        study_id = reader.version("reads").id
        started = time.perf_counter()
        rows = reader.evaluations(study_id)
        cold.append(1000 * (time.perf_counter() - started))
    for _ in range(10):
        last = rows[-1].revision
        fill(store, "reads", trials_to_add=1, evaluations_a_trial=10)
        started = time.perf_counter()
        rows = reader.evaluations(study_id, since=last)
        news.append(1000 * (time.perf_counter() - started))
        assert len(rows) == 10
    result[f"read {reads} evaluations cold, ms"] = spread(cold)
    result["read 10 new evaluations, ms"] = spread(news)
    return result


def fill(store: StudyStore, name: str, trials_to_add: int, evaluations_a_trial: int) -> None:
    """Add finished trials in bulk, as many workers would have over time."""
    space = record_of_study(name, 1).space
    policy = space.uniform(4, 0.5)
    values = space.encode(policy)
    from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json

    whole, real = IntDistribution(2, 8), FloatDistribution(0.3, 1.0)
    params = {
        key: [value, distribution_to_json(real if key.startswith("t.") else whole)]
        for key, value in values.items()
    }
    found = evaluate(policy)
    from studies.store.rows import evaluation_row

    def step(connection: Any) -> None:
        row = connection.execute(
            update(studies)
            .where(studies.c.name == name)
            .values(
                revision=studies.c.revision + trials_to_add,
                trials=studies.c.trials + trials_to_add,
                claimed=studies.c.claimed + trials_to_add,
            )
            .returning(studies.c.id, studies.c.revision, studies.c.trials)
        ).one()
        first = row.trials - trials_to_add
        connection.execute(
            insert(trials),
            [
                {
                    "study_id": row.id, "number": first + index, "state": 1, "params": params,
                    "trial_values": [found.value, found.gbops], "intermediate": {},
                    "user_attrs": {}, "system_attrs": {}, "source": "random",
                    "revision": row.revision - trials_to_add + 1 + index,
                }
                for index in range(trials_to_add)
            ],
        )  # fmt: skip
        if not evaluations_a_trial:
            return
        added = connection.execute(
            select(trials.c.id, trials.c.revision).where(
                trials.c.study_id == row.id, trials.c.number >= first
            )
        ).all()
        one = evaluation_row("harvest", found)
        connection.execute(
            insert(evaluations),
            [
                {**one, "study_id": row.id, "trial_id": key, "revision": revision}
                for key, revision in added
                for _ in range(evaluations_a_trial)
            ],
        )

    store.database.write(step)


def main() -> None:
    """Measure and print."""
    args = parse(__doc__ or "")
    count, slow_count = (10, 3) if args.quick else (100, 15)
    sizes, reads = ((100, 2_000), 10_000) if args.quick else ((100, 20_000), 100_000)
    result: dict[str, Any] = {
        "machine": machine(["optuna", "sqlalchemy", "psycopg"]),
        "trials": [],
        "growth": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Postgres()
        server.start()
        proxy = DelayProxy(server.port, DELAY_S)
        try:
            near, far = server.url(), server.url().replace(f":{server.port}/", f":{proxy.port}/")
            with create_engine(near.replace("postgresql:", "postgresql+psycopg:")).connect() as c:
                result["machine"]["postgresql"] = c.exec_driver_sql("show server_version").scalar()

            def fresh(where: str) -> str:
                address = new_database(near)
                if where == near:
                    return address
                return address.replace(f":{server.port}/", f":{proxy.port}/")

            places: list[tuple[str, Callable[[str], str], int]] = [
                ("SQLite", lambda kind: f"sqlite:///{folder}/{kind}.db", count),
                ("PostgreSQL", lambda kind: fresh(near), count),
                ("PostgreSQL, 5 ms a round trip", lambda kind: fresh(far), slow_count),
            ]
            for place, address, trials_here in places:
                for label, measure in (("ours", ours), ("stock", stock)):
                    costs, times = measure(address(label), trials_here)
                    result["trials"].append(
                        {"database": place, "storage": label, **costs, "ms": spread(times)}
                    )
            for place, address in (
                ("SQLite", f"sqlite:///{folder}/grown.db"),
                ("PostgreSQL", new_database(near)),
            ):
                result["growth"][place] = grown(address, sizes, reads, 10 if args.quick else 40)
        finally:
            proxy.close()
            server.close()
    show(result, tables(result), args.json)


def tables(result: dict[str, Any]) -> list[Table]:
    """The result as tables, with the ratios of stock to ours."""
    first = Table(title="one trial: 24 integers, 12 floats, 2 objectives; ours with 50 evaluations")
    for heading in ("database", "storage"):
        first.add_column(heading)
    for heading in ("statements", "commits", "ms median", "min", "max", "stock / ours"):
        first.add_column(heading, justify="right")
    for row in result["trials"]:
        here = [one for one in result["trials"] if one["database"] == row["database"]]
        pair = {one["storage"]: one for one in here}
        ratio = pair["stock"]["ms"]["median"] / pair["ours"]["ms"]["median"]
        first.add_row(
            row["database"], row["storage"], f"{row['statements']:.1f}", f"{row['commits']:.1f}",
            *(f"{row['ms'][key]:.1f}" for key in ("median", "min", "max")),
            f"{ratio:.1f}x" if row["storage"] == "ours" else "",
        )  # fmt: skip
    second = Table(title="growth and reading")
    for heading in ("database", "what", "median", "min", "max"):
        second.add_column(heading, justify="left" if heading in ("database", "what") else "right")
    for place, found in result["growth"].items():
        for what, values in found.items():
            second.add_row(place, what, *(f"{values[key]:.1f}" for key in ("median", "min", "max")))
    return [first, second]


if __name__ == "__main__":
    main()
