"""The page of one policy: its bits, its exits, its costs, and what was recorded around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboards import policy_figures as figures
from dashboards.neighbours import BitWorth, bit_worth, choice_names, neighbours
from dashboards.pages import parts
from dashboards.snapshot import Snapshot, Snapshots
from search.errors import BadInput, ExitbitsError
from search.evaluation import GIGA, Evaluation
from studies.bundle import PolicyBundle
from studies.records import Recorded, StudyRecord

NEIGHBOURS_SHOWN = 20
UNANSWERED = "No recorded policy answers this"
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


def bundle_text(record: StudyRecord, row: Recorded, found: Evaluation) -> str:
    """The policy bundle, as ``exitbits pick`` writes it."""
    bundle = PolicyBundle.of(record, row, found)
    return json.dumps(bundle.model_dump(mode="json"), indent=2) + "\n"


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
                            _section("Where samples exit", figures.exits_text(record, found),
                                     "exits", 300),
                            _section("Utilization of the blocks",
                                     figures.utilization_text(found), "utilization", 300),
                        ]
                    ),
                ],
                className="columns",
            ),
            _section("Where the bit operations go", figures.ledger_text(record, found),
                     "ledger", 520),
            *_neighbour_section(snapshot, index),
            *_worth_section(snapshot, index),
        ]
    )  # fmt: skip


def register(app: Dash, snapshots: Snapshots) -> None:
    """Add the callbacks: figures in the page's theme, and the download."""

    def load(view: Mapping[str, Any]) -> tuple[StudyRecord, Recorded, Evaluation]:
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
            figures.exits_figure(record, found, mode),
            figures.utilization_figure(record, found, mode),
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
        return dcc.send_string(bundle_text(record, row, found), file, "application/json"), ""


def _details(snapshots: Snapshots, row: Recorded) -> Evaluation:
    try:
        (found,) = snapshots.reader.details([row])
    except KeyError:  # deleted since its narrow row was read
        raise BadInput(f"evaluation {row.id} is no longer in the store: reload the page") from None
    return found


def _on_model(row: Recorded) -> str:
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
            html.P(
                "Risk terms, and the samples that early exits rescue or harm, are not recorded in "
                "the store either.",
                className="note",
            ),
        ],
        className="panel",
        style={"alignSelf": "start"},  # no taller than its text
    )


def _neighbour_section(snapshot: Snapshot, index: int) -> list[Any]:
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


def _worth_section(snapshot: Snapshot, index: int) -> list[Any]:
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


def _noise(row: Recorded) -> str:
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


def _link(snapshot: Snapshot, row: Recorded) -> dcc.Link:
    name = snapshot.record.config.name
    return dcc.Link(row.digest[:12], href=parts.policy_path(name, row.id))
