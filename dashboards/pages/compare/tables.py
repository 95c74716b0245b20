"""The tables under a comparison's figure."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from dashboards.pages import parts
from dashboards.pages.compare.comparison import SHARES, Comparison, dominations, listed, standings
from dashboards.pages.compare.figures import short
from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow

LISTED = 50


def tables(comparison: Comparison) -> list[Any]:
    """Hypervolumes, best policies under budgets, and who dominates whom."""
    return [
        html.H2("Hypervolume"),
        html.P(
            f"The share of one box that a front dominates. Every study has the same box: from "
            f"{comparison.metric} 0 and {comparison.reference:.4g} GBOPs, the largest W8A8 cost at "
            "full depth among the chosen. The last columns give the best "
            f"{comparison.metric} under a half, a quarter and an eighth of that cost.",
            className="note",
        ),
        _standing_table(comparison),
        html.H2("Which policies dominate which"),
        *_domination(comparison),
    ]


def _standing_table(comparison: Comparison) -> html.Div:
    budgets = [f"under {comparison.reference / share:.4g} GBOPs" for share in SHARES]
    rows = []
    for one in standings(comparison):
        name, progress = one.snapshot.record.config.name, one.snapshot.progress
        best = [
            "none" if row is None
            else dcc.Link(f"{row.value:.4f}", href=parts.policy_path(name, row.id))
            for row in one.best
        ]  # fmt: skip
        rows.append(
            [
                dcc.Link(short(name), href=parts.study_path(name), title=name),
                f"{one.hypervolume:.4f}",
                len(one.snapshot.rows),
                f"{progress.finished} of {progress.budget}",
                len(one.snapshot.front),
                *best,
            ]
        )
    headings = ["study", "hypervolume", "evaluations", "trials", "on the front", *budgets]
    return parts.table(headings, rows, "Where each study stands")


def _domination(comparison: Comparison) -> list[Any]:
    studies = comparison.snapshots
    if len(studies) < 2:
        return [html.P("Choose a second study to see which policies dominate which.")]
    found = dominations(comparison)
    counts = {(id(one.ours), id(one.theirs)): one.count for one in found}
    rows = [
        [
            _study(ours),
            *(
                "" if ours is theirs else f"{counts[id(ours), id(theirs)]} of {len(theirs.front)}"
                for theirs in studies
            ),
        ]
        for ours in studies
    ]
    names = [_study(one) for one in studies]
    total = sum(one.pairs for one in found)
    content: list[Any] = [
        html.P(
            "A policy dominates another when it is no worse in metric and cost and better in one. "
            "A row says how many policies of each column's front its own front dominates.",
            className="note",
        ),
        parts.table(
            ["front of", *names], rows, "Policies of each column's front that are dominated"
        ),
    ]
    if not total:
        return [*content, html.P("No policy of one front dominates a policy of another.")]
    shown = listed(found, LISTED)
    words = f"{total:,} pairs of policies in all."
    if len(shown) < total:
        words = (
            f"{len(shown)} of {total:,} pairs of policies, dealt out evenly over the pairs of "
            "studies; choose two studies alone to see more of theirs."
        )
    metric = comparison.metric
    headings = ["study", "policy", metric, "GBOPs", "dominates of", "policy", metric, "GBOPs"]
    cells = [
        [*_policy_cells(one.ours, winner), *_policy_cells(one.theirs, loser)]
        for one, winner, loser in shown
    ]
    listing = parts.table(headings, cells, "Who dominates whom")
    listing.style = {"maxHeight": "480px", "overflowY": "auto"}
    return [*content, html.P(words), listing]


def _policy_cells(snapshot: Snapshot, row: EvaluationRow) -> list[Any]:
    name = snapshot.record.config.name
    link = dcc.Link(html.Code(row.digest[:12]), href=parts.policy_path(name, row.id))
    return [_study(snapshot), link, f"{row.value:.4f}", f"{row.gbops:.4g}"]


def _study(snapshot: Snapshot) -> html.Span:
    name = snapshot.record.config.name
    return html.Span(short(name), title=name)
