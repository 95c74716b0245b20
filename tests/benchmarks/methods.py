"""APQ, MAQEE and studies against their baselines, on a bundled benchmark.

Where each method's bits come from stands in ``comparing.py``. Every policy is chosen on *search*
and reported on *order* too, which chose nothing: its drop against full precision is paired, image
by image, with the standard error of that. Differences between methods are paired likewise. A seed
draws the calibration images (512 of 1,024), what samplers propose and, with ``--data``, the order
of training. Traces, tables and trained models are kept in the cache folder, so that an interrupted
run goes on where it stopped.

    python tests/benchmarks/methods.py --model bundled:fashion-deep
    python tests/benchmarks/methods.py --data /usr/share/datasets/fashion-mnist --draw fronts.html
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import numpy as np
import plotly.graph_objects as go
from common import machine, show
from comparing import (
    GRID,
    Bench,
    Method,
    evaluations,
    grid_bits,
    maqee,
    mean_bits,
    on_model,
    random_bits,
    right_of,
    static_bits,
    study_bits,
    trained_for_all,
    trained_for_each,
    uniform_bits,
)
from rich.table import Table

from search.caching import default_cache_folder
from search.cost import GIGA
from search.policy import Policy

SHARES = (0.045, 0.06, 0.08, 0.11, 0.16, 0.24)  # budgets, of W8A8 at full depth
TRAINED = (0.06, 0.11)  # budgets at which models are trained for each policy
DROPS = (0.005, 0.01)
SPLITS = ("search", "order")
OURS = ("study", "study on one for all")


@dataclass(frozen=True)
class Found:
    """What a method gave at a budget, or within a drop, under one seed."""

    accuracy: tuple[float, float]
    drop: tuple[float, float]
    drop_error: tuple[float, float]
    gbops: float
    reductions: tuple[float, float, float]
    mean_exit: float
    passes: int
    seconds: float
    training_seconds: float
    right: tuple[np.ndarray, np.ndarray]


Results = dict[tuple[str, float], list[Found]]


def judged(bench: Bench, method: Method, policy: Policy) -> Found:
    """The policy's figures on both splits."""
    here, _ = evaluations(method, policy)
    right = tuple(right_of(one, policy) for one in method.pair)
    off = [full - found for full, found in zip(bench.full, right, strict=True)]
    references = here.references
    return Found(
        accuracy=(float(right[0].mean()), float(right[1].mean())),
        drop=(float(off[0].mean()), float(off[1].mean())),
        drop_error=(error(off[0]), error(off[1])),
        gbops=here.gbops,
        reductions=tuple(
            1 - here.cost.expected / one
            for one in (references.w32a32, references.w8a8, references.same_bits)
        ),  # type: ignore[arg-type]
        mean_exit=here.mean_exit,
        passes=method.passes,
        seconds=method.seconds,
        training_seconds=method.training_seconds,
        right=(right[0], right[1]),
    )


def error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def untrained(bench: Bench, budgets: Sequence[float], quick: bool) -> list[Method]:
    """Every method that trains nothing; the passes of most are MAQEE's for all budgets."""
    alternating = maqee(bench, budgets)
    count = 6 if quick else max(len(GRID) ** 2, alternating.passes)
    named = {
        **{f"W{b}A{b}+exits": [uniform_bits(bench, b, b)] for b in ((4,) if quick else (8, 4, 3))},
        "uniform grid+exits": grid_bits(bench)[: count if quick else None],
        "static+exits": static_bits(bench, count),
        "equal mean bits+exits": mean_bits(bench, count),
        "random+harvest": random_bits(bench, count),
    }
    methods = [on_model(bench, name, sets) for name, sets in named.items()]
    started = time.monotonic()
    tried = study_bits(bench, count)
    methods.append(on_model(bench, "study", tried, seconds=time.monotonic() - started))
    uneven = maqee(bench, budgets, "MAQEE, u=1", amortized=False)
    return [*methods, alternating, uneven]


def trained(
    bench: Bench, plain: Sequence[Method], budgets: Sequence[float], steps: int
) -> list[Method | dict[float, Method]]:
    """Methods that train: one model for all, and one for each policy at equal training time."""
    by_name = {method.name: method for method in plain}
    pair, seconds = trained_for_all(bench, steps)
    progress(f"seed {bench.seed}: one model for all trained in {seconds:.0f} s")
    count = by_name["study"].passes
    started = time.monotonic()
    tried = study_bits(bench, count, pair)
    took = time.monotonic() - started
    found: list[Method | dict[float, Method]] = [
        on_model(bench, "study on one for all", tried, pair, took, seconds),
        on_model(bench, "uniform grid on one for all", grid_bits(bench), pair, 0.0, seconds),
    ]
    # A step for all is four passes of the twin, one for each policy's is one.
    even = (1 / bench.space.exits,) * bench.space.exits
    for width in (4, 3):
        bits = uniform_bits(bench, width, width)
        each = dict.fromkeys(budgets, (bits, even))
        found.append(trained_for_each(bench, f"QAT W{width}A{width}+exits", each, 4 * steps))
        progress(f"seed {bench.seed}: W{width}A{width} trained")
    chosen = {}
    for budget in budgets:
        policy = by_name["MAQEE"].under(budget)
        if policy is not None:
            chosen[budget] = policy.bits, bench.search.evaluate(policy).exit_rates
    found.append(trained_for_each(bench, "MAQEE+recovery", chosen, 4 * steps))
    return found


def mean_of(found: Sequence[Found], name: str, index: int | None = None) -> float:
    values = [getattr(one, name) if index is None else getattr(one, name)[index] for one in found]
    return float(np.mean(values))


def row_of(method: str, budget: float, found: Sequence[Found]) -> dict[str, Any]:
    """Means over seeds; errors of drops are those of the images, which all seeds share."""
    row: dict[str, Any] = {"method": method, "budget": budget, "seeds": len(found)}
    for index, split in enumerate(SPLITS):
        row[split] = {
            "accuracy": mean_of(found, "accuracy", index),
            "drop": mean_of(found, "drop", index),
            "drop_error": mean_of(found, "drop_error", index),
            "spread": float(np.ptp([one.accuracy[index] for one in found])),
        }
    for name in ("gbops", "mean_exit", "passes", "seconds", "training_seconds"):
        row[name] = mean_of(found, name)
    row["reductions"] = [mean_of(found, "reductions", index) for index in range(3)]
    return row


def differences(results: Results, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Ours less every other method, paired by image and seed."""
    rows = []
    names = list(dict.fromkeys(name for name, _ in results))
    for ours in OURS:
        for theirs in names:
            if theirs == ours or theirs in OURS:
                continue
            for budget in budgets:
                a, b = results.get((ours, budget), []), results.get((theirs, budget), [])
                if not a or len(a) != len(b):
                    continue
                row: dict[str, Any] = {"ours": ours, "theirs": theirs, "budget": budget}
                for index, split in enumerate(SPLITS):
                    by_image = np.mean(
                        [x.right[index] - y.right[index] for x, y in zip(a, b, strict=True)], axis=0
                    )
                    row[split] = {"points": 100 * float(by_image.mean()),
                                  "error": 100 * error(by_image)}  # fmt: skip
                rows.append(row)
    return rows


def percent(value: float, places: int = 2) -> str:
    return f"{100 * value:.{places}f}"


def main_table(rows: Sequence[dict[str, Any]], title: str, of: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in (
        of, "method", "n", "search %", "order %", "drop on order", "GBOPs", "<32x32", "<W8A8",
        "<same", "exit", "passes", "s", "train s",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    last = None
    for row in rows:
        if last not in (None, row["budget"]):
            table.add_section()
        last = row["budget"]
        order = row["order"]
        table.add_row(
            f"{row['budget']:.4g}", row["method"], str(row["seeds"]),
            percent(row["search"]["accuracy"]), percent(order["accuracy"]),
            f"{percent(order['drop'])} ± {percent(order['drop_error'])}",
            f"{row['gbops']:.4f}", *(f"{percent(one, 1)}" for one in row["reductions"]),
            f"{row['mean_exit']:.2f}", f"{row['passes']:.0f}", f"{row['seconds']:.0f}",
            f"{row['training_seconds']:.0f}",
        )  # fmt: skip
    return table


def difference_table(rows: Sequence[dict[str, Any]], budgets: Sequence[float], ours: str) -> Table:
    table = Table(title=f"{ours} less the other, in points on order ± error", title_justify="left")
    table.add_column("other")
    for budget in budgets:
        table.add_column(f"{budget:.4g}", justify="right")
    for theirs in dict.fromkeys(row["theirs"] for row in rows if row["ours"] == ours):
        cells = {
            row["budget"]: f"{row['order']['points']:+.2f} ± {row['order']['error']:.2f}"
            for row in rows
            if (row["ours"], row["theirs"]) == (ours, theirs)
        }
        table.add_row(theirs, *(cells.get(budget, "-") for budget in budgets))
    return table


def draw(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Drop on order over cost, a line a method, with bands of one standard error."""
    figure = go.Figure()
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = sorted((row for row in rows if row["method"] == name), key=lambda row: row["gbops"])
        cost = [row["gbops"] for row in mine]
        lost = [-100 * row["order"]["drop"] for row in mine]
        band = [100 * row["order"]["drop_error"] for row in mine]
        figure.add_scatter(
            x=cost, y=lost, name=name, mode="lines+markers",
            error_y={"type": "data", "array": band, "thickness": 1},
        )  # fmt: skip
    figure.update_layout(
        title=title, xaxis={"title": "expected GBOPs", "type": "log"},
        yaxis={"title": "points against full precision, on order"}, template="plotly_white",
    )  # fmt: skip
    figure.write_html(path, include_plotlyjs=True, config={"displaylogo": False})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    parser.add_argument("--model", default="bundled:fashion", help="default %(default)s")
    parser.add_argument("--quantizer", default="gptq", help="default %(default)s")
    parser.add_argument("--data", type=Path, help="Fashion-MNIST's files, for what trains")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the training for all policies")
    parser.add_argument("--cache", type=Path, default=default_cache_folder() / "benchmarks")
    parser.add_argument("--draw", type=Path, metavar="FILE.html", help="all methods' fronts")
    args = parser.parse_args()
    results: Results = defaultdict(list)
    lowest: Results = defaultdict(list)
    tables: list[float] = []
    budgets: list[float] = []
    for seed in args.seeds[:1] if args.quick else args.seeds:
        bench = Bench(
            args.model, args.quantizer, seed, args.cache, args.data, 200 if args.quick else None
        )
        tables.append(bench.table_seconds)
        w8a8 = bench.ledger.full_depth_macs * 64 / GIGA
        budgets = [round(share * w8a8, 4) for share in (SHARES[2:3] if args.quick else SHARES)]
        methods: list[Method | dict[float, Method]] = [*untrained(bench, budgets, args.quick)]
        progress(f"seed {seed}: what trains nothing is done")
        if args.data is not None and not args.quick:
            plain = [method for method in methods if isinstance(method, Method)]
            methods += trained(
                bench, plain, [round(share * w8a8, 4) for share in TRAINED], args.steps
            )
        for method in methods:
            for budget in budgets:
                mine = method.get(budget) if isinstance(method, dict) else method
                policy = mine.under(budget) if mine else None
                if mine is not None and policy is not None:
                    results[mine.name, budget].append(judged(bench, mine, policy))
            if isinstance(method, Method):
                for drop in DROPS:
                    policy = method.cheapest(float(bench.full[0].mean()) - drop)
                    if policy is not None:
                        lowest[method.name, 100 * drop].append(judged(bench, method, policy))
    rows = sorted(
        (row_of(*key, found) for key, found in results.items()),
        key=lambda row: float(row["budget"]),
    )
    near = sorted(
        (row_of(*key, found) for key, found in lowest.items()), key=lambda row: float(row["budget"])
    )
    full = [float(one.mean()) for one in bench.full]
    gaps = differences(results, budgets)
    result = {
        "machine": machine(["torch", "timm", "scipy", "numpy"]),
        "model": args.model, "quantizer": args.quantizer, "seeds": args.seeds,
        "steps": args.steps, "budgets": budgets,
        "full_precision": dict(zip(SPLITS, full, strict=True)),
        "table_seconds": tables, "rows": rows, "lowest": near, "differences": gaps,
    }  # fmt: skip
    what = f"{args.model}, {args.quantizer}; full precision {percent(full[0])}% on search, "
    what += f"{percent(full[1])}% on order; tables of sensitivities in {np.mean(tables):.0f} s"
    drawn = [
        main_table(rows, f"under budgets of expected GBOPs: {what}", "budget"),
        main_table(
            near, "fewest GBOPs within so many points of full precision on search", "points"
        ),
        *(difference_table(gaps, budgets, ours) for ours in OURS),
    ]
    if args.draw:
        draw(args.draw, rows, what)
    show(result, [table for table in drawn if table.row_count], args.json, width=170)


if __name__ == "__main__":
    main()
