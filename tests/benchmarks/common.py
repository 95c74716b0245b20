"""What every benchmark prints: the machine, the versions, medians with their spread, or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table


def parse(description: str) -> argparse.Namespace:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    return parser.parse_args()


def machine(packages: Sequence[str]) -> dict[str, str]:
    """Processor, cores and versions."""
    with open("/proc/cpuinfo") as file:  # noqa: PTH123 - a kernel file
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "")
    return {
        "processor": model or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def show(result: dict[str, Any], tables: Sequence[Table], as_json: bool, width: int = 120) -> None:
    """Print the tables, or the result as JSON."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console(width=width, highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    for table in tables:
        console.print(table)
