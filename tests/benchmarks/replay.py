"""How fast thresholds are replayed and harvested on one real trace of 3,000 samples.

The trace is that of the bundled model at 4 bits on the search split; it costs one pass, whose time
is printed beside the rest.

    python tests/benchmarks/replay.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from bundled_model import open_bundled
from common import machine, parse, show, spread
from rich.table import Table

from search.space import PolicySpace
from search.thresholds.candidates import ExitChoices
from search.thresholds.harvest import harvest

VECTORS = 4000


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of ``work``, after one run to warm up."""
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return spread(found)


def main() -> None:
    args = parse(__doc__ or "")
    repeats = 3 if args.quick else 15
    evaluator = open_bundled(512)
    policy = PolicySpace.from_ledger(evaluator.ledger, "block").uniform(4, 1.0)
    reference = evaluator.full_precision_trace()
    evaluator.quantized.engine.set_bits(evaluator.ledger.widths(policy.bits))
    started = time.perf_counter()
    trace = evaluator.trace(policy.bits)
    seconds = {"one pass of the reference engine": spread([time.perf_counter() - started])}
    costs = evaluator.ledger.path_bops(policy.bits)

    def choices(with_flips: bool) -> ExitChoices:
        return ExitChoices(
            trace, evaluator.task, costs, reference=reference if with_flips else None
        )

    thresholds = np.random.default_rng(0).uniform(0.3, 1, (VECTORS, trace.confidence.shape[1]))
    thresholds[:, -1] = 0
    for with_flips in (False, True):
        known = choices(with_flips)
        suffix = ", with boundary risk" if with_flips else ""
        seconds[f"{VECTORS} vectors{suffix}"] = timed(lambda k=known: k.tally(thresholds), repeats)
        seconds[f"harvest of 60 trade-offs{suffix}"] = timed(
            lambda f=with_flips: harvest(choices(f), alpha=0.05 if f else 0.0), repeats
        )
    found = harvest(choices(False))
    rates = {name: VECTORS / row["median"] for name, row in seconds.items() if "vectors" in name}
    result = {
        "machine": machine(["numpy", "torch"]),
        "samples": len(trace),
        "exits": trace.confidence.shape[1],
        "seconds": seconds,
        "vectors_per_second": rates,
        "harvested": len(found),
    }
    table = Table(title=f"{len(trace)} samples, {trace.confidence.shape[1]} exits")
    for heading in ("what", "median ms", "min", "max", "vectors/s"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, row in seconds.items():
        table.add_row(
            name, *(f"{1000 * row[key]:.1f}" for key in ("median", "min", "max")),
            f"{rates[name]:,.0f}" if name in rates else "",
        )  # fmt: skip
    show(result, [table], args.json)


if __name__ == "__main__":
    main()
