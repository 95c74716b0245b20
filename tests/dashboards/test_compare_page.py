"""Comparing studies: the figure shows the fronts, the numbers are those of brute force."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import Dash, Patch, dcc, html, no_update
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.utils import PlotlyJSONEncoder
from small_study import grow, small_ledger

from dashboards import theme
from dashboards.pages import parts
from dashboards.pages.compare import layout as compare
from dashboards.pages.compare import tables as compare_tables
from dashboards.pages.compare.attainment import attainment
from dashboards.pages.compare.comparison import (
    LEVELS,
    SHARES,
    Comparison,
    dominations,
    listed,
    standings,
    summary_text,
)
from dashboards.pages.compare.figures import MAX_STUDIES, band_outline, compare_figure, style_of
from dashboards.pages.compare.layout import Selection, answer, layout, written_query
from dashboards.snapshot import Snapshot, Snapshots
from search.cost import Ledger
from search.errors import BadInput
from studies.records import EvaluationRow, Progress, StudyRecord
from studies.store.database import StoreUnavailable
from studies.store.writer import StudyStore

Made = Callable[..., Snapshot]


class Bench:
    """A store with studies, filled on demand."""

    def __init__(self, folder: Path, make_record: Callable[..., StudyRecord]) -> None:
        self.store = StudyStore(f"sqlite:///{folder}/s.db", create=True)
        self.snapshots = Snapshots(self.store)
        self._make_record = make_record

    def study(self, name: str, seed: int = 0, evaluated: int = 4, **changes: Any) -> Snapshot:
        """Create a study, evaluate some of its trials, and return its snapshot."""
        record = self._make_record(name=name, sampler={"name": "random", "seed": seed})
        self.store.create(replace(record, **changes))
        self.evaluate(name, evaluated)
        return self.snapshots.get(name)

    def evaluate(self, name: str, count: int) -> None:
        """Evaluate the next trials of a study."""
        grow(self.store, name, count)

    def page(self, query: str, seen: Any = None, mode: str = "light") -> dict[str, Any]:
        """See :func:`page_of`."""
        return page_of(self.snapshots, query, seen, mode)


def page_of(snapshots: Any, query: str, seen: Any = None, mode: str = "light") -> dict[str, Any]:
    """What the page's callback answers, by component."""
    keys = ("options", "notes", "hidden", "figure", "summary", "tables", "seen")
    return dict(zip(keys, answer(snapshots, query, mode, seen), strict=True))


@pytest.fixture
def bench(tmp_path: Path, make_record: Callable[..., StudyRecord]) -> Bench:
    return Bench(tmp_path, make_record)


class Held(dict[str, Snapshot]):
    """Snapshots that need no store."""

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of the studies."""
        return sorted(self)

    def get(self, name: str) -> Snapshot:  # type: ignore[override]
        """The study."""
        return self[name]


@pytest.fixture
def made(make_record: Callable[..., StudyRecord]) -> Made:
    """Make a snapshot whose evaluations are drawn at random, without a store."""

    def make(name: str, seed: int = 0, count: int = 160, **changes: Any) -> Snapshot:
        rng, policy = np.random.default_rng(seed), '{"never": "read"}'
        sampler = {"name": "random", "seed": seed}
        record = replace(make_record(name=name, sampler=sampler), **changes)
        dearest = Snapshot(1, record, Progress(12, 12, 0, 0, 0)).summary.w8a8_gbops
        costs = np.round(dearest * rng.uniform(0.05, 1, count), 7)
        # Few distinct values, so that equal metrics and costs come up within and between studies.
        values = np.round(np.sqrt(costs / dearest) * rng.uniform(0.7, 1, count), 2)
        rows = [
            EvaluationRow(1000 * seed + i, i, i + 1, "random", f"{seed:04}{i:060}",
                          float(values[i]), 0.01, float(costs[i]), float(costs[i]), 1.5, policy)
            for i in range(count)
        ]  # fmt: skip
        progress = Progress(max(1, count), count, 0, 0, 0)
        return Snapshot(1, record, progress).extended(record, progress, rows)

    return make


@pytest.fixture
def three(made: Made) -> Comparison:
    """Three seeds of one search."""
    return Comparison(tuple(made(f"seed {seed}", seed) for seed in range(3)))


def parts_of(component: Any) -> Iterator[Any]:
    """A component and all that is in it, strings included."""
    if isinstance(component, (list, tuple)):
        for one in component:
            yield from parts_of(one)
        return
    yield component
    children = getattr(component, "children", None)
    if children is not None:
        yield from parts_of(children)


def text_of(component: Any) -> str:
    """All text of a component, in reading order."""
    return " ".join(str(one) for one in parts_of(component) if isinstance(one, (str, int, float)))


def table_cells(tables: Any, number: int) -> list[list[str]]:
    """Text of the cells of one of the page's tables, without its heading."""
    found = [one for one in parts_of(tables) if isinstance(one, html.Tbody)][number]
    return [
        [text_of(cell.children) for cell in parts_of(row) if isinstance(cell, html.Td)]
        for row in found.children
    ]


# The address

_NAMES = st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), unique=True)


@settings(deadline=None, derandomize=True)
@given(names=_NAMES, group=st.booleans())
def test_the_address_says_what_is_chosen(names: list[str], group: bool) -> None:
    chosen = Selection(tuple(names), group)
    assert Selection.from_query(chosen.to_query()) == chosen


def test_an_address_written_by_hand_is_read() -> None:
    found = Selection.from_query("?study=a&study=b%20c&study=a&group=1&other=2")
    assert found == Selection(("a", "b c"), True)
    assert Selection.from_query("?group=yes") == Selection() == Selection.from_query(None)


def test_an_address_stays_until_another_choice() -> None:
    query = "?study=gone&study=a"
    assert written_query(["a"], False, query, {"a", "b"}) == query
    assert written_query(["a", "b"], False, query, {"a", "b"}) == "?study=a&study=b"
    assert written_query(["a"], True, query, {"a", "b"}) == "?study=a&group=1"
    assert written_query([], False, query, {"a", "b"}) == ""


# The figure


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_study_has_its_front_as_a_step_line(three: Comparison, mode: str) -> None:
    figure = compare_figure(three, False, mode, "same")
    assert len(figure.data) == 3
    for trace, snapshot in zip(figure.data, three.snapshots, strict=True):
        rows = snapshot.summary.front_rows
        assert len(rows) > 1
        assert list(trace.x) == [row.gbops for row in rows]
        assert list(trace.y) == [row.value for row in rows]
        assert trace.line.shape == "hv"
        assert trace.name == snapshot.record.config.name
        assert all(row.digest[:12] in text for row, text in zip(rows, trace.hovertext, strict=True))
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert len({trace.line.color for trace in figure.data}) == 3
    assert figure.layout.xaxis.type == "log"
    assert "GBOPs a sample" in figure.layout.xaxis.title.text
    assert "accuracy" in figure.layout.yaxis.title.text
    assert figure.layout.paper_bgcolor == theme.colors(mode).paper


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_styles_are_told_apart(mode: str) -> None:
    styles = [style_of(index, mode) for index in range(MAX_STUDIES)]
    assert len(set(styles)) == MAX_STUDIES
    assert len({color for color, _, _ in styles[:8]}) == 8
    assert len({symbol for _, symbol, _ in styles[:8]}) == 8
    assert {dash for _, _, dash in styles[:8]} == {"solid"}
    assert styles[8][0] == styles[0][0]
    assert styles[8][2] != styles[0][2]
    assert theme.colors(mode).paper not in {color for color, _, _ in styles}


def test_a_study_keeps_its_style_when_it_gets_its_first_point(made: Made) -> None:
    first, second = made("first", count=0), made("second", 1)
    before = compare_figure(Comparison((first, second)), False, "light", "")
    after = compare_figure(Comparison((made("first"), second)), False, "light", "")
    waiting, drawn = before.data
    assert len(waiting.x) == 0
    assert waiting.showlegend is False
    assert after.data[0].showlegend is True
    assert [trace.name for trace in after.data] == ["first", "second"]
    assert drawn.line.color == after.data[1].line.color != after.data[0].line.color


def test_seeds_become_attainment_curves(three: Comparison) -> None:
    figure = compare_figure(three, True, "light", "same")
    fronts = [np.array([(r.value, r.gbops) for r in s.summary.front_rows]) for s in three.snapshots]
    costs, curves = attainment(fronts, LEVELS)
    band, *lines = figure.data
    assert band.fill == "toself"
    assert len(lines) == 3
    for line, curve, reach in zip(lines, curves, (1, 2, 3), strict=True):
        kept = ~np.isnan(curve)
        np.testing.assert_array_equal(line.x[:-1], costs[kept])
        np.testing.assert_array_equal(line.y[:-1], curve[kept])
        assert line.x[-1] > three.reference, "goes on to the edge of the figure"
        assert line.y[-1] == line.y[-2]
        assert f"reached by {reach} of 3" in line.name
        assert line.line.shape == "hv"
    assert lines[1].name.startswith("median")
    assert max(lines[0].y) >= max(lines[1].y) >= max(lines[2].y)


def test_the_band_has_the_area_between_its_curves() -> None:
    costs = np.array([1.0, 2.0, 4.0, 5.0])
    upper, lower = np.array([0.5, 0.6, 0.8, 0.9]), np.array([np.nan, 0.1, 0.4, 0.9])
    x, y = band_outline(costs, upper, lower)
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx((0.6 - 0.1) * 2 + (0.8 - 0.4) * 1)
    assert min(x) == 2.0


def test_markup_in_a_name_stays_text(made: Made) -> None:
    name = "<b>x</b><a href='y'>&"
    held = Held({name: made(name)})
    figure = compare_figure(Comparison((held[name],)), False, "light", "")
    (trace,) = figure.data
    assert trace.name == "&lt;b&gt;x&lt;/b&gt;&lt;a href='y'&gt;&amp;"
    assert all("<b>" not in text and "&lt;b&gt;x" in text for text in trace.hovertext)
    page = page_of(held, Selection((name,)).to_query())
    assert name in text_of(page["tables"])
    assert not any(isinstance(one, (dcc.Markdown, html.Iframe)) for one in parts_of(page["tables"]))


# The numbers


def staircase(rows: list[Any], corner: float) -> float:
    """Area of the union of boxes, strip by strip, as a share of the whole box."""
    edges = sorted({row.gbops for row in rows if row.gbops < corner} | {corner})
    area = 0.0
    for left, right in pairwise(edges):
        area += (right - left) * max(row.value for row in rows if row.gbops <= left)
    return area / corner


def larger_ledger() -> Ledger:
    """The small model with twice the work in every operation."""
    return Ledger(tuple(replace(op, macs=2 * op.macs) for op in small_ledger().ops), (1, 2))


def test_hypervolumes_share_the_largest_reference(made: Made) -> None:
    large = made("large", 1, ledger=larger_ledger(), model_digest="e" * 64)
    held = Held(small=made("small", 0), large=large)
    comparison = Comparison((held["small"], held["large"]))
    costs = [one.summary.w8a8_gbops for one in comparison.snapshots]
    assert costs[1] == pytest.approx(2 * costs[0])
    assert comparison.reference == costs[1]
    for one in standings(comparison):
        rows = list(one.snapshot.rows)
        assert one.hypervolume == pytest.approx(staircase(rows, costs[1]), rel=1e-9)
        for share, best in zip(SHARES, one.best, strict=True):
            within = [row.value for row in rows if row.gbops <= costs[1] / share]
            assert (best.value if best else None) == max(within, default=None)
    page = page_of(held, "?study=small&study=large")
    assert f"{costs[1]:.4g} GBOPs" in text_of(page["tables"])
    small, other = table_cells(page["tables"], 0)
    assert small[0] == "small"
    assert small[1] == f"{standings(comparison)[0].hypervolume:.4f}"
    assert small[2:5] == ["160", "160 of 160", str(len(comparison.snapshots[0].front))]
    assert other[1] == f"{standings(comparison)[1].hypervolume:.4f}" != small[1]


def test_dominations_are_those_of_a_double_loop(three: Comparison) -> None:
    found = dominations(three)
    names = [one.record.config.name for one in three.snapshots]
    assert [(one.ours.record.config.name, one.theirs.record.config.name) for one in found] == [
        (a, b) for a in names for b in names if a != b
    ]
    expected: set[tuple[int, int]] = set()
    for one in found:
        pairs = {
            (a.id, b.id)
            for a in one.ours.summary.front_rows
            for b in one.theirs.summary.front_rows
            if (a.value > b.value and a.gbops <= b.gbops)
            or (a.value >= b.value and a.gbops < b.gbops)
        }
        assert one.pairs == len(pairs)
        assert one.count == len({b for _, b in pairs})
        expected |= pairs
    assert expected, "the seeds are too much alike for this test"
    rows = listed(found, 10_000)
    assert len(rows) == len(expected)
    assert {(a.id, b.id) for _, a, b in rows} == expected


def test_a_capped_list_is_dealt_out_over_the_studies(three: Comparison) -> None:
    found = dominations(three)
    total = sum(one.pairs for one in found)
    for cap in (0, 1, 5, 50, total - 1, total, total + 1):
        rows = listed(found, cap)
        assert len(rows) == min(cap, total)
        counts = [sum(one is row[0] for row in rows) for one in found]
        most = max(counts, default=0)
        # Whoever has less than another has nothing more to give, or missed one round's turn.
        assert all(n == one.pairs or n >= most - 1 for n, one in zip(counts, found, strict=True))


def test_each_dominated_policy_comes_first_with_its_best_dominator(three: Comparison) -> None:
    one = max(dominations(three), key=lambda pair: pair.pairs)
    assert one.pairs > one.count > 0
    first = listed([one], one.count)
    assert len({loser.id for _, _, loser in first}) == one.count
    for _, winner, loser in first:
        dominating = [a.value for a in one.ours.summary.front_rows if a.gbops <= loser.gbops]
        assert winner.value == max(dominating)


def test_the_page_lists_at_most_fifty_and_says_how_many_there_are(
    three: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held({one.record.config.name: one for one in three.snapshots})
    total = sum(one.pairs for one in dominations(three))
    assert total > compare_tables.LISTED
    query = "?study=seed+0&study=seed+1&study=seed+2"
    page = page_of(held, query)
    matrix, rows = table_cells(page["tables"], 1), table_cells(page["tables"], 2)
    counts = iter(dominations(three))
    for i, line in enumerate(matrix):
        for j, cell in enumerate(line[1:]):
            one = None if i == j else next(counts)
            assert cell == ("" if one is None else f"{one.count} of {len(one.theirs.front)}")
    assert len(rows) == compare_tables.LISTED
    monkeypatch.setattr(compare_tables, "LISTED", 3)
    page = page_of(held, query)
    assert len(table_cells(page["tables"], 2)) == 3
    assert f"3 of {total:,} pairs" in text_of(page["tables"])
    links = {one.href for one in parts_of(page["tables"]) if isinstance(one, dcc.Link)}
    known = {
        parts.policy_path(one.record.config.name, row.id)
        for one in three.snapshots
        for row in one.summary.front_rows
    }
    policies = {href for href in links if "/policy/" in href}
    assert len(policies) >= 3
    assert policies <= known


def test_the_words_agree_with_the_numbers(three: Comparison) -> None:
    text = summary_text(three, False)
    found = standings(three)
    best = max(found, key=lambda one: one.hypervolume)
    assert f"that of {best.snapshot.record.config.name} has the largest" in text
    assert f"{min(one.hypervolume for one in found):.4f}" in text
    for share in SHARES:
        limit = three.reference / share
        reached = [
            max([row.value for row in one.rows if row.gbops <= limit], default=None)
            for one in three.snapshots
        ]
        values = sorted((one for one in reached if one is not None), reverse=True)
        assert f"Under {limit:.4g} GBOPs" in text
        if values:
            assert f"the best accuracy is {values[0]:.4f}" in text
        seeds = summary_text(three, True)
        for k, value in enumerate(values, start=1):
            assert f"{k} of 3 reach {value:.4f}" in seeds


# What the page says when there is little to show


def test_an_empty_store_says_how_to_begin(bench: Bench) -> None:
    page = bench.page("")
    assert "no study in this store" in text_of(page["notes"])
    assert page["hidden"] is True
    assert page["figure"] is no_update
    bench.study("first", evaluated=0)
    later = bench.page("", page["seen"])
    assert "No study is chosen" in text_of(later["notes"])
    assert [one["value"] for one in later["options"]] == ["first"]


def test_a_name_that_does_not_exist_is_named_and_left_out(bench: Bench) -> None:
    bench.study("there")
    page = bench.page("?study=gone&study=there")
    assert "'gone'" in text_of(page["notes"])
    assert [trace.name for trace in page["figure"].data] == ["there"]
    assert page["hidden"] is False
    (dropdown,) = [
        one
        for one in parts_of(layout(bench.snapshots, "?study=gone&study=there&group=1"))
        if isinstance(one, dcc.Dropdown)
    ]
    assert dropdown.value == ["there"]


def test_a_study_without_evaluations_is_named_and_waits(bench: Bench) -> None:
    bench.study("done")
    bench.study("new", evaluated=0)
    page = bench.page("?study=new")
    assert "has an evaluation yet" in text_of(page["notes"])
    assert page["hidden"] is True
    for query in ("?study=new&study=done", "?study=new&study=done&group=1"):
        page = bench.page(query)
        assert "new" in text_of(page["notes"])
        assert page["hidden"] is False
        assert table_cells(page["tables"], 0)[0][:5] == ["new", "0.0000", "0", "0 of 12", "0"]


def test_different_metrics_are_refused_in_one_sentence(made: Made) -> None:
    held = Held(a=made("a"), b=made("b", metric="mean IoU"))
    with pytest.raises(BadInput, match="accuracy: a; mean IoU: b"):
        Comparison((held["a"], held["b"]))
    page = page_of(held, "?study=a&study=b")
    assert "choose studies of one metric" in text_of(page["notes"])
    assert page["hidden"] is True
    assert page["figure"] is no_update
    assert page_of(held, "?study=b", page["seen"])["hidden"] is False


def test_unlike_studies_are_compared_with_a_caution(made: Made, three: Comparison) -> None:
    assert three.cautions(True) == []
    first = three.snapshots[0]
    (said,) = Comparison((first, made("b", 1, model_digest="e" * 64))).cautions(True)
    assert "different models" in said
    other = made("b", 1, data_digest="e" * 64)
    (said,) = Comparison((first, other)).cautions(False)
    assert "different images" in said
    page = page_of(Held(a=first, b=other), "?study=a&study=b")
    assert said in text_of(page["notes"])
    assert page["hidden"] is False
    config = first.record.config
    space = config.space.model_copy(update={"head_bits": 4})
    fewer = made("b", config=config.model_copy(update={"name": "fewer", "space": space}))
    (said,) = Comparison((first, fewer)).cautions(True)
    assert "fewer has another [space] than seed 0" in said
    assert Comparison((first, fewer)).cautions(False) == []


def test_one_study_asks_for_a_second(made: Made) -> None:
    page = page_of(Held(alone=made("alone")), "?study=alone")
    assert "Choose a second study" in text_of(page["tables"])


def test_more_studies_than_can_be_told_apart_are_cut(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "MAX_STUDIES", 2)
    page = page_of(Held({name: made(name) for name in "abc"}), "?study=a&study=b&study=c")
    assert "first 2 of 3" in text_of(page["notes"])
    assert [trace.name for trace in page["figure"].data] == ["a", "b"]


def test_archived_studies_can_be_chosen(bench: Bench) -> None:
    bench.study("old")
    bench.store.set_archived(bench.store.get("old").id, True)
    page = bench.page("?study=old")
    assert page["options"] == [{"label": "old (archived)", "value": "old"}]
    assert page["hidden"] is False


# Living on


def test_nothing_is_sent_when_nothing_is_new(bench: Bench) -> None:
    bench.study("running", evaluated=2)
    query = "?study=running"
    first = bench.page(query)
    assert set(bench.page(query, first["seen"]).values()) == {no_update}
    assert bench.page(query, first["seen"], "dark")["figure"] is not no_update
    assert bench.page(f"{query}&group=1", first["seen"])["figure"] is not no_update
    bench.evaluate("running", 3)
    second = bench.page(query, first["seen"])
    assert "5 of 12" in text_of(second["tables"])
    assert isinstance(second["figure"], Patch)
    assert second["seen"] != first["seen"]


def test_a_database_that_is_away_is_told_and_survived(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.study("a")
    first = bench.page("?study=a")

    def away(name: str) -> None:
        raise StoreUnavailable("cannot reach the database: it is away")

    with monkeypatch.context() as patch:
        patch.setattr(bench.snapshots, "get", away)
        page = bench.page("?study=a", first["seen"])
    assert "it is away" in text_of(page["notes"])
    assert page["seen"] != first["seen"]
    assert page["figure"] is no_update
    back = bench.page("?study=a", page["seen"])
    assert text_of(back["notes"]) == ""
    assert back["seen"] == first["seen"]


def patched(figure: Any, patch: Any) -> Any:
    """Apply a patch to plain values, as a browser does."""
    for step in patch.to_plotly_json()["operations"]:
        assert step["operation"] == "Assign"
        *path, last = step["location"]
        place = figure
        for key in path:
            place = place[key]
        place[last] = step["params"]["value"]
    return figure


def as_text(figure: Any) -> str:
    """A figure as its JSON, with its keys in order."""
    return json.dumps(figure, cls=PlotlyJSONEncoder, sort_keys=True)


@pytest.mark.parametrize("group", ["", "&group=1"])
def test_zoom_and_hidden_lines_stay_while_a_study_grows(made: Made, group: str) -> None:
    query = f"?study=a&study=b{group}"
    held = Held(a=made("a", 1, 20), b=made("b", 2, 0))
    first = page_of(held, query)
    shown = first["figure"].to_plotly_json()
    shown["layout"]["xaxis"] |= {"range": [-5.0, -4.5], "autorange": False}
    shown["data"][0]["visible"] = "legendonly"
    held["a"], held["b"] = made("a", 1, 40), made("b", 2, 40)
    for mode, seen in (("light", first["seen"]), ("dark", first["seen"])):
        after = patched(shown, page_of(held, query, seen, mode)["figure"])
        fresh = page_of(held, query, None, mode)["figure"].to_plotly_json()
        fresh["layout"]["xaxis"] |= {"range": [-5.0, -4.5], "autorange": False}
        fresh["data"][0]["visible"] = "legendonly"
        assert as_text(after) == as_text(fresh)
    assert len(after["data"]) == (4 if group else 2)
    changed = page_of(held, "?study=b&study=a", first["seen"])["figure"]
    assert isinstance(changed, go.Figure), "other studies are drawn anew"


# Through Dash itself


def call(app: Dash, output: str, **values: Any) -> Any:
    """Call the callback whose outputs contain ``output``, as a browser does."""
    (found,) = [
        one
        for one in app.server.test_client().get("/_dash-dependencies").get_json()
        if output in one["output"]
    ]
    outputs = [one.split("@")[0].rsplit(".", 1) for one in found["output"].strip(".").split("...")]

    def fill(given: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [{**one, "value": values[f"{one['id']}.{one['property']}"]} for one in given]

    body = {
        "output": found["output"],
        "outputs": [{"id": name, "property": key} for name, key in outputs],
        "inputs": fill(found["inputs"]),
        "state": fill(found["state"]),
        "changedPropIds": [values.get("changed", "url.search")],
    }
    return app.server.test_client().post("/_dash-update-component", json=body)


def test_the_page_in_an_application(bench: Bench) -> None:
    bench.study("a", 0)
    bench.study("b", 1)
    app = Dash(__name__, suppress_callback_exceptions=True)
    app.layout = html.Div([dcc.Location(id="url"), dcc.Store(id="theme"), html.Div(id="content")])
    compare.register(app, bench.snapshots)
    options = [{"label": name, "value": name} for name in ("a", "b")]
    state: dict[str, Any] = {
        "url.search": "?study=a&study=b", "url.pathname": "/compare", "theme.data": "light",
        "compare-poll.n_intervals": 0, "compare-seen.data": None, "compare-agreed.data": "",
        "compare-studies.options": options, "compare-studies.value": ["a", "b"],
        "compare-seeds.value": [],
    }  # fmt: skip
    drawn = call(app, "compare-figure.figure", **state).get_json()
    shown = drawn["response"]
    assert [trace["name"] for trace in shown["compare-figure"]["figure"]["data"]] == ["a", "b"]
    assert shown["compare-shown"]["hidden"] is False
    assert "hypervolume" in shown["compare-summary"]["children"]
    # The browser went there by itself, so the choice follows.
    assert drawn["sideUpdate"]["compare-studies"] == {"value": ["a", "b"]}
    assert drawn["sideUpdate"]["compare-agreed"] == {"data": "?study=a&study=b"}
    known = {
        **state,
        "compare-seen.data": shown["compare-seen"]["data"],
        "compare-agreed.data": "?study=a&study=b",
    }
    polled = {**known, "changed": "compare-poll.n_intervals"}
    assert call(app, "compare-figure.figure", **polled).status_code == 204
    away = {**known, "url.pathname": "/"}
    assert call(app, "compare-figure.figure", **away).status_code == 204

    agreed = {**state, "compare-agreed.data": "?study=a&study=b"}
    chosen = {**agreed, "compare-seeds.value": ["group"], "changed": "compare-seeds.value"}
    written = call(app, "url.search", **chosen).get_json()["response"]
    assert written["url"]["search"] == "?study=a&study=b&group=1"
    assert written["compare-agreed"]["data"] == "?study=a&study=b&group=1"
    # A choice that only followed the address is not written, also when the address has moved on.
    followed = {**agreed, "url.search": "?study=b", "changed": "compare-studies.value"}
    assert call(app, "url.search", **followed).status_code == 204
    # What this page wrote does not come back as a choice.
    assert "sideUpdate" not in call(app, "compare-figure.figure", **agreed).get_json()
