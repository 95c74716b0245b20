"""The page of one policy: its bits, its exits, its costs, and what was recorded around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboards.pages import parts
from dashboards.pages.policy import figures
from dashboards.pages.policy import routing_figures as routing
from dashboards.pages.policy.around import neighbour_section, worth_section
from dashboards.snapshot import Snapshot, Snapshots
from search.cost import GIGA
from search.errors import BadInput, ExitbitsError
from search.results import Evaluation
from studies.policy_file import PolicyFile
from studies.records import EvaluationRow, StudyRecord

_FIGURES = ("bits", "exits", "utilization", "ledger")
# Until the theme is known, a figure is as empty as the page behind it.
_HIDDEN = {"visible": False}
_CLEAR = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
_BLANK = {"layout": {"xaxis": _HIDDEN, "yaxis": _HIDDEN, **_CLEAR}}


def find(snapshot: Snapshot, number: int) -> int:
    """Index of the evaluation ``number`` in the snapshot's rows.

    Raises:
        BadInput: when the study has no such evaluation.
    """
    for index, row in enumerate(snapshot.rows):
        if row.id == number:
            return index
    raise BadInput(
        f"study {snapshot.record.config.name!r} has no evaluation {number}: choose one of its "
        f"{len(snapshot.rows)} on its front's page"
    )


def policy_file_text(record: StudyRecord, row: EvaluationRow, found: Evaluation) -> str:
    """The policy file, as ``exitbits pick`` writes it."""
    file = PolicyFile.of(record, row, found)
    return json.dumps(file.model_dump(mode="json"), indent=2) + "\n"


def layout(snapshots: Snapshots, name: str, number: int) -> Any:
    """The page of evaluation ``number`` of the study ``name``.

    Raises:
        BadInput: when there is no such study or evaluation.
        StoreUnavailable: when the database is away.
    """
    snapshot = snapshots.get(name)
    index = find(snapshot, number)
    record, row = snapshot.record, snapshot.rows[index]
    found = _details(snapshots, row)
    bits = f"{figures.bits_text(record, row.policy)} {figures.thresholds_text(record, row.policy)}"
    return html.Div(
        [
            dcc.Store(id="policy-view", data={"study": name, "number": number}),
            html.H1(["Policy ", html.Code(row.digest[:12])]),
            html.P(
                [f"{row.origin}{_on_model(row)}, of study ",
                 dcc.Link(name, href=parts.study_path(name)), "."]
            ),
            html.Div(
                [
                    html.Button("Download the policy", id="policy-button", type="button"),
                    html.Span("JSON, for exitbits evaluate", className="note"),
                ],
                className="controls",
            ),
            dcc.Download(id="policy-download"),
            html.P(id="policy-note", role="alert"),
            html.Div([_numbers(found), _certificate(found)], className="columns"),
            html.P(id="policy-problem", role="alert"),
            html.Div(
                [
                    _section("Bits of every group", bits, "bits",
                             220 + 26 * record.ledger.exit_blocks[-1]),
                    html.Div(
                        [
                            _section("Where samples exit", routing.exits_text(record, found),
                                     "exits", 300),
                            _section("Utilization of the blocks",
                                     routing.utilization_text(found), "utilization", 300),
                        ]
                    ),
                ],
                className="columns",
            ),
            _section("Where the bit operations go", figures.ledger_text(record, found),
                     "ledger", 520),
            *neighbour_section(snapshot, index),
            *worth_section(snapshot, index),
        ]
    )  # fmt: skip


def register(app: Dash, snapshots: Snapshots) -> None:
    """Add the callbacks: figures in the page's theme, and the download."""

    def load(view: Mapping[str, Any]) -> tuple[StudyRecord, EvaluationRow, Evaluation]:
        name, number = view.get("study"), view.get("number")
        if not isinstance(name, str) or not isinstance(number, int):
            raise BadInput("the page does not say which policy it shows: reload it")
        snapshot = snapshots.get(name)
        row = snapshot.rows[find(snapshot, number)]
        return snapshot.record, row, _details(snapshots, row)

    @app.callback(
        *(Output(f"policy-{name}", "figure") for name in _FIGURES),
        Output("policy-problem", "children"),
        Input("theme", "data"),
        Input("policy-view", "data"),
    )
    def draw(theme: str | None, view: Mapping[str, Any]) -> Any:
        mode = theme or "light"
        try:
            record, row, found = load(view)
        except ExitbitsError as error:
            return *([no_update] * len(_FIGURES)), f"The figures cannot be drawn: {error}"
        return (
            figures.bits_figure(record, row.policy, mode),
            routing.exits_figure(record, found, mode),
            routing.utilization_figure(record, found, mode),
            figures.ledger_figure(record, found, mode),
            "",
        )

    @app.callback(
        Output("policy-download", "data"),
        Output("policy-note", "children"),
        Input("policy-button", "n_clicks"),
        State("policy-view", "data"),
        prevent_initial_call=True,
    )
    def download(clicks: int | None, view: Mapping[str, Any]) -> Any:
        if not clicks:
            return no_update, no_update
        try:
            record, row, found = load(view)
        except ExitbitsError as error:
            return no_update, f"The policy cannot be downloaded: {error}"
        file = f"policy-{row.digest[:12]}.json"
        return dcc.send_string(policy_file_text(record, row, found), file, "application/json"), ""


def _details(snapshots: Snapshots, row: EvaluationRow) -> Evaluation:
    (found,) = snapshots.reader.details([row])
    return found


def _on_model(row: EvaluationRow) -> str:
    return "" if row.model is None else f", on the recovered model {row.model[:12]}"


def _section(title: str, text: str, figure: str, height: int) -> html.Div:
    graph = parts.graph(f"policy-{figure}", title, _BLANK, height)
    return html.Div([html.H2(title), html.P(text), graph])


def _numbers(found: Evaluation) -> html.Div:
    cost, against = found.cost, found.references
    rows = [
        (found.metric, f"{found.value:.4f} ± {found.standard_error:.4f}"),
        ("GBOPs, expected", f"{found.gbops:.4f}"),
        ("GBOPs, 95th percentile", f"{cost.p95 / GIGA:.4f}"),
        ("GBOPs, worst case", f"{cost.worst / GIGA:.4f}"),
        ("reduction from 32x32", f"{1 - cost.expected / against.w32a32:.2%}"),
        ("reduction from W8A8", f"{1 - cost.expected / against.w8a8:.2%}"),
        ("reduction from same bits", f"{1 - cost.expected / against.same_bits:.2%}"),
        ("engine", found.engine),
        ("samples", f"{found.samples:,}"),
    ]
    return parts.table(("figure", "value"), rows, "A sample; reductions from full depth")


def _certificate(found: Evaluation) -> html.Div:
    return html.Div(
        [
            html.H2("Certificate: not certified"),
            html.P(
                f"Nothing bounds the {found.metric} that this policy loses against full precision "
                f"at full depth. Its {found.metric} was measured on the search split, which also "
                "chose the policies, so it flatters; a certificate needs samples that the search "
                "never saw, and none has been computed."
            ),
            *risk_table(found),
        ],
        className="panel",
        style={"alignSelf": "start"},  # no taller than its text
    )


def risk_table(found: Evaluation) -> list[Any]:
    """What early exit and quantization change for the samples, where it was recorded."""
    heading, risk = html.H2("Against full precision at full depth"), found.risk
    if risk is None:
        return [heading, html.P(
            "Risk terms were not recorded: this evaluation is from before there were such "
            "figures, or its pass was given up."
        )]  # fmt: skip
    rows = [
        ("rescued: only right here", f"{risk.rescue:.2%}"),
        ("harmed: only wrong here", f"{risk.harm:.2%}"),
        ("gap risk: mean change of loss", f"{risk.gap:+.4f}"),
        ("exits taken early, a sample", f"{risk.premature:.4f}"),
        ("exits taken late, a sample", f"{risk.delayed:.4f}"),
        ("boundary risk: both", f"{risk.boundary:.4f}"),
    ]
    return [heading, parts.table(("sample by sample", "value"), rows,
                                 "The search split, which flatters")]  # fmt: skip
