"""How soon a study's front is good: ours, ours without one thing each, and stock Optuna.

One process, one model, one machine; every arm starts without traces. Hypervolume is the dominated
fraction of the box from accuracy 0 and the W8A8 full-depth cost. A pass that is given up counts by
the images that it saw. Ours evaluate with the fast engine, or with the reference engine where that
is said. Stock Optuna evaluates with the reference engine into an RDBStorage on SQLite, with its
default sampler, cold or with the preset's uniform anchors.

    python tests/benchmarks/time_to_front.py
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from bundled_model import open_bundled, with_model
from common import machine, show
from rich.table import Table

from search.evaluate import Evaluator, measure_reference
from search.front import as_points, hypervolume
from search.measuring import Measurer
from studies.config import parse_config
from studies.config_file import load_config
from studies.records import HARVEST, StudyRecord
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

ARMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "without harvest": {"trial": {"harvest": 0}},
    "without racing": {"trial": {"racing": 0.0}},
    "without apq (tpe)": {"sampler": {"name": "tpe"}},
    "without the fast engine": {"engine": {"name": "reference"}},
}
STOCK = {"stock Optuna, cold": False, "stock Optuna, uniform anchors": True}

PASSES, SECONDS = (5, 10, 20, 40, 60), (10, 25, 50, 100, 200)
"""Where arms are compared."""

Step = tuple[float, float, float]  # seconds, passes, hypervolume so far


def record_of(evaluator: Evaluator, changes: dict[str, Any], seed: int) -> StudyRecord:
    """The preset's study with changed sections."""
    fields = load_config("fashion").model_dump(mode="json")
    fields["sampler"] = {"name": "apq", "seed": seed}
    for section, values in changes.items():
        fields[section] = {**fields[section], **values}
    config = parse_config({**fields, "budget": {"trials": 100_000}}, "benchmark")
    return StudyRecord(
        config, evaluator.ledger, measure_reference(evaluator), "accuracy",
        evaluator.card.digest, evaluator.data_digest,
    )  # fmt: skip


def prepare(evaluator: Evaluator) -> None:
    """What every study pays once, before the clock starts."""
    evaluator.quantized.engine  # noqa: B018
    evaluator.full_precision_trace()


class _Kept(dict):  # type: ignore[type-arg]
    """Traces in memory, so that one set of bits is paid for once within an arm."""

    load = dict.get
    store = dict.__setitem__


def ours(evaluator: Evaluator, changes: dict[str, Any], seed: int, folder: Path) -> Iterator[Step]:
    """Trials of our store, without end."""
    record = record_of(evaluator, changes, seed)
    store = StudyStore(f"sqlite:///{folder}/ours.db", create=True)
    study = store.create(record)
    assert study is not None
    proposer, kept = Proposer(store, study, "bench"), _Kept()
    engine = record.config.engine.name
    evaluator = with_model(dataclasses.replace(evaluator, cache=kept), engine_name=engine)
    prepare(evaluator)
    trial = record.config.trial
    measure = Measurer(evaluator, record.space, proposer.front, trial.harvest, trial.racing)
    reference = record.ledger.full_depth_macs * 64 / 1e9
    points = np.empty((0, 2))
    seconds = passes = 0.0
    while True:
        started, traces = time.perf_counter(), len(kept)
        claim = proposer.claim("bench")
        assert claim is not None
        found = measure.measure(claim.policy)
        more = [(HARVEST, one) for one in found.harvested]
        store.record(claim, found.evaluation, *more, attributes=found.attributes)
        seconds += time.perf_counter() - started
        if found.attributes:
            passes += found.evaluation.samples / len(evaluator.split)
        else:
            passes += len(kept) - traces
        new = [found.evaluation, *found.harvested]
        points = np.concatenate(
            [points, as_points([one.value for one in new], [one.gbops for one in new])]
        )
        yield seconds, passes, hypervolume(points, reference)


def stock(evaluator: Evaluator, anchored: bool, seed: int, folder: Path) -> Iterator[Step]:
    """Trials of stock Optuna, without end."""
    record = record_of(evaluator, {}, seed)
    kept = _Kept()
    evaluator = with_model(dataclasses.replace(evaluator, cache=kept), engine_name="reference")
    prepare(evaluator)
    before = len(kept)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/stock.db",
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    if anchored:
        for policy in record.anchors():
            study.enqueue_trial(record.space.encode(policy))
    reference = record.ledger.full_depth_macs * 64 / 1e9
    points = np.empty((0, 2))
    seconds = 0.0
    while True:
        started = time.perf_counter()
        trial = study.ask()
        found = evaluator.evaluate(record.space.propose(trial))
        study.tell(trial, [found.value, found.gbops])
        seconds += time.perf_counter() - started
        points = np.concatenate([points, [[found.value, found.gbops]]])
        yield seconds, float(len(kept) - before), hypervolume(points, reference)


def reach(steps: list[Step], target: float, axis: int) -> float | None:
    """Seconds (axis 0) or passes (1) until the hypervolume is ``target``."""
    return next((step[axis] for step in steps if step[2] >= target), None)


def at(steps: list[Step], limit: float, axis: int) -> float:
    """Hypervolume when ``limit`` seconds or passes are spent."""
    return max((step[2] for step in steps if step[axis] <= limit), default=0.0)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def at_limits(
    runs: list[list[Step]], limits: Sequence[int], axis: int
) -> dict[str, tuple[float, float, float] | None]:
    """Quartiles of the hypervolume at each limit; None where a run ended before it."""
    return {
        str(limit): quartiles([at(steps, limit, axis) for steps in runs])
        if all(steps[-1][axis] >= limit for steps in runs)
        else None
        for limit in limits
    }


def times_sooner(mine: list[Step], theirs: list[Step], axis: int) -> float | None:
    """How many times sooner ``mine`` has the best that ``theirs`` reaches; None for never."""
    best = theirs[-1][2]
    taken, needed = reach(mine, best, axis), reach(theirs, best, axis)
    return needed / taken if taken and needed else None


def limits_table(
    rows: list[dict[str, Any]], unit: str, limits: Sequence[int], longest: float
) -> Table:
    """Hypervolume after so many seconds or passes, an arm a row."""
    shown = [str(limit) for limit in limits if limit <= longest]
    table = Table(title=f"hypervolume after so many {unit}: median, with quartiles")
    for heading in ("arm", *shown, "trials", "seconds"):
        table.add_column(heading, justify="left" if heading == "arm" else "right", no_wrap=True)
    for row in rows:
        found = [row[f"hypervolume_at_{unit}"][limit] for limit in shown]
        table.add_row(
            row["arm"],
            *(
                "ended before" if one is None else f"{one[1]:.4f} ({one[0]:.4f}-{one[2]:.4f})"
                for one in found
            ),
            f"{row['trials'][1]:.0f}", f"{row['seconds'][1]:.0f}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, few passes and images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--passes", type=int, default=60, help="forward passes of every arm")
    parser.add_argument("--images", type=int, default=3000, help="of the search split")
    parser.add_argument("--arms", nargs="+", default=[*ARMS, *STOCK], choices=[*ARMS, *STOCK])
    parser.add_argument("--draw", type=Path, metavar="FILE.html", help="curves of medians")
    args = parser.parse_args()
    seeds, passes = (args.seeds[:1], 8) if args.quick else (args.seeds, args.passes)
    plain = open_bundled(512)
    plain.split = plain.split.head(300 if args.quick else args.images)
    runs: dict[str, list[list[Step]]] = {arm: [] for arm in args.arms}
    for seed in seeds:
        for arm in args.arms:
            with tempfile.TemporaryDirectory() as folder:
                begun = (
                    ours(plain, ARMS[arm], seed, Path(folder))
                    if arm in ARMS
                    else stock(plain, STOCK[arm], seed, Path(folder))
                )
                steps = []
                for step in begun:
                    steps.append(step)
                    if step[1] >= passes:
                        break
            runs[arm].append(steps)
            print(f"seed {seed}, {arm}: {steps[-1]}", file=sys.stderr, flush=True)
    rows = [
        {
            "arm": arm,
            "seconds": quartiles([steps[-1][0] for steps in found]),
            "trials": quartiles([float(len(steps)) for steps in found]),
            "hypervolume_at_seconds": at_limits(found, SECONDS, 0),
            "hypervolume_at_passes": at_limits(found, PASSES, 1),
        }
        for arm, found in runs.items()
    ]
    speedups = []
    for arm in STOCK:
        if arm not in runs or "ours" not in runs:
            continue
        pairs = list(zip(runs["ours"], runs[arm], strict=True))
        for axis, unit in enumerate(("seconds", "passes")):
            times = [times_sooner(mine, theirs, axis) for mine, theirs in pairs]
            speedups.append({"against": arm, "in": unit, "times_sooner": times})
    result = {
        "machine": machine(["torch", "optuna", "numpy"]),
        "reference_point": {"accuracy": 0, "gbops": plain.ledger.full_depth_macs * 64 / 1e9},
        "seeds": seeds, "passes": passes, "images": len(plain.split),
        "rows": rows, "speedups": speedups,
        "steps": runs,
    }  # fmt: skip
    longest = max(row["seconds"][1] for row in rows)
    tables = [
        limits_table(rows, unit, limits, end)
        for unit, limits, end in (("passes", PASSES, passes), ("seconds", SECONDS, longest))
        if limits[0] <= end
    ]
    faster = Table(title="how many times sooner ours reaches the best that the other reaches")
    for heading in ("against", "in", "median", "each seed"):
        faster.add_column(heading)
    for one in speedups:
        known = [value for value in one["times_sooner"] if value is not None]
        faster.add_row(
            one["against"],
            one["in"],
            f"{statistics.median(known):.1f}" if known else "never",
            " ".join("never" if x is None else f"{x:.1f}" for x in one["times_sooner"]),
        )
    show(result, [*tables, faster], args.json, width=190)
    if args.draw:
        draw(runs, args.draw)


def draw(runs: dict[str, list[list[Step]]], path: Path) -> None:
    """Median hypervolume over seconds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, found in runs.items():
        times = np.unique(np.concatenate([[step[0] for step in steps] for steps in found]))
        median = [statistics.median(at(steps, limit, 0) for steps in found) for limit in times]
        figure.add_scatter(x=times, y=median, name=arm, line={"shape": "hv"})
    best = max(step[2] for found in runs.values() for steps in found for step in steps)
    figure.update_layout(
        template="plotly_white",
        margin={"t": 30},
        xaxis={"title": "seconds (log)", "type": "log"},
        # Where arms differ; the first seconds of every arm are far below.
        yaxis={"title": "hypervolume, median over seeds", "range": [best - 0.15, best + 0.01]},
    )
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    main()
