"""The front as one HTML page that works from a file, without a network."""

from __future__ import annotations

from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards import theme
from dashboards.report import figures
from dashboards.words import front_in_words
from search.cost import GIGA, NOT_COUNTED
from search.errors import BadInput
from search.files import write_atomically
from search.results import Evaluation
from studies.fronts import FrontSummary
from studies.records import EvaluationRow
from studies.words import report_mark

_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0 auto; max-width: 1180px; padding: 24px; color: {theme.INK};
  background: {theme.PAPER}; font: 15px/1.5 {theme.FONT}; }}
h1 {{ margin: 0 0 4px; font-size: 26px; }}
h2 {{ margin: 36px 0 8px; font-size: 19px; }}
p {{ margin: 4px 0 12px; max-width: 75ch; }}
.note {{ color: #5B6472; font-size: 13px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; white-space: nowrap; }}
th, td {{ padding: 5px 10px; border-bottom: 1px solid {theme.GRID}; text-align: right; }}
th {{ text-align: right; background: #F5F7FA; }}
td.left, th.left {{ text-align: left; }}
code {{ font-family: ui-monospace, 'SF Mono', Menlo, Consolas, monospace; }}
"""


def write_front_page(summary: FrontSummary, path: Path) -> Path:
    """Write the page in one atomic step and return its path.

    Raises:
        BadInput: when it cannot be written.
    """
    try:
        write_atomically(path, front_page(summary))
    except OSError as error:
        raise BadInput(
            f"cannot write report {str(path)!r} ({error.strerror}): name another with --report"
        ) from error
    return path


def front_page(summary: FrontSummary) -> str:
    """The page as HTML."""
    record = summary.record
    name = escape(record.config.name)
    sections = (
        ("Accuracy against cost", summary_text(summary), figures.front_figure(summary)),
        (
            "Which bits each group got",
            "One column for each policy of the front. Patch embedding and heads run at "
            f"{record.space.embed_bits} and {record.space.head_bits} bits throughout; the "
            f"embedding and the first head are {summary.fixed_gbops:.4f} GBOPs of every policy's "
            "cost.",
            figures.bits_figure(summary),
        ),
        (
            "Where samples leave",
            "Share of the search images that stop after each exit.",
            figures.exits_figure(summary),
        ),
    )
    body = "".join(
        f"<h2>{title}</h2><p>{text}</p>{_figure_html(figure, index)}"
        for index, (title, text, figure) in enumerate(sections)
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"{report_mark(record.config.name)}<title>{name} - exitbits</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"<h1>{name}</h1><p class='note'>{len(summary.rows)} evaluated policies, "
        f"{len(summary.front)} on the front, hypervolume {summary.hypervolume:.4f} (fraction of "
        f"the box from {escape(record.metric)} 0 and the W8A8 full-depth cost). Accuracy was "
        "measured on the search split, which also chose these policies, so it flatters them. "
        f"BOPs: patch embedding and every head passed are counted; {NOT_COUNTED}.</p>"
        f"{body}<h2>The front</h2>{_table(summary)}</body></html>"
    )


def summary_text(summary: FrontSummary) -> str:
    """The front in words, beside its figure, as HTML."""
    return escape(front_in_words(summary))


def _figure_html(figure: go.Figure, index: int) -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config=theme.CONFIG, div_id=f"figure-{index}"
    )
    return html


def _table(summary: FrontSummary) -> str:
    metric = escape(summary.record.metric)
    headings = (
        ("policy", True), (metric, False), ("± se", False), ("GBOPs", False), ("p95", False),
        ("worst", False), ("below 32x32", False), ("mean exit", False), ("weight bits", True),
        ("activation bits", True), ("thresholds", True), ("from", True),
    )  # fmt: skip
    head = "".join(f"<th{' class=left' if left else ''}>{title}</th>" for title, left in headings)
    rows = "".join(
        _table_row(row, found)
        for row, found in zip(summary.front_rows, summary.details, strict=True)
    )
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f"<div class='scroll'><table>{body}</table></div>"


def _table_row(row: EvaluationRow, found: Evaluation) -> str:
    policy = found.policy
    left, right = "<td class=left>", "<td>"
    cells = (
        f"{left}<code>{policy.digest[:12]}</code>",
        f"{right}{found.value:.4f}",
        f"{right}{found.standard_error:.4f}",
        f"{right}{found.gbops:.4f}",
        f"{right}{found.cost.p95 / GIGA:.4f}",
        f"{right}{found.cost.worst / GIGA:.4f}",
        f"{right}{found.reduction:.2%}",
        f"{right}{found.mean_exit:.2f}",
        f"{left}{' '.join(map(str, policy.bits.weights))}",
        f"{left}{' '.join(map(str, policy.bits.activations))}",
        f"{left}{' '.join(f'{t:.2f}' for t in policy.thresholds[:-1])}",
        f"{left}{escape(row.source)}",
    )
    return "<tr>" + "</td>".join(cells) + "</td></tr>"
