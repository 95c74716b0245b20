"""What one pass over the images costs: full precision, eager and compiled, and both engines.

Every row is a process of its own, one after the other. Start-up is everything from the loaded model
to the end of the first pass: calibration, ranges, kernels compiled into an empty folder, traced
graphs. Then an engine chooses the ranges of all widths, once in its life. After that every pass has
other bits, drawn from 2 to 8 for every operation (``set_bits`` is part of the pass). Memory is the
process's peak beyond what the loaded model and images take. Agreement compares both engines on the
bundled model's search split at uniform bits.

    python tests/benchmarks/engine.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from common import machine, show, spread
from rich.table import Table

MODELS = {
    "fashion": "bundled ViT, 6 blocks of 96, 28 px",
    "deit": "DeiT-Tiny, 12 blocks of 192, 224 px",
}
KINDS = {
    "eager": "full precision, eager",
    "compiled": "full precision, compiled",
    "reference": "reference engine",
    "fast": "fast engine",
}
DEIT_IMAGES = 128


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(model_name: str, quick: bool) -> tuple[Any, list[Any], list[Any], tuple[int, int, int]]:
    """The model, its images in batches, its calibration images, and the shape of one."""
    import torch
    from bundled_model import open_bundled

    from search.data.batches import normalized_batches

    if model_name == "fashion":
        evaluator = open_bundled(512)
        split = evaluator.split.head(500) if quick else evaluator.split
        spec = evaluator.card.input
        batches = list(normalized_batches(split, spec))
        return (
            evaluator.quantized.model,
            batches,
            list(normalized_batches(evaluator.quantized.calibration, spec)),
            spec.size,
        )
    import timm

    from search.models.early_exit import EarlyExitModel

    torch.manual_seed(0)
    backbone = timm.create_model("deit_tiny_patch16_224")
    model = EarlyExitModel(backbone, (3, 6, 9, 12), "linear", 1000).eval().requires_grad_(False)
    images = torch.randn(32 if quick else DEIT_IMAGES, 3, 224, 224)
    return model, list(images.split(32)), [images[:32]], (3, 224, 224)


def measure(model_name: str, kind: str, passes: int, quick: bool) -> dict[str, Any]:
    """One row, in this process."""
    import torch

    from search.engines.base import resolve_engine
    from search.models.early_exit import all_exits
    from search.quantize.calibration import calibrate
    from search.quantize.qparams import ModelQParams
    from search.quantize.ranges import resolve_quantizer

    model, batches, calibration, shape = load(model_name, quick)
    ops = [op.name for op in model.ledger(shape).ops]
    rng = np.random.default_rng(0)
    before, started = peak_bytes(), time.perf_counter()
    change: Callable[[], None] = lambda: None  # noqa: E731
    run: Callable[[Any], Any] = model
    if kind == "compiled":
        run = torch.compile(model)
    elif kind != "eager":
        chosen = resolve_engine(kind)
        assert chosen.name == kind, "the fast engine cannot be built here"
        seen = calibrate(model, lambda: iter(calibration))
        engine = chosen(model, ModelQParams(model, seen, resolve_quantizer("mse")))
        run = partial(all_exits, engine.run)

        def change() -> None:
            widths = rng.integers(2, 9, (len(ops), 2)).tolist()
            engine.set_bits({name: tuple(pair) for name, pair in zip(ops, widths, strict=True)})

    def once() -> float:
        begun = time.perf_counter()
        change()
        with torch.inference_mode():
            for images in batches:
                run(images)
        return time.perf_counter() - begun

    once()
    startup = time.perf_counter() - started
    started = time.perf_counter()
    if kind in ("reference", "fast"):
        for bits in range(2, 9):
            engine.set_bits(dict.fromkeys(ops, (bits, bits)))
            run(batches[0][:1])
    widths_s = time.perf_counter() - started
    once()
    seconds = [once() for _ in range(passes)]
    return {
        "model": model_name,
        "kind": kind,
        "images": sum(len(images) for images in batches),
        "startup_s": startup,
        "widths_s": widths_s,
        "seconds": spread(seconds),
        "peak_mib": (peak_bytes() - before) / 2**20,
        "threads": torch.get_num_threads(),
    }


def agreement(quick: bool) -> list[dict[str, Any]]:
    """How both engines differ, a bit-width at a time."""
    from bundled_model import open_bundled

    from search.space import PolicySpace

    evaluators = {}
    for name in ("reference", "fast"):
        evaluators[name] = open_bundled(512)
        evaluators[name].quantized.engine_name = name
        if quick:
            evaluators[name].split = evaluators[name].split.head(500)
    ledger = evaluators["fast"].ledger
    rows = []
    for bits in range(2, 9):
        policy = PolicySpace.from_ledger(ledger, "block").uniform(bits, 0.9)
        one, other = (evaluators[name].trace(policy.bits) for name in ("reference", "fast"))
        found = [evaluators["fast"].task.score(trace.replay(policy.thresholds).statistic)
                 for trace in (one, other)]  # fmt: skip
        exits = [trace.replay(policy.thresholds).exits for trace in (one, other)]
        rows.append(
            {
                "bits": bits,
                "confidence_mean": float(np.abs(one.confidence - other.confidence).mean()),
                "confidence_max": float(np.abs(one.confidence - other.confidence).max()),
                "predictions_equal": float((one.statistic == other.statistic).all(-1).mean()),
                "exits_equal": float((exits[0] == exits[1]).mean()),
                "accuracy": [score.value for score in found],
                "standard_error": found[0].standard_error,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few images, no compiled row")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    passes = 2 if args.quick else args.passes
    if args.row:
        print(json.dumps(measure(*args.row, passes, args.quick)))
        return
    rows = []
    for model_name in MODELS:
        for kind in KINDS:
            if args.quick and kind == "compiled":
                continue
            command = [sys.executable, __file__, "--passes", str(passes), "--row", model_name, kind]
            with tempfile.TemporaryDirectory() as empty:
                fresh = {"EXITBITS_CACHE": empty, "TORCHINDUCTOR_CACHE_DIR": f"{empty}/inductor"}
                done = subprocess.run(
                    [*command, *(["--quick"] if args.quick else [])],
                    check=True, stdout=subprocess.PIPE, env={**os.environ, **fresh},
                )  # fmt: skip
            rows.append(json.loads(done.stdout))
            print(rows[-1], file=sys.stderr, flush=True)
    agreeing = agreement(args.quick)
    result = {"machine": machine(["torch", "timm"]), "rows": rows, "agreement": agreeing}
    costs = Table(title="one pass over the images, every exit")
    for heading in ("model", "images", "what", "median s", "min", "max", "of eager", "start-up s",
                    "all widths s", "peak MiB"):  # fmt: skip
        costs.add_column(heading, justify="left" if heading in ("model", "what") else "right")
    for row in rows:
        eager = next(one for one in rows if one["model"] == row["model"])
        seconds = row["seconds"]
        costs.add_row(
            MODELS[row["model"]], str(row["images"]), KINDS[row["kind"]],
            *(f"{seconds[key]:.3f}" for key in ("median", "min", "max")),
            f"{seconds['median'] / eager['seconds']['median']:.2f}",
            f"{row['startup_s']:.1f}", f"{row['widths_s']:.1f}", f"{row['peak_mib']:.0f}",
        )  # fmt: skip
    equal = Table(title="fast against reference, uniform bits in all blocks, thresholds 0.9")
    for heading in ("bits", "mean |confidence|", "max", "predictions equal", "exits equal",
                    "accuracy, reference", "fast", "standard error"):  # fmt: skip
        equal.add_column(heading, justify="right")
    for row in agreeing:
        equal.add_row(
            str(row["bits"]), f"{row['confidence_mean']:.1e}", f"{row['confidence_max']:.1e}",
            f"{row['predictions_equal']:.2%}", f"{row['exits_equal']:.2%}",
            *(f"{value:.4f}" for value in row["accuracy"]), f"{row['standard_error']:.4f}",
        )  # fmt: skip
    show(result, [costs, equal], args.json, width=150)


if __name__ == "__main__":
    main()
