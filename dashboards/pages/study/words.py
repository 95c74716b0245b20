"""The front page in words: what stands beside its figures."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.pages.study.choosing import best_index, cost_range
from dashboards.pages.study.view import FrontView
from dashboards.snapshot import Snapshot
from dashboards.words import front_in_words
from search.cost import NOT_COUNTED
from studies.records import EvaluationRow


def progress_words(snapshot: Snapshot) -> str:
    """How far the study is, and why it goes no further where nobody can serve it."""
    progress = snapshot.progress
    parts = [
        f"{progress.ended} of {progress.budget} trials",
        *([f"{progress.contributed} of methods"] if progress.contributed else []),
        f"{progress.running} running",
        f"{progress.failed} failed",
        f"{len(snapshot.rows)} evaluations",
        f"{len(snapshot.front)} on the front",
        f"hypervolume {snapshot.hypervolume:.4f}",
    ]
    if progress.blocked:
        remedy = "mend that, then launch it again or run 'exitbits study retry'"
        return f"Blocked ({', '.join(parts)}): {progress.blocked}; {remedy}."
    return ("Done: " if progress.done else "") + ", ".join(parts) + "."


def budget_words(snapshot: Snapshot, budget: float | None) -> str:
    """The best policy under a budget in GBOPs, or of all where there is none."""
    limit = cost_range(snapshot)[1] if budget is None else budget
    index = best_index(snapshot, budget)
    if index is None:
        return f"No policy costs {limit:.4f} GBOPs or less: raise the budget."
    row = snapshot.rows[index]
    return (
        f"Best under {limit:.4f} GBOPs: {row.digest[:8]}, {snapshot.record.metric} {row.value:.4f} "
        f"± {row.standard_error:.4f} at {row.gbops:.4f} GBOPs, "
        f"{snapshot.summary.reduction(row):.2%} below 32x32."
    )


def summary_words(snapshot: Snapshot) -> str:
    """The front in a few sentences."""
    if not snapshot.rows:
        return "Nothing has been evaluated yet: start workers with 'exitbits worker'."
    return f"{front_in_words(snapshot.summary)} {NOT_COUNTED[0].upper()}{NOT_COUNTED[1:]}."


def selection_words(view: FrontView, rows: Sequence[EvaluationRow], limit: int) -> str:
    """Which rows the table shows."""
    what = "selected" if view.selection else "on the front"
    if view.brushes:
        what += f", within {len(view.brushes)} chosen range{'s'[: len(view.brushes) != 1]}"
    more = f"; the first {limit} are listed" if len(rows) > limit else ""
    return f"{len(rows)} policies {what}{more}."


def point_words(snapshot: Snapshot, row: EvaluationRow) -> str:
    """One policy in a line."""
    policy = row.policy
    return (
        f"{row.digest[:12]} ({row.origin}): {snapshot.record.metric} {row.value:.4f} ± "
        f"{row.standard_error:.4f}, {row.gbops:.4f} GBOPs expected, {row.gbops_p95:.4f} at the "
        f"95th percentile, {snapshot.summary.reduction(row):.2%} below 32x32, mean exit "
        f"{row.mean_exit:.2f}; weights {' '.join(map(str, policy.bits.weights))}, activations "
        f"{' '.join(map(str, policy.bits.activations))}, thresholds "
        f"{' '.join(f'{one:.2f}' for one in policy.thresholds[:-1])}."
    )
