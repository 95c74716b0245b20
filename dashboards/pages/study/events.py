"""What Plotly's events on the front page mean: a zoom, brushes, a policy pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.address import number
from dashboards.pages.study import figures
from dashboards.pages.study.view import MAX_BRUSHES, MAX_DIGITS
from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow


def zoom_of(event: Mapping[str, Any], scale: str) -> tuple[float, float, float, float] | None:
    """Ranges of Plotly's ``relayoutData`` in GBOPs and metric, None where not all are told."""
    try:
        x0, x1, y0, y1 = (
            float(event[f"{axis}axis.range[{end}]"]) for axis in "xy" for end in (0, 1)
        )
    except KeyError:
        return None
    if scale == "log":
        x0, x1 = 10**x0, 10**x1
    return x0, x1, y0, y1


def brushes_of(
    event: Sequence[Any] | None, known: Sequence[tuple[int, float, float]]
) -> tuple[tuple[int, float, float], ...]:
    """The brushes after Plotly's ``restyleData`` of the parallel coordinates."""
    brushes = list(known)
    for key, value in (event[0] if event else {}).items():
        if not key.startswith("dimensions[") or not key.endswith("].constraintrange"):
            continue
        digits = key[len("dimensions[") : key.index("]")]
        if not digits.isdecimal() or len(digits) > MAX_DIGITS:
            continue
        axis = int(digits)
        brushes = [one for one in brushes if one[0] != axis]
        ranges = value[0] if value else None
        if ranges:
            several = ranges if isinstance(ranges[0], list) else [ranges]
            brushes += [(axis, number(low), number(high)) for low, high in several]
    return tuple(sorted(brushes))[:MAX_BRUSHES]


def pointed_at(snapshot: Snapshot, event: Any, seen: Any) -> EvaluationRow | None:
    """The row behind a point of Plotly's event data.

    The large traces carry no ids: their points are the rows of a kind in the order of recording.
    """
    if not event or not event.get("points") or not seen:
        return None
    point = event["points"][0]
    if (known := point.get("customdata")) is not None:
        number = known[0] if isinstance(known, list) else known
        return next((row for row in reversed(snapshot.rows) if row.id == number), None)
    curve, index = point["curveNumber"], point.get("pointNumber", point.get("pointIndex"))
    if curve >= figures.RECENT or index is None:
        return None
    shown = snapshot.until(seen["base"])
    of_kind = shown[snapshot.kinds[shown] == curve]
    return snapshot.rows[int(of_kind[index])] if index < len(of_kind) else None
