"""The study page's front by itself, as a Plotly figure for a notebook."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboards.pages.study.figures import front_figure
from dashboards.pages.study.view import FrontView
from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow, Progress, Study


def figure_of(study: Study, progress: Progress, rows: Sequence[EvaluationRow]) -> go.Figure:
    """Metric against expected GBOPs, as the dashboard draws it in its light theme.

    Args:
        study: as it stands.
        progress: how far it is.
        rows: every evaluation of it, in the order of their recording.
    """
    snapshot = Snapshot(study.id, study.record, progress).extended(
        study.record, progress, list(rows)
    )
    return go.Figure(front_figure(snapshot, FrontView(), "light"))
