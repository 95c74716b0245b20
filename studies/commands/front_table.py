"""A front as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from search.display import compact
from studies.fronts import FrontSummary
from studies.records import EvaluationRow


def front_table(summary: FrontSummary, width: int | None = None) -> Group:
    """The front for a terminal ``width`` columns wide; None for all columns.

    Where not all columns fit, the least telling ones are left out, never a figure cut short.
    """
    record = summary.record
    columns = {
        heading: [cell(summary, row) for row in summary.front_rows] for heading, cell in _CELLS
    }
    shown = _fitting(columns, width)
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in shown:
        side: Literal["left", "right"] = "left" if heading in _LEFT else "right"
        label = record.metric if heading == "accuracy" else heading
        table.add_column(label, justify=side, no_wrap=True)
    for cells in zip(*(columns[heading] for heading in shown), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    notes = [
        f"full precision, full depth: {record.metric} {record.reference_value:.4f}, "
        f"{summary.w32a32_gbops:.3f} GBOPs (32x32), {summary.w8a8_gbops:.3f} at W8A8",
        f"of each cost {summary.fixed_gbops:.4f} GBOPs are the patch embedding at "
        f"{record.space.embed_bits} bits and the first head at {record.space.head_bits}, which no "
        "policy changes ([space] embed_bits, head_bits)",
        "reduction is against 32x32; p95 is the cost that 95% of samples do not exceed",
        "measured on the search split, which chose these policies: it flatters them",
    ]
    if len(shown) < len(columns):
        left_out = ", ".join(heading for heading in columns if heading not in shown)
        notes.append(f"left out for want of room: {left_out}; a wider terminal, --csv have all")
    title = (
        f"Pareto front of {record.config.name}: {len(summary.front)} of {len(summary.rows)} "
        f"evaluated policies, hypervolume {summary.hypervolume:.4f}"
    )
    return Group(Text(title, style="bold"), table, Text("\n".join(notes), style="dim"))


def _fitting(columns: Mapping[str, Sequence[str]], width: int | None) -> list[str]:
    """The headings that fit, in their order; the first of ``_BY_WORTH`` are always there."""
    room = width if width is not None else 10_000
    chosen: set[str] = set()
    for rank, heading in enumerate(_BY_WORTH):
        needed = max(len(heading), *(len(cell) for cell in columns[heading]), 0) + 2
        if needed <= room or rank < _ALWAYS:
            chosen.add(heading)
            room -= needed
    return [heading for heading in columns if heading in chosen]


_CELLS: tuple[tuple[str, Callable[[FrontSummary, EvaluationRow], str]], ...] = (
    ("policy", lambda _, row: row.digest[:8]),
    ("accuracy", lambda _, row: f"{row.value:.4f}"),
    ("± se", lambda _, row: f"{row.standard_error:.4f}"),
    ("GBOPs", lambda _, row: f"{row.gbops:.4f}"),
    ("p95", lambda _, row: f"{row.gbops_p95:.4f}"),
    ("reduction", lambda front, row: f"{front.reduction(row):.2%}"),
    ("mean exit", lambda _, row: f"{row.mean_exit:.2f}"),
    ("bits w", lambda _, row: compact(row.policy.bits.weights)),
    ("bits a", lambda _, row: compact(row.policy.bits.activations)),
    ("thresholds", lambda _, row: " ".join(f"{t:.2f}" for t in row.policy.thresholds[:-1])),
    ("from", lambda _, row: row.source),
)
_LEFT = {"policy", "bits w", "bits a", "thresholds", "from"}
_BY_WORTH = (
    "policy", "accuracy", "GBOPs", "reduction", "± se", "bits w", "bits a", "from", "mean exit",
    "p95", "thresholds",
)  # fmt: skip
_ALWAYS = 4
