"""APQ and MAQEE against their baselines and ablations, on the bundled benchmark.

Every policy is chosen on the search split and measured on it and on the order split, which chose
nothing. A seed draws the calibration images (512 of 1,024) and, with ``--data``, the order of the
training images in recovery. Traces, tables and recovered models are kept in the cache folder, so
an interrupted run goes on where it stopped.

    python tests/benchmarks/methods.py --data /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, show
from rich.table import Table

from search.bits.allocation import AllocationProblem, Usage
from search.caching import default_cache_folder
from search.data import fashion
from search.data.fashion import FashionDataset
from search.data.idx import read_idx_pair
from search.disk_cache import DiskTableCache, DiskTraceCache
from search.errors import NoPolicyFound
from search.evaluate import Evaluator
from search.methods.baselines import BaselineSet, trained_baselines
from search.methods.maqee import Maqee
from search.methods.outer import OuterProblem, TraceSource
from search.methods.settings import MaqeeSettings
from search.models.bundled import checkpoint_path
from search.models.checkpoint import load_checkpoint
from search.policy import Bits, Policy
from search.quantized import QuantizedModel
from search.results import GIGA
from search.risk.terms import measure_risk
from search.sensitivity import SensitivityMeter, check_additivity
from search.space import PolicySpace
from search.trace import ExitTrace
from search.training.data import ArrayData
from search.training.loop import TrainingData
from search.training.recovery import RecoveredTraces, RecoverRecipe
from studies.methods.recovery import Recovery

BUDGETS = (0.085, 0.1, 0.12, 0.15, 0.2)
DROPS = (0.005, 0.01)


@dataclass
class Counting:
    """A source of traces that counts the passes that a method would cost on its own.

    Attributes:
        inner: where traces come from.
        seen: sets of bits that were asked for.
    """

    inner: TraceSource
    seen: set[Bits] = field(default_factory=set)

    @property
    def ledger(self) -> Any:
        return self.inner.ledger

    @property
    def task(self) -> Any:
        return self.inner.task

    def trace(self, bits: Bits) -> ExitTrace:
        self.seen.add(bits)
        return self.inner.trace(bits)

    def full_precision_trace(self) -> ExitTrace:
        return self.inner.full_precision_trace()


@dataclass(frozen=True)
class Found:
    """What a method gave at a budget under one seed."""

    value: float
    held_out: float
    gbops: float
    mean_exit: float
    same_bits_reduction: float
    boundary: float
    rescue: float
    harm: float
    passes: int
    seconds: float
    training_seconds: float
    right: tuple[np.ndarray, np.ndarray]  # 0 or 1 for every image of the two splits


Results = dict[tuple[str, float], list[Found]]


class Seed:
    """Everything that depends on one calibration draw."""

    def __init__(
        self, seed: int, cache: Path, data: Path | None, settings: MaqeeSettings, steps: int
    ) -> None:
        self.seed, self.cache, self.settings, self.steps = seed, cache, settings, steps
        model, card = load_checkpoint(checkpoint_path("bundled:fashion"))
        dataset = FashionDataset()
        pool = dataset.split("calibration")
        draw = np.random.default_rng(seed).permutation(len(pool))[:512]
        traces = DiskTraceCache(cache)
        quantized = QuantizedModel(model, card, pool.take(draw))
        self.search = Evaluator(quantized, dataset.split("search"), traces)
        self.held_out = dataclasses.replace(self.search, split=dataset.split("order"))
        self.space = PolicySpace.from_ledger(self.search.ledger, "block", threshold_low=0.3)
        self.meter = SensitivityMeter(quantized, "block", DiskTableCache(cache))
        started = time.monotonic()
        self.tables = self.meter.tables()
        self.table_seconds = time.monotonic() - started
        self.training: TrainingData | None = None
        if data is not None:
            images, labels = read_idx_pair(data, "train")
            self.training = ArrayData(images[..., None], labels, fashion.MEAN, fashion.STD)

    def outer(self, traces: TraceSource, settings: MaqeeSettings) -> OuterProblem:
        return OuterProblem(traces, self.space, settings)

    def judged(
        self,
        policy: Policy,
        passes: int,
        seconds: float,
        pair: tuple[Evaluator, Evaluator] | None = None,
        training_seconds: float = 0.0,
    ) -> Found:
        search, held_out = pair or (self.search, self.held_out)
        here = search.evaluate(policy)
        there = held_out.evaluate(policy)
        risk = measure_risk(
            search.trace(policy.bits),
            self.search.full_precision_trace(),
            policy.thresholds,
            search.task,
        )
        return Found(
            value=here.value,
            held_out=there.value,
            gbops=here.gbops,
            mean_exit=here.mean_exit,
            same_bits_reduction=1 - here.cost.expected / here.references.same_bits,
            boundary=risk.boundary,
            rescue=risk.rescue,
            harm=risk.harm,
            passes=passes,
            seconds=seconds,
            training_seconds=training_seconds,
            right=(right_of(search, policy), right_of(held_out, policy)),
        )

    def recovered(
        self, bits: Bits, rates: tuple[float, ...]
    ) -> tuple[tuple[Evaluator, Evaluator], float]:
        """Evaluators of the recovered model on both splits, and the seconds of its training."""
        assert self.training is not None
        recovery = Recovery(
            self.search,
            self.training,
            RecoverRecipe(steps=self.steps, seed=self.seed, compile=True),
        )
        path = self.cache / "recovered" / f"{recovery.key(bits, rates)}.safetensors"
        timing = path.with_suffix(".seconds")  # kept apart: a card says nothing of other work
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        is_new = not path.exists()
        made = recovery.make(bits, rates, path)
        if is_new:
            timing.write_text(str(time.monotonic() - started))
        held_out = dataclasses.replace(made.evaluator, split=self.held_out.split)
        seconds = float(timing.read_text()) if timing.exists() else float("nan")
        return (made.evaluator, held_out), seconds


def right_of(evaluator: Evaluator, policy: Policy) -> np.ndarray:
    """What the policy makes of every image: 1 where it is right."""
    routing = evaluator.trace(policy.bits).replay(policy.thresholds)
    right: np.ndarray = 1 - evaluator.task.loss(routing.statistic)
    return right


def under_budget(
    outer: OuterProblem, sets: Sequence[Bits], budget: float
) -> tuple[Policy, int] | None:
    """The thresholds of least risk within the budget over several sets of bits, a pass each."""
    found = [one for bits in sets if (one := outer.under(bits, budget * GIGA)) is not None]
    return (min(found, key=lambda one: one[1])[0], len(sets)) if found else None


def with_exits(seed: Seed, budgets: Sequence[float], results: Results) -> None:
    """Uniform and static bits with harvested exits."""
    outer = seed.outer(seed.search, seed.settings)
    groups: dict[str, list[Bits]] = defaultdict(list)
    for name, bits in BaselineSet(outer, seed.tables).named_bits():
        if name != "full precision":
            groups[name].append(bits)
    for name, sets in groups.items():
        for budget in budgets:
            started = time.monotonic()
            found = under_budget(outer, sets, budget)
            if found is not None:
                took = time.monotonic() - started
                results[f"{name}+exits", budget].append(seed.judged(*found, took))


def with_recovery(
    seed: Seed, budgets: Sequence[float], policies: dict[float, Policy], results: Results
) -> None:
    """Uniform bits trained for themselves, and MAQEE's policies recovered."""
    for name, bits, rates in trained_baselines(seed.space):
        pair, took = seed.recovered(bits, rates)
        outer = seed.outer(RecoveredTraces(pair[0], seed.search), seed.settings)
        for budget in budgets:
            found = under_budget(outer, [bits], budget)
            if found is not None:
                results[name, budget].append(seed.judged(*found, 0.0, pair, took))
        progress(f"seed {seed.seed}: {name} trained")
    for budget, policy in policies.items():
        rates = seed.search.evaluate(policy).exit_rates
        pair, took = seed.recovered(policy.bits, rates)
        outer = seed.outer(RecoveredTraces(pair[0], seed.search), seed.settings)
        found = under_budget(outer, [policy.bits], budget)
        if found is not None:
            results["MAQEE+recovery", budget].append(seed.judged(*found, 0.0, pair, took))
        progress(f"seed {seed.seed}: MAQEE recovered at {budget} GBOPs")


def run_maqee(
    seed: Seed, settings: MaqeeSettings, space: PolicySpace, budget: float
) -> tuple[Policy, int, float]:
    counting = Counting(seed.search)
    started = time.monotonic()
    result = Maqee(OuterProblem(counting, space, settings), seed.tables).search(budget * GIGA)
    return result.policy, len(counting.seen), time.monotonic() - started


def ablations(seed: Seed) -> dict[str, tuple[MaqeeSettings, PolicySpace]]:
    """MAQEE whole, and with one thing taken out."""
    base, space = seed.settings, seed.space
    narrow = dataclasses.replace(space, weight_choices=(3, 4, 5), activation_choices=(3, 4, 5))
    change = dataclasses.replace
    return {
        "MAQEE": (base, space),
        "MAQEE, alpha=0": (change(base, alpha=0.0), space),
        "MAQEE, beta=0": (change(base, beta=0.0), space),
        "MAQEE, u=1": (change(base, amortized=False), space),
        "MAQEE, one threshold": (change(base, one_threshold=True), space),
        "MAQEE, bits 3..5": (base, narrow),
    }


def progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def own_cost(seed: Seed, results: Results) -> None:
    """Methods at full depth, at the cost that they happen to have."""
    outer = seed.outer(seed.search, seed.settings)
    named = BaselineSet(outer, seed.tables).named_bits()
    for index, (name, bits) in enumerate(named):
        label = f"static, allocation {index}" if name == "static" else name
        results[label, 0.0].append(seed.judged(seed.space.policy(bits, 1.0), 1, 0.0))
    full = named[0][1]
    found = outer.harvest(full)
    best = found.policy(full, int(np.argmin(found.shortfall)))
    results["full precision+exits", 0.0].append(seed.judged(best, 1, 0.0))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def summarize(
    results: Results, seeds: int, ablation_seeds: int, references: tuple[float, float]
) -> list[dict[str, Any]]:
    rows = []
    for (method, budget), found in results.items():
        if len(found) < (ablation_seeds if "," in method and budget else seeds):
            continue  # not feasible under every seed
        row: dict[str, Any] = {"method": method, "budget": budget or None, "seeds": len(found)}
        for name in Found.__dataclass_fields__.keys() - {"right"}:
            row[name], row[f"{name}_sd"] = mean_sd([getattr(one, name) for one in found])
        row["reduction_w32a32"] = 1 - row["gbops"] / references[0]
        row["reduction_w8a8"] = 1 - row["gbops"] / references[1]
        rows.append(row)
    return rows


def differences(results: Results, budgets: Sequence[float], seeds: int) -> list[dict[str, Any]]:
    """Paired differences per budget, in points, with their standard error over seeds.

    All seeds see the same images, so the error from drawing those is given apart: the standard
    error of the mean over images of the difference, averaged over seeds.
    """
    rows = []
    for ours, theirs in (
        ("MAQEE", "static+exits"),
        ("MAQEE+recovery", "MAQEE"),
    ):
        for budget in budgets:
            a, b = results.get((ours, budget), []), results.get((theirs, budget), [])
            if len(a) < seeds or len(b) < seeds:
                continue
            row: dict[str, Any] = {"difference": f"{ours} - {theirs}", "budget": budget}
            for index, split in enumerate(("value", "held_out")):
                each = [
                    100 * (getattr(x, split) - getattr(y, split)) for x, y in zip(a, b, strict=True)
                ]
                mean, sd = mean_sd(each)
                row[split], row[f"{split}_se"] = mean, sd / len(each) ** 0.5
                by_image = np.mean(
                    [x.right[index] - y.right[index] for x, y in zip(a, b, strict=True)], axis=0
                )
                row[f"{split}_images_se"] = float(100 * by_image.std(ddof=1) / len(by_image) ** 0.5)
            rows.append(row)
    return rows


def headline(rows: list[dict[str, Any]], full: float, full_held_out: float) -> list[dict[str, Any]]:
    """Fewest GBOPs within each drop of full precision, without and with recovery."""
    found = []
    for recovered in (False, True):
        for drop in DROPS:
            for split, reference in (("value", full), ("held_out", full_held_out)):
                allowed = [
                    row
                    for row in rows
                    if row["method"] == ("MAQEE+recovery" if recovered else "MAQEE")
                    and row[split] >= reference - drop
                ]
                if allowed:
                    best = min(allowed, key=lambda row: float(row["gbops"]))
                    found.append({"drop": drop, "split": split, **best})
    return found


def tables_of(result: dict[str, Any]) -> list[Table]:
    def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        drawn = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            drawn.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            drawn.add_row(*row)
        return drawn

    def pair(row: dict[str, Any], name: str, places: int, scale: float = 1.0) -> str:
        return f"{scale * row[name]:.{places}f}±{scale * row[f'{name}_sd']:.{places}f}"

    columns = (
        "method", "n", "search %", "held out %", "GBOPs", "<32x32", "<W8A8", "<same", "exit",
        "flips", "passes", "s", "train s",
    )  # fmt: skip
    drawn = []
    for budget in [None, *result["budgets"]]:
        rows = [
            (
                row["method"], str(row["seeds"]),
                pair(row, "value", 2, 100), pair(row, "held_out", 2, 100), pair(row, "gbops", 4),
                f"{row['reduction_w32a32']:.2%}",
                f"{row['reduction_w8a8']:.1%}", f"{row['same_bits_reduction']:.1%}",
                f"{row['mean_exit']:.2f}", f"{row['boundary']:.3f}", f"{row['passes']:.0f}",
                f"{row['seconds']:.0f}", f"{row['training_seconds']:.0f}",
            )
            for row in result["rows"]
            if row["budget"] == budget
        ]  # fmt: skip
        title = "at full depth, at their own cost" if budget is None else f"{budget} GBOPs"
        drawn.append(table(title, columns, rows))
    drawn.append(
        table(
            "paired differences in points: mean±standard error over seeds, ±that of the images",
            ("difference", "budget", "search", "held out"),
            [
                (
                    row["difference"],
                    f"{row['budget']}",
                    *(
                        f"{row[split]:+.2f}±{row[f'{split}_se']:.2f}"
                        f"±{row[f'{split}_images_se']:.2f}"
                        for split in ("value", "held_out")
                    ),
                )
                for row in result["differences"]
            ],
        )
    )
    drawn.append(
        table(
            f"fewest GBOPs near full precision ({100 * result['full_precision']['search']:.2f}% "
            f"search, {100 * result['full_precision']['held_out']:.2f}% held out)",
            ("method", "within", "on", "%", "GBOPs", "<32x32", "<W8A8", "<same bits"),
            [
                (
                    row["method"],
                    f"{100 * row['drop']:.1f} points",
                    "search" if row["split"] == "value" else "held out",
                    f"{100 * row[row['split']]:.2f}",
                    f"{row['gbops']:.4f}",
                    f"{row['reduction_w32a32']:.2%}",
                    f"{row['reduction_w8a8']:.2%}",
                    f"{row['same_bits_reduction']:.2%}",
                )
                for row in result["headline"]
            ],
        )
    )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, no ablations")
    parser.add_argument("--data", type=Path, help="Fashion-MNIST's files, for recovery")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--ablation-seeds", type=int, nargs="*", help="seeds of the ablations (default: all)"
    )
    parser.add_argument("--starts", type=int, default=MaqeeSettings().starts)
    parser.add_argument("--recovery-steps", type=int, default=RecoverRecipe().steps)
    parser.add_argument("--cache", type=Path, default=default_cache_folder())
    args = parser.parse_args()
    budgets = (0.15,) if args.quick else BUDGETS
    seeds = args.seeds[:1] if args.quick else args.seeds
    ablated = seeds if args.ablation_seeds is None else args.ablation_seeds
    settings = MaqeeSettings(starts=2 if args.quick else args.starts)
    results: Results = defaultdict(list)
    additivity: list[Any] = []
    full = held_out = w32 = w8 = 0.0
    for number in seeds:
        seed = Seed(number, args.cache, args.data, settings, args.recovery_steps)
        progress(f"seed {number}: tables in {seed.table_seconds:.0f} s")
        evaluation = seed.search.evaluate(seed.space.uniform(8, 1.0))
        w32, w8 = evaluation.references.w32a32 / GIGA, evaluation.references.w8a8 / GIGA
        full = seed.search.task.score(seed.search.full_precision_trace().statistic[:, -1]).value
        held_out = seed.held_out.task.score(
            seed.held_out.full_precision_trace().statistic[:, -1]
        ).value
        problem = AllocationProblem(
            seed.space, seed.search.ledger, seed.tables, Usage.full_depth(seed.search.ledger)
        )
        if not args.quick:
            additivity.append(dataclasses.asdict(check_additivity(seed.meter, problem)))
            own_cost(seed, results)
        with_exits(seed, budgets, results)
        progress(f"seed {number}: baselines done")
        policies: dict[float, Policy] = {}
        for name, (changed, space) in ablations(seed).items():
            if name != "MAQEE" and (args.quick or number not in ablated):
                continue
            for budget in budgets:
                try:
                    policy, passes, took = run_maqee(seed, changed, space, budget)
                except NoPolicyFound:
                    continue
                results[name, budget].append(seed.judged(policy, passes, took))
                if name == "MAQEE":
                    policies[budget] = policy
            progress(f"seed {number}: {name} done")
        if args.data is not None and not args.quick:
            with_recovery(seed, budgets, policies, results)
    rows = summarize(results, len(seeds), len(ablated), (w32, w8))
    result = {
        "machine": machine(["torch", "timm", "scipy", "numpy"]),
        "seeds": seeds,
        "ablation_seeds": ablated,
        "settings": settings.as_dict(),
        "recovery_steps": args.recovery_steps,
        "budgets": list(budgets),
        "full_precision": {"search": full, "held_out": held_out},
        "references_gbops": {"w32a32": w32, "w8a8": w8},
        "additivity": additivity,
        "rows": rows,
        "differences": differences(results, budgets, len(seeds)),
        "headline": headline(rows, full, held_out),
    }
    show(result, tables_of(result), args.json, width=150)
    if not args.json:
        for found in additivity:
            print(
                f"additive tables against {found['policies']} random policies: rank correlation "
                f"{found['noise']:.3f} (noise), {found['drift']:.3f} (drift)"
            )


if __name__ == "__main__":
    main()
