"""How long a study takes by workers without options, alone on two cores and among busy programs.

The bundled model on the fast engine, 24 passes, SQLite; seconds from the start of the workers, by
hand, to the end of the last one. Kernels, calibration and the full-precision reference are there
before. Where the machine has more cores, everything runs on two of them.

    python tests/benchmarks/shared_cores.py
    python tests/benchmarks/shared_cores.py --tree ANOTHER_CHECKOUT

One anchor, so that trials are passes whatever a checkout's default anchors are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from common import machine, show, spread
from rich.table import Table
from running import ROOT, command_env, command_line

STUDY = """
name = "{name}"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
[sampler]
name = "random"
[trial]
racing = 0
[anchors]
bits = [4]
thresholds = [1.0]
[budget]
trials = {trials}
"""
CORES = 2
# What a person may have said of threads is said to nobody here.
UNSAID = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "KMP_BLOCKTIME",
    "GOMP_SPINCOUNT",
)


def command(folder: Path, tree: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a command of one checkout; its store and its cache lie in ``folder``."""
    kept = {name: value for name, value in command_env().items() if name not in UNSAID}
    return subprocess.Popen(
        command_line(words), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**kept, "PYTHONPATH": str(tree), "EXITBITS_CACHE": str(folder / "cache")},
    )  # fmt: skip


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that compute, until they are ended or this one is no more."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(10**6): pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()


def submit(folder: Path, tree: Path, name: str, trials: int) -> None:
    file = folder / f"{name}.toml"
    file.write_text(STUDY.format(name=name, trials=trials))
    if command(folder, tree, "submit", file.name).wait():
        raise SystemExit("the study cannot be submitted: try 'exitbits submit' by hand")


def serve(folder: Path, tree: Path, name: str, workers: int) -> float:
    """Seconds until so many workers have ended, all of the study being done."""
    started = time.perf_counter()
    words = ("worker", "--until-done", "--study", name)
    running = [command(folder, tree, *words) for _ in range(workers)]
    codes = [worker.wait() for worker in running]
    if any(codes):
        raise SystemExit(f"workers ended with {codes}: try 'exitbits worker' by hand")
    return time.perf_counter() - started


def prepare(folder: Path, tree: Path, passes: int) -> None:
    """A store with the study, and a cache with all but its passes."""
    submit(folder, tree, "shared", passes)
    reference = set((folder / "cache" / "traces").rglob("*.npz"))
    submit(folder, tree, "before", 1)
    serve(folder, tree, "before", 1)
    for trace in set((folder / "cache" / "traces").rglob("*.npz")) - reference:
        trace.unlink()


def measure(prepared: Path, tree: Path, workers: int, others: int) -> float:
    """Seconds of the study, of which nothing is known before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(prepared, Path(name) / "study"))
        with busy(others):
            return serve(folder, tree, "shared", workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    parser.add_argument("--passes", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout that is measured")
    args = parser.parse_args()
    passes, repeats = (3, 1) if args.quick else (args.passes, args.repeats)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    rows: list[dict[str, Any]] = []
    tree = args.tree.resolve()
    with tempfile.TemporaryDirectory() as prepared:
        prepare(Path(prepared), tree, passes)
        for others, workers in [(2, 1)] if args.quick else product((0, 8), (1, 2)):
            seconds = [measure(Path(prepared), tree, workers, others) for _ in range(repeats)]
            rows.append({"workers": workers, "busy": others, "seconds": spread(seconds)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {"machine": machine(["torch"]), "tree": str(tree), "passes": passes, "rows": rows}
    table = Table(title=f"a study of {passes} passes on {CORES} cores, workers without options")
    for heading in ("busy programs", "workers", "median s", "min", "max", "s a pass"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = row["seconds"]
        table.add_row(
            str(row["busy"]), str(row["workers"]),
            *(f"{times[key]:.1f}" for key in ("median", "min", "max")),
            f"{times['median'] / passes:.2f}",
        )  # fmt: skip
    show(result, [table], args.json)


if __name__ == "__main__":
    main()
