"""Does it pay to weigh a layer's damage by how often the layer is used? Under which budget?

MAQEE twice, with the utilization of every block and as if all were used by all, everything else
alike: the same traces, thresholds, starts and passes. Beside a bound on the expected cost, which
makes samples leave early, one more cost is bounded: at worst, at the 95th percentile, or the
memory of the weights; at three values each, and by the expected cost alone for comparison.

Policies are chosen on *search*; figures are of *order*, which chose nothing. A seed draws the
calibration images. The error is that of the mean over images of the paired difference, averaged
over seeds, which all see the same images.

    python tests/benchmarks/utilization.py --model CHECKPOINT.safetensors
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import numpy as np
from common import machine, show
from comparing import Bench, right_of
from rich.table import Table

from search.bits.allocation import Usage
from search.caching import default_cache_folder
from search.cost import GIGA, NO_BOUNDS, Budget, Measure, in_words
from search.errors import NoPolicyFound
from search.methods.maqee import Maqee
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.models.bundled import BUNDLED
from search.policy import Policy

EXPECTED = 0.35  # of the way from the cheapest policy's expected cost to W4A4's at full depth
SHARES = (0.2, 0.35, 0.5)  # of the way from the narrowest bits' cost to the widest bits'
MEASURES: tuple[Measure, ...] = ("worst", "p95", "memory")


class Seed:
    """One draw of calibration images, and what bounds are there."""

    def __init__(
        self, checkpoint: str, quantizer: str, seed: int, cache: Path, images: int | None
    ) -> None:
        self.bench = Bench(checkpoint, quantizer, seed, cache, None, images)
        ledger, space = self.bench.ledger, self.bench.space
        narrow, wide = space.narrowest().bits, space.widest().bits
        cheapest = ledger.path_bops(narrow)[0]
        full = ledger.path_bops(space.uniform(4, 1.0).bits)[-1]
        self.expected = float(cheapest + EXPECTED * (full - cheapest))
        depth = float(ledger.path_bops(narrow)[-1]), float(ledger.path_bops(wide)[-1])
        memory = float(ledger.memory(narrow) or 0), float(ledger.memory(wide) or 0)
        self.ends = {"worst": depth, "p95": depth, "memory": memory}

    def bound(self, measure: Measure, share: float) -> Budget:
        low, high = self.ends[measure]
        return Budget(**{measure: low + share * (high - low)})

    def found(self, within: Budget, amortized: bool) -> Policy | None:
        bench = self.bench
        outer = OuterProblem(bench.search, bench.space, MaqeeSettings(amortized=amortized))
        try:
            return Maqee(outer, bench.tables, within).search(self.expected).policy
        except NoPolicyFound:
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    parser.add_argument("--model", default=f"bundled:{BUNDLED[-1]}", help="default %(default)s")
    parser.add_argument("--quantizer", default="gptq", help="default %(default)s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=default_cache_folder() / "benchmarks")
    args = parser.parse_args()
    seeds = [
        Seed(args.model, args.quantizer, seed, args.cache, 200 if args.quick else None)
        for seed in range(1 if args.quick else args.seeds)
    ]
    wanted: list[tuple[Measure | None, float]] = [(None, 0.0)]
    wanted += [(one, share) for one in MEASURES for share in (SHARES[:1] if args.quick else SHARES)]
    rows: list[dict[str, Any]] = []
    for measure, share in wanted:
        started, pairs = time.monotonic(), []
        for seed in seeds:
            within = NO_BOUNDS if measure is None else seed.bound(measure, share)
            pairs.append([seed.found(within, amortized) for amortized in (True, False)])
        whole = [(seed, *pair) for seed, pair in zip(seeds, pairs, strict=True) if None not in pair]
        row: dict[str, Any] = {
            "measure": measure or "expected",
            "bound": in_words("expected", seeds[0].expected)
            if measure is None
            else in_words(measure, next(iter(within.bounds().values()))),
            "seeds": len(whole),
            "same bits": sum(used.bits == even.bits for _, used, even in whole),
            "seconds": time.monotonic() - started,
        }
        for split in ("search", "order"):
            if not whole:
                continue
            each = [
                [right_of(getattr(seed.bench, split), policy) for policy in (used, even)]
                for seed, used, even in whole
            ]
            gain = np.mean([used - even for used, even in each], axis=0)
            row[split] = {
                "used": 100 * float(np.mean([used.mean() for used, _ in each])),
                "even": 100 * float(np.mean([even.mean() for _, even in each])),
                "gain": 100 * float(gain.mean()),
                "error": 100 * float(gain.std(ddof=1) / np.sqrt(len(gain))),
            }
        if whole:
            usage = [
                Usage.of(seed.bench.search.trace(used.bits).replay(used.thresholds))
                for seed, used, _ in whole
            ]
            row["utilization of the last block"] = float(
                np.mean([one.utilization[-1] for one in usage])
            )
        rows.append(row)
        print(f"{row['measure']} {row['bound']}: {row['seconds']:.0f} s", file=sys.stderr)
    table = Table(
        title=f"{args.model}, {args.quantizer}: bits by use against bits as if all were used, at "
        f"{seeds[0].expected / GIGA:.4f} expected GBOPs and one more bound; percent"
    )
    for heading in ("bound", "seeds", "same bits", "last used", "search", "order", "gain on order"):
        table.add_column(heading, justify="left" if heading == "bound" else "right")
    for row in rows:
        if "order" not in row:
            table.add_row(row["bound"], "0", *["-"] * 5)
            continue
        search, order = row["search"], row["order"]
        table.add_row(
            row["bound"], str(row["seeds"]), str(row["same bits"]),
            f"{row['utilization of the last block']:.2f}",
            f"{search['used']:.2f} / {search['even']:.2f}",
            f"{order['used']:.2f} / {order['even']:.2f}",
            f"{order['gain']:+.2f} ± {order['error']:.2f}",
        )  # fmt: skip
    result = {"machine": machine(["torch", "scipy"]), "model": args.model, "rows": rows}
    show(result, [table], args.json)


if __name__ == "__main__":
    main()
