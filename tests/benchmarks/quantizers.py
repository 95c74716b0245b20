"""How much of its accuracy a model keeps under every quantizer, before any training.

All blocks at the same bits, no exits taken: the accuracy of the first and of the last exit, in
points lost against full precision at the same exit, with the paired standard error. Nothing is
selected here, so that the images of *search* and of *order* may be read together. Seconds are
those of choosing all scales and codes at one pair of widths, calibration being known.

    python tests/benchmarks/quantizers.py
    python tests/benchmarks/quantizers.py --model CHECKPOINT.safetensors
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import numpy as np
import torch
from common import machine, show
from rich.table import Table

from search.data.splits import Split
from search.loading import open_checkpoint
from search.models.bundled import BUNDLED
from search.policy import Bits
from search.quantize import QUANTIZERS
from search.quantized import QuantizedModel
from search.trace import ExitTrace

PAIRS = ((4, 4), (3, 3), (2, 3), (3, 2), (2, 2))  # bits of weights and activations


def correct(parts: list[ExitTrace]) -> np.ndarray:
    """Whether every exit is right on every image ``[N, E]``."""
    answers = np.concatenate([part.statistic for part in parts])
    return np.asarray(answers[..., 0] == answers[..., 1])


def lost(full: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Points lost on the same images, and the standard error of that."""
    off = 100 * (full.astype(float) - found)
    return {"lost": float(off.mean()), "error": float(off.std() / np.sqrt(len(off)))}


def seconds_of(quantized: QuantizedModel, bits: Bits) -> float:
    """How long it takes to choose everything, calibration being known."""
    widths, qparams = quantized.ledger.widths(bits), quantized.qparams
    started = time.perf_counter()
    for op in quantized.ledger.ops:
        path = op.name if op.name.startswith("heads.") else f"backbone.{op.name}"
        left, right = widths[op.name]  # of a layer: its inputs, its weights
        if op.kind == "matmul":
            qparams.activation(f"{path}:left", left)
            qparams.activation(f"{path}:right", right)
        else:
            qparams.weight(path, right, left)
    return time.perf_counter() - started


def measure(checkpoint: str, quantizer: str, splits: list[str], images: int | None) -> list[Any]:
    """One row a pair of widths."""
    opened = open_checkpoint(checkpoint, quantizer=quantizer)
    quantized = opened.quantized
    chosen: list[Split] = [opened.split(name) for name in splits]
    if images:
        chosen = [split.head(images) for split in chosen]
    full = correct([part for split in chosen for part in quantized.run_full_precision(split)])
    blocks, rows = quantized.model.adapter.num_blocks, []
    for weights, activations in PAIRS:
        bits = Bits("block", (weights,) * blocks, (activations,) * blocks)
        seconds = seconds_of(quantized, bits)
        found = correct([part for split in chosen for part in quantized.run(bits, split)])
        exits = {}
        for name, e in (("first", 0), ("last", -1)):
            accuracy = 100 * float(found[:, e].mean())
            exits[name] = {"accuracy": accuracy, **lost(full[:, e], found[:, e])}
        rows.append(
            {
                "checkpoint": checkpoint, "weights": weights, "activations": activations,
                "quantizer": quantizer, "exits": exits, "seconds": seconds,
                "full": [100 * float(full[:, e].mean()) for e in (0, -1)], "images": len(full),
            }
        )  # fmt: skip
        print(".", end="", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    parser.add_argument(
        "--model", action="append", metavar="CHECKPOINT",
        help="bundled:NAME or a safetensors file; may be given again (default all bundled)",
    )  # fmt: skip
    args = parser.parse_args()
    models = args.model or [f"bundled:{name}" for name in BUNDLED]
    if args.quick:
        models = models[:1]
    splits, images = (["search"], 300) if args.quick else (["search", "order"], None)
    rows = [
        row
        for model in models
        for name in sorted(QUANTIZERS)
        for row in measure(model, name, splits, images)
    ]
    print(file=sys.stderr)
    tables = []
    for model in models:
        own = [row for row in rows if row["checkpoint"] == model]
        first, last = own[0]["full"]
        table = Table(
            title=f"{model}: accuracy in percent on {own[0]['images']} images "
            f"({' and '.join(splits)}), points lost; full "
            f"precision {first:.2f} at the first exit, {last:.2f} at the last"
        )
        for heading in ("bits", "quantizer", "first exit", "lost", "last exit", "lost", "s to fit"):
            table.add_column(heading, justify="left" if heading == "quantizer" else "right")
        for pair in PAIRS:
            for row in own:
                if (row["weights"], row["activations"]) == pair:
                    table.add_row(
                        "W{}A{}".format(*pair), row["quantizer"],
                        *(
                            cell
                            for one in row["exits"].values()
                            for cell in (
                                f"{one['accuracy']:.2f}", f"{one['lost']:.2f} ± {one['error']:.2f}"
                            )
                        ),
                        f"{row['seconds']:.2f}",
                    )  # fmt: skip
            table.add_section()
        tables.append(table)
    result = {"machine": {**machine(["torch"]), "threads": str(torch.get_num_threads())}}
    show({**result, "rows": rows}, tables, args.json)


if __name__ == "__main__":
    main()
