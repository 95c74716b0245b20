"""What was recorded around a policy: its neighbours, and what one bit buys there."""

from __future__ import annotations

from typing import Any

import numpy as np
from dash import dcc, html

from dashboards.pages import parts
from dashboards.pages.policy.neighbours import BitWorth, bit_worth, choice_names, neighbours
from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow

NEIGHBOURS_SHOWN = 20
UNANSWERED = "No recorded policy answers this"


def neighbour_section(snapshot: Snapshot, index: int) -> list[Any]:
    """Recorded policies that differ from the one at ``index`` in one choice."""
    found = neighbours(snapshot, index)
    here, metric = snapshot.rows[index], snapshot.record.metric
    heading = html.H2("Neighbours: one choice changed")
    if not found:
        return [heading, html.P(
            f"None of the {len(snapshot.rows)} evaluations recorded in this study differs from "
            "this policy in exactly one choice of bits or thresholds."
        )]  # fmt: skip
    several = f"{len(found)} recorded policies differ" if len(found) > 1 else "1 policy differs"
    limited = (
        f" The {NEIGHBOURS_SHOWN} nearest in GBOPs are shown."
        if len(found) > NEIGHBOURS_SHOWN
        else ""
    )
    rows = [
        (
            one.choice,
            f"{one.old:.6g} → {one.new:.6g}",
            f"{one.metric:+.4f}",
            f"{one.gbops:+.4f}",
            _link(snapshot, one.row),
        )
        for one in found[:NEIGHBOURS_SHOWN]
    ]  # fmt: skip
    return [
        heading,
        html.P(f"{several} from this one in exactly one choice, on the same model.{limited} "
               f"{_noise(here)}"),
        parts.table(("changed", "from → to", metric, "GBOPs", "policy"), rows,
                    "w weights, a activations; neighbour less this"),
    ]  # fmt: skip


def worth_section(snapshot: Snapshot, index: int) -> list[Any]:
    """What recorded evaluations say of one bit more or less around the policy at ``index``."""
    found, here = bit_worth(snapshot, index), snapshot.rows[index]
    heading = html.H2("What does one bit here buy?")
    if not found:
        return [heading, html.P(
            f"{UNANSWERED}: no two evaluations under the same thresholds differ in one "
            "group's bits alone, around the bits that this policy has."
        )]  # fmt: skip
    answered = {one.group for one in found}
    groups = choice_names(snapshot.record, here.policy)[: -len(here.policy.thresholds)]
    rest = [group for group in groups if group not in answered]
    rows = [
        (
            f"{one.group}, {one.bits - (not one.more)} → {one.bits + one.more}",
            _spread(one.metric),
            _spread(one.gbops),
            _source(snapshot, one),
        )
        for one in found
    ]
    return [
        heading,
        html.P(
            f"Recorded evaluations answer for {len(answered)} of {len(groups)} groups, by policies "
            "under the same thresholds that differ in that group's bits alone; where this policy "
            "is not one of them, by the median of the pairs and their range. A step of several "
            f"bits counts by its average. {_noise(here)}"
        ),
        parts.table(
            ("a bit of", f"{snapshot.record.metric} a bit", "GBOPs a bit", "seen in"),
            rows,
            "w weights, a activations",
        ),
        *([html.P(f"{UNANSWERED} for {', '.join(rest)}.")] if rest else []),
    ]


def _noise(row: EvaluationRow) -> str:
    return f"Differences below the standard error of {row.standard_error:.4f} may be chance."


def _spread(values: np.ndarray) -> str:
    middle = f"{np.median(values):+.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):+.4f} to {max(values):+.4f})"


def _source(snapshot: Snapshot, one: BitWorth) -> Any:
    low, high = one.widths
    if one.other is not None:
        return html.Span([f"this against {high if one.more else low} bits, ",
                          _link(snapshot, one.other)])  # fmt: skip
    pairs = len(one.metric)
    return f"{pairs} other pair{'s' * (pairs > 1)}, {low} to {high} bits"


def _link(snapshot: Snapshot, row: EvaluationRow) -> dcc.Link:
    name = snapshot.record.config.name
    return dcc.Link(row.digest[:12], href=parts.policy_path(name, row.id))
