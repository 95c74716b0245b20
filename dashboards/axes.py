"""What figures of metric against cost have in common."""

from __future__ import annotations

import math

from studies.fronts import FrontSummary

SYMBOLS = {
    "anchor": "square",
    "harvest": "triangle-up",
    "proposed": "circle",
    "method": "diamond",
}


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in every decade between ``low`` and ``high``, and one beyond on each side."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 5)]


def metric_range(summary: FrontSummary) -> list[float]:
    """From a little under the front to a little over the reference: the rest is off the figure."""
    rows = summary.front_rows
    reference = summary.record.reference_value
    top = max([row.value + row.standard_error for row in rows] + [reference])
    bottom = min([row.value - row.standard_error for row in rows] + [reference])
    margin = max(0.01, (top - bottom) * 0.12)
    return [max(0.0, bottom - margin), min(1.0, top + margin)]
