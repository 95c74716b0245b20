"""What a proposal of the sampler ``apq`` costs in a small and in a large study.

The study has 24 groups of bits and 12 thresholds; its trials are evaluations of the right shape
without a model. A worker's first proposal reads the whole study once and is printed apart.

    python tests/benchmarks/ask.py
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from common import machine, parse, show, spread
from rich.table import Table
from store import record_of_study, wide_ledger

from search.policy import Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import resolve_task
from search.trace import ExitTrace
from studies.config import parse_config
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer


def evaluate(policy: Policy, rng: np.random.Generator) -> Evaluation:
    """An evaluation whose accuracy grows with the bits, over noise."""
    bits = np.array(policy.bits.weights + policy.bits.activations)
    chance = 0.95 - (4.0 ** -(bits - 1)).mean() + 0.02 * rng.standard_normal()
    right = rng.random((40, 13)) < chance
    statistic = np.stack([right, np.ones_like(right)], axis=-1).astype(np.int32)
    confidence = rng.random((40, 13), dtype=np.float32)
    trace = ExitTrace(confidence, statistic, tuple(range(1, 14)))
    return evaluate_trace(policy, trace, wide_ledger(), resolve_task("classification"))


def asks(size: int, count: int) -> tuple[float, list[float]]:
    """Milliseconds of the first claim in a study of ``size`` trials, and of the next ones."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(f"sqlite:///{folder}/ask.db", create=True)
        record = record_of_study("ask", size + count + 1)
        fields = {**record.config.model_dump(mode="json"), "sampler": {"name": "apq"}}
        record = dataclasses.replace(record, config=parse_config(fields, "benchmark"))
        store.create(record)
        space = record.space
        names = len(space.weight_groups), len(space.activation_groups)
        for start in range(0, size, 500):
            found = []
            for _ in range(min(500, size - start)):
                bits = space.bits(rng.integers(2, 9, names[0]), rng.integers(2, 9, names[1]))
                thresholds = (*(float(one) for one in rng.uniform(0.3, 1, space.exits - 1)), 0.0)
                policy = Policy(bits, thresholds)
                found.append(Contribution("drawn", evaluate(policy, rng)))
            contribute(store, store.get("ask").id, found)
        times = []
        started = time.perf_counter()
        proposer = Proposer(store, store.get("ask"), "bench")
        for _ in range(count + 1):
            claim = proposer.claim("bench")
            times.append(1000 * (time.perf_counter() - started))
            assert claim is not None
            store.record(claim, evaluate(claim.policy, rng))
            started = time.perf_counter()
        store.database.engine.dispose()
    return times[0], times[1:]


def main() -> None:
    args = parse(__doc__ or "")
    rows = []
    for size in (50, 500) if args.quick else (200, 20_000):
        first, later = asks(size, 10 if args.quick else 50)
        rows.append({"trials": size, "first_ms": first, "claim_ms": spread(later)})
    ratio = rows[1]["claim_ms"]["median"] / rows[0]["claim_ms"]["median"]  # type: ignore[index]
    result = {"machine": machine(["optuna", "sqlalchemy", "numpy"]), "rows": rows, "ratio": ratio}
    table = Table(title=f"a claim with a proposal by apq, SQLite; ratio of medians {ratio:.2f}")
    for heading in ("trials", "median ms", "min", "max", "first ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = row["claim_ms"]
        assert isinstance(times, dict)
        table.add_row(
            str(row["trials"]), *(f"{times[key]:.1f}" for key in ("median", "min", "max")),
            f"{row['first_ms']:.0f}",
        )  # fmt: skip
    show(result, [table], args.json)


if __name__ == "__main__":
    main()
