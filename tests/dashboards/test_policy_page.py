"""The page of a policy: its figures and tables against numbers found in another way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import Dash, dcc, html
from small_study import measure, small_ledger

from dashboards import theme
from dashboards.pages.policy import figures
from dashboards.pages.policy import layout as page
from dashboards.pages.policy import routing_figures as routing
from dashboards.snapshot import Snapshots
from search.cost import Ledger
from search.errors import BadInput
from search.policy import Bits, Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import resolve_task
from search.trace import ExitTrace
from studies.policy_file import PolicyFile, read_policy_file, write_policy_file
from studies.records import StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore

MakeRecord = Callable[..., StudyRecord]
LAYERED = ("blocks.1.qkv", "blocks.1.attn", "blocks.2.qkv", "blocks.2.attn")


def make_policy(weights: Any, activations: Any, threshold: float = 0.5) -> Policy:
    return Policy(Bits("block", tuple(weights), tuple(activations)), (threshold, 0.0))


@pytest.fixture
def known() -> Evaluation:
    """Four samples by hand: three leave at the first exit, one of them just at its threshold.

    One is wrong there; full precision is wrong about that one and another, and would have let the
    third go on.
    """
    confidence = np.array([[0.9, 0.1], [0.6, 0.1], [0.5, 0.1], [0.4, 0.1]], dtype=np.float32)
    statistic = np.ones((4, 2, 2), dtype=np.int32)
    statistic[1, 0, 0] = 0
    trace = ExitTrace(confidence, statistic, (1, 2))
    reference = np.ones((4, 2, 2), dtype=np.int32)
    reference[:2, 1, 0] = 0
    surer = confidence - np.float32([[0.0, 0], [0, 0], [0.1, 0], [0, 0]])
    at_best = ExitTrace(surer, reference, (1, 2))
    policy = make_policy((4, 8), (3, 6))
    return evaluate_trace(policy, trace, small_ledger(), resolve_task("classification"), at_best)


@pytest.fixture
def make_snapshots(tmp_path: Path, make_record: MakeRecord) -> Callable[..., Snapshots]:
    """Record policies as a method would, and read them again."""

    def make(policies: list[Policy], name: str = "small", **more: Any) -> Snapshots:
        store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
        store.create(make_record(name=name))
        contribute(
            store,
            store.get(name).id,
            [Contribution("hand", measure(one), **more) for one in policies],
        )
        return Snapshots(store)

    return make


def words(part: Any) -> str:
    """All text below a component, cells and sentences apart."""
    if isinstance(part, (list, tuple)):
        return " ".join(words(one) for one in part)
    if part is None or isinstance(part, (str, int, float)):
        return "" if part is None else str(part)
    return words(getattr(part, "children", None))


def find_all(root: Any, kind: type) -> list[Any]:
    return [one for one in root._traverse() if isinstance(one, kind)]


# Figures


def test_the_heat_map_has_every_group_s_bits(make_record: MakeRecord, known: Evaluation) -> None:
    figure = figures.bits_figure(make_record(), known.policy)
    (heat,) = figure.data
    assert heat.x == ("weights", "activations")
    assert heat.y == (1, 2)
    assert [list(line) for line in heat.z] == [[4, 3], [8, 6]]
    assert "operand" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "block"
    assert heat.colorbar.title.text == "bits"


def test_with_a_group_a_layer_products_have_no_weights(make_record: MakeRecord) -> None:
    record = make_record(space={"granularity": "layer"})
    policy = Policy(Bits("layer", (2, 3), (4, 5, 6, 7)), (0.5, 0.0))
    (heat,) = figures.bits_figure(record, policy).data
    assert heat.x == ("w qkv", "a qkv", "a attn")
    assert [list(line) for line in heat.z] == [[2, 4, 5], [3, 6, 7]]
    assert record.space.activation_groups == LAYERED
    assert [group for line in heat.customdata for group in line[1:]] == list(LAYERED)


def test_full_precision_has_its_colour(make_record: MakeRecord) -> None:
    (heat,) = figures.bits_figure(make_record(), make_policy((32, 8), (32, 8))).data
    assert heat.zmax == 32


def test_exits_and_utilization_are_the_counted_ones(
    make_record: MakeRecord, known: Evaluation
) -> None:
    (bars,) = routing.exits_figure(make_record(), known).data
    assert (list(bars.x), list(bars.y)) == ([1, 2], [0.75, 0.25])
    assert list(bars.text) == ["accuracy 0.667", "accuracy 1.000"]
    assert list(bars.customdata) == ["threshold 0.5000", "takes whoever is left"]
    (bars,) = routing.utilization_figure(make_record(), known).data
    assert (list(bars.x), list(bars.y)) == ([1, 2], [1.0, 0.25])


def test_the_ledger_s_areas_are_the_expected_cost(
    make_record: MakeRecord, known: Evaluation
) -> None:
    (tree,) = figures.ledger_figure(make_record(), known).data
    # By hand: MACs x bits x bits x the share of samples that execute the operation.
    by_op = {
        "op patch_embed": 100 * 8 * 8,
        "op blocks.1.qkv": 300 * 4 * 3,
        "op blocks.1.attn.scores": 50 * 3 * 3,
        "op heads.1.fc": 10 * 8 * 8,
        "op blocks.2.qkv": 300 * 8 * 6 / 4,
        "op blocks.2.attn.scores": 50 * 6 * 6 / 4,
        "op heads.2.fc": 10 * 8 * 8 / 4,
    }
    values = dict(zip(tree.ids, tree.values, strict=True))
    assert {name: values[name] * 1e9 for name in by_op} == pytest.approx(by_op)
    assert sum(tree.values) * 1e9 == pytest.approx(15_300) == pytest.approx(known.cost.expected)


def test_the_tree_is_whole(make_record: MakeRecord, known: Evaluation) -> None:
    (tree,) = figures.ledger_figure(make_record(), known).data
    parent = dict(zip(tree.ids, tree.parents, strict=True))
    assert len(parent) == len(tree.ids)

    def path(node: str) -> list[str]:
        return [*path(parent[node]), node] if parent[node] else [node]

    assert path("op blocks.2.qkv") == ["all", "block", "block 2", "op blocks.2.qkv"]
    assert path("op heads.1.fc") == ["all", "head", "head 1", "op heads.1.fc"]
    assert path("op patch_embed") == ["all", "embed", "op patch_embed"]
    # Inner nodes have no area of their own, and say what is inside them.
    said = dict(zip(tree.ids, tree.customdata, strict=True))
    for node, value in zip(tree.ids, tree.values, strict=True):
        assert (value == 0) == (not node.startswith("op "))
    assert said["block 2"][:2] == [f"{4050 / 1e9:.4g}", f"{4050 / 15_300:.1%}"]
    assert tree.branchvalues == "remainder"


@pytest.mark.parametrize("seed", range(5))
def test_expected_bops_sum_to_the_recorded_cost(make_record: MakeRecord, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = [int(one) for one in rng.integers(2, 9, 4)]
    found = measure(make_policy(bits[:2], bits[2:], float(rng.random())))
    ops = figures.expected_bops(make_record(), found)
    assert sum(cost for _, cost in ops) == pytest.approx(found.cost.expected, rel=1e-12)


def test_nobody_at_a_block_leaves_no_hole(make_record: MakeRecord) -> None:
    found = measure(make_policy((4, 8), (3, 6), 0.0))
    assert found.utilization == (1.0, 0.0)
    (tree,) = figures.ledger_figure(make_record(), found).data
    colors = dict(zip(tree.ids, tree.marker.colors, strict=True))
    assert colors["op blocks.2.qkv"] == 48
    assert colors["block 2"] == pytest.approx((300 * 48 + 50 * 36) / 350)


def draw(record: StudyRecord, found: Evaluation, mode: str) -> list[go.Figure]:
    return [
        figures.bits_figure(record, found.policy, mode),
        routing.exits_figure(record, found, mode),
        routing.utilization_figure(record, found, mode),
        figures.ledger_figure(record, found, mode),
    ]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_figures_follow_the_theme(make_record: MakeRecord, known: Evaluation, mode: str) -> None:
    for figure in draw(make_record(), known, mode):
        assert figure.layout.paper_bgcolor == theme.colors(mode).paper
        assert figure.layout.font.color == theme.colors(mode).ink


def test_every_axis_and_colour_has_its_words(make_record: MakeRecord, known: Evaluation) -> None:
    _, exits, used, ledger = draw(make_record(), known, "light")
    for figure in (exits, used):
        assert "block" in figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text == "share of samples"
        assert figure.layout.showlegend
        assert all(trace.name for trace in figure.data)
    assert "bits" in ledger.data[0].marker.colorbar.title.text
    assert "Areas are expected GBOPs" in figures.ledger_text(make_record(), known)


def test_markup_in_the_ledger_stays_text(make_record: MakeRecord, known: Evaluation) -> None:
    odd = "blocks.1.<b>x</b>"
    ops = tuple(
        replace(op, name=odd, layer=odd) if op.name == "blocks.1.qkv" else op
        for op in small_ledger().ops
    )
    record = replace(
        make_record(space={"granularity": "layer"}), ledger=Ledger(ops, small_ledger().exit_blocks)
    )
    found = replace(known, policy=Policy(Bits("layer", (2, 3), (4, 5, 6, 7)), (0.5, 0.0)))
    (heat,), (tree,) = (
        figures.bits_figure(record, found.policy).data,
        figures.ledger_figure(record, found).data,
    )
    groups = [group for line in heat.customdata for group in line]
    shown = [*heat.x, *groups, *tree.labels, *(told[2] for told in tree.customdata)]
    assert any("&lt;b&gt;x" in text for text in shown)
    assert not any("<b>" in text for text in shown)


def test_the_words_agree_with_the_numbers(make_record: MakeRecord, known: Evaluation) -> None:
    record = make_record()
    text = figures.bits_text(record, known.policy)
    assert "Weights run at 4 bits (block1) to 8 bits (block2), 6.00 on average" in text
    assert "Activations run at 3 bits (block1) to 6 bits (block2), 4.50" in text
    assert "embedding runs at 8 bits, exit heads at 8" in text
    assert "at least 0.500 after block 1" in figures.thresholds_text(record, known.policy)
    text = routing.exits_text(record, known)
    assert "after block 1 takes the most samples, 75.0%; 25.0% go" in text
    assert "1.25 of 2 blocks" in text
    assert "accuracy of those that leave is 0.6667 after block 1, 1.0000 after block 2." in text
    old = replace(known, exit_values=None)
    assert "accuracy at each exit was not recorded" in routing.exits_text(record, old)
    assert not any(routing.exits_figure(record, old).data[0].text)
    assert "from block 2 on, fewer than half" in routing.utilization_text(known)
    text = figures.ledger_text(record, known)
    # 6,400 of 15,300 in the embedding; 4,050 + 4,050 in blocks; 640 + 160 in heads.
    assert "patch embedding 41.83%, blocks 52.94%, exit heads 5.23%" in text
    assert "dearest op is patch_embed with 41.83%, at 8 x 8 bits" in text


# What was recorded around it


def test_the_nearest_twenty_are_shown_and_all_are_counted(
    make_snapshots: Callable[..., Snapshots],
) -> None:
    thresholds = [round(0.3 + 0.02 * step, 2) for step in range(26)]
    snapshots = make_snapshots([make_policy((4, 4), (4, 4), one) for one in thresholds])
    snapshot = snapshots.get("small")
    here = snapshot.rows[0]
    body = page.layout(snapshots, "small", here.id)
    assert "25 recorded policies differ" in words(body)
    assert "The 20 nearest in GBOPs are shown" in words(body)
    links = {one.href for one in find_all(body, dcc.Link)} - {"/study/small"}
    nearest = sorted(snapshot.rows[1:], key=lambda row: (abs(row.gbops - here.gbops), row.id))[:20]
    assert links == {f"/study/small/policy/{row.id}" for row in nearest}


def test_the_worth_of_a_bit_is_told(make_snapshots: Callable[..., Snapshots]) -> None:
    snapshots = make_snapshots([make_policy((4, 4), (4, 4)), make_policy((4, 7), (4, 4))])
    narrow, wide = snapshots.get("small").rows
    text = words(page.layout(snapshots, "small", narrow.id))
    assert "w block2, 4 → 5" in text
    assert f"{(wide.value - narrow.value) / 3:+.4f}" in text
    rest = "w block1, a block1, a block2"
    assert f"No recorded policy answers this for {rest}." in text


def test_nothing_is_estimated(make_snapshots: Callable[..., Snapshots]) -> None:
    alone = [make_policy((4, 4), (4, 4), 0.5), make_policy((4, 5), (4, 4), 0.6)]
    snapshots = make_snapshots(alone)
    text = words(page.layout(snapshots, "small", snapshots.get("small").rows[0].id))
    assert "No recorded policy answers this" in text
    assert "None of the 2 evaluations" in text


# The page


def test_the_page_says_what_was_recorded(make_snapshots: Callable[..., Snapshots]) -> None:
    chosen = make_policy((4, 8), (3, 6))
    snapshots = make_snapshots([make_policy((4, 4), (4, 4)), chosen])
    row = next(one for one in snapshots.get("small").rows if one.digest == chosen.digest)
    body = page.layout(snapshots, "small", row.id)
    text, found = words(body), measure(chosen)
    full = 100 + 2 * (300 + 50) + 10  # MACs at full depth, one head
    same = 100 * 64 + 300 * 12 + 50 * 9 + 300 * 48 + 50 * 36 + 10 * 64
    for said in (
        chosen.digest[:12],
        f"trial {row.trial}, hand",
        f"{found.value:.4f} ± {found.standard_error:.4f}",
        f"{found.cost.expected / 1e9:.4f}",
        f"{found.cost.p95 / 1e9:.4f}",
        f"{1 - found.cost.expected / (full * 1024):.2%}",
        f"{1 - found.cost.expected / (full * 64):.2%}",
        f"{1 - found.cost.expected / same:.2%}",
        "engine reference",
        "samples 200",
        "not certified",
    ):
        assert said in text
    assert "/study/small" in {one.href for one in find_all(body, dcc.Link)}
    graphs = {one.id for one in find_all(body, dcc.Graph)}
    assert graphs == {"policy-bits", "policy-exits", "policy-utilization", "policy-ledger"}
    assert all(one.config["showSendToCloud"] is False for one in find_all(body, dcc.Graph))


def test_risk_terms_are_told_or_said_to_be_missing(known: Evaluation) -> None:
    text = words(page.risk_table(known))
    for said in (
        "rescued: only right here 25.00%",
        "harmed: only wrong here 0.00%",
        "gap risk: mean change of loss -0.2500",
        "taken early, a sample 0.2500",
        "taken late, a sample 0.0000",
        "boundary risk: both 0.2500",
    ):
        assert said in text
    assert "were not recorded" in words(page.risk_table(replace(known, risk=None)))


def test_a_name_full_of_markup_is_text(make_snapshots: Callable[..., Snapshots]) -> None:
    name = "<img src=x>&/?#"
    snapshots = make_snapshots([make_policy((4, 4), (4, 4))], name=name)
    body = page.layout(snapshots, name, snapshots.get(name).rows[0].id)
    assert not find_all(body, dcc.Markdown)
    (link,) = find_all(body, dcc.Link)
    assert link.children == name
    assert link.href == "/study/%3Cimg%20src%3Dx%3E%26%2F%3F%23"


def test_a_number_of_no_evaluation_is_one_line(make_snapshots: Callable[..., Snapshots]) -> None:
    snapshots = make_snapshots([make_policy((4, 4), (4, 4))])
    with pytest.raises(BadInput, match=r"study 'small' has no evaluation 99: choose one of its 1"):
        page.layout(snapshots, "small", 99)


def test_an_evaluation_deleted_meanwhile_is_one_line(
    make_snapshots: Callable[..., Snapshots], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = make_snapshots([make_policy((4, 4), (4, 4))])
    snapshot = snapshots.get("small")
    gone = replace(snapshot, rows=[replace(snapshot.rows[0], id=77)])
    monkeypatch.setattr(snapshots, "get", lambda name: gone)
    with pytest.raises(BadInput, match="evaluation 77 is no longer in the store"):
        page.layout(snapshots, "small", 77)


# Callbacks, as the browser calls them

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(make_snapshots: Callable[..., Snapshots]) -> tuple[Ask, Snapshots]:
    snapshots = make_snapshots([make_policy((4, 8), (3, 6))])
    app = Dash(__name__, suppress_callback_exceptions=True)
    app.layout = html.Div()
    page.register(app, snapshots)
    client = app.server.test_client()
    declared = client.get("/_dash-dependencies").get_json()

    def call(output: str, **values: Any) -> dict[str, Any]:
        (one,) = [entry for entry in declared if f"{output}." in entry["output"]]
        outputs = [
            dict(zip(("id", "property"), name.split("."), strict=True))
            for name in one["output"].strip(".").split("...")
        ]
        body = {
            "output": one["output"],
            "outputs": outputs,
            "inputs": [{**each, "value": values[each["id"]]} for each in one["inputs"]],
            "state": [{**each, "value": values[each["id"]]} for each in one["state"]],
            "changedPropIds": [f"{each['id']}.{each['property']}" for each in one["inputs"]],
        }
        answer = client.post("/_dash-update-component", json=body)
        assert answer.status_code == 200, answer.text
        given: dict[str, Any] = answer.get_json()["response"]
        return given

    return call, snapshots


def test_figures_are_drawn_in_the_page_s_theme(ask: tuple[Ask, Snapshots]) -> None:
    call, snapshots = ask
    row = snapshots.get("small").rows[0]
    view = {"study": "small", "number": row.id}
    for mode in ("light", "dark"):
        given = call("policy-bits", **{"theme": mode, "policy-view": view})
        for name in ("bits", "exits", "utilization", "ledger"):
            layout = given[f"policy-{name}"]["figure"]["layout"]
            assert layout["paper_bgcolor"] == theme.colors(mode).paper
        assert given["policy-problem"]["children"] == ""
        rates = list(measure(row.policy).exit_rates)
        assert given["policy-exits"]["figure"]["data"][0]["y"] == rates


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"study": "none", "number": 1}, "no study 'none'"),
        ({"study": "small", "number": 99}, "has no evaluation 99"),
        ({"study": 5, "number": "1"}, "reload it"),
        ({}, "reload it"),
    ],
)
def test_a_wrong_view_is_told(ask: tuple[Ask, Snapshots], view: Any, said: str) -> None:
    call, _ = ask
    given = call("policy-bits", **{"theme": "light", "policy-view": view})
    assert said in given["policy-problem"]["children"]
    assert "policy-bits" not in given
    given = call("policy-download", **{"policy-button": 1, "policy-view": view})
    assert said in given["policy-note"]["children"]
    assert "policy-download" not in given


def test_a_database_that_is_away_is_told(ask: tuple[Ask, Snapshots], tmp_path: Path) -> None:
    call, snapshots = ask
    view = {"study": "small", "number": snapshots.get("small").rows[0].id}
    snapshots.reader.database.engine.dispose()
    for file in tmp_path.glob("s.db*"):
        file.rename(tmp_path / f"away-{file.name}")
    (tmp_path / "s.db").mkdir()
    given = call("policy-bits", **{"theme": "light", "policy-view": view})
    assert "cannot be drawn" in given["policy-problem"]["children"]


def test_the_download_is_the_bundle_that_pick_writes(
    ask: tuple[Ask, Snapshots], tmp_path: Path
) -> None:
    call, snapshots = ask
    snapshot = snapshots.get("small")
    row = snapshot.rows[0]
    view = {"study": "small", "number": row.id}
    given = call("policy-download", **{"policy-button": 1, "policy-view": view})
    file = given["policy-download"]["data"]
    assert file["filename"] == f"policy-{row.digest[:12]}.json"
    assert file["base64"] is False
    path = tmp_path / "downloaded.json"
    path.write_text(file["content"])
    bundle = read_policy_file(path)
    assert bundle.read_policy() == row.policy
    assert bundle.read_evaluation() == measure(row.policy)
    assert bundle.certificate is None
    write_policy_file(
        PolicyFile.of(snapshot.record, row, measure(row.policy)), tmp_path / "picked.json"
    )
    assert path.read_bytes() == (tmp_path / "picked.json").read_bytes()


def test_nothing_is_downloaded_unasked(ask: tuple[Ask, Snapshots]) -> None:
    call, snapshots = ask
    view = {"study": "small", "number": snapshots.get("small").rows[0].id}
    given = call("policy-download", **{"policy-button": 0, "policy-view": view})
    assert given == {}


def test_the_page_needs_neither_torch_nor_timm() -> None:
    code = (
        "import json, sys, dashboards.pages.policy.layout; "
        "print(json.dumps([name for name in ('torch', 'timm') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == []
