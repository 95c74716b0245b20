"""The page of a front: complete, faithful to the store, and silent towards the outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_study import grow

from dashboards import theme
from dashboards.report.figures import bits_figure, exits_figure, front_figure
from dashboards.report.page import front_page, summary_text, write_front_page
from search.errors import BadInput
from studies.fronts import FrontSummary
from studies.records import StudyRecord
from studies.store.writer import StudyStore


@pytest.fixture
def summarize(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> Callable[..., FrontSummary]:
    def make(name: str = "small", evaluated: int = 12) -> FrontSummary:
        store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
        store.create(make_record(name=name))
        grow(store, name, evaluated)
        return FrontSummary.load(store, store.get(name))

    return make


def test_the_figure_shows_every_evaluation_once(summarize: Callable[..., FrontSummary]) -> None:
    summary = summarize()
    figure = front_figure(summary)
    drawn = [
        (x, y)
        for trace in figure.data
        if not trace.name.startswith("knee")
        for x, y in zip(trace.x, trace.y, strict=True)
    ]
    expected = [(row.gbops, row.value) for row in summary.rows]
    assert sorted(drawn) == sorted(expected)
    front = next(trace for trace in figure.data if trace.name.startswith("Pareto"))
    assert list(front.x) == [row.gbops for row in summary.front_rows]


def test_axes_carry_units_and_traces_names(summarize: Callable[..., FrontSummary]) -> None:
    summary = summarize()
    figure = front_figure(summary)
    assert "GBOPs a sample" in figure.layout.xaxis.title.text
    assert "accuracy" in figure.layout.yaxis.title.text
    assert all(trace.name for trace in figure.data)


def test_exit_shares_and_bits_are_the_recorded_ones(summarize: Callable[..., FrontSummary]) -> None:
    summary = summarize()
    shares = np.array([trace.y for trace in exits_figure(summary).data])
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    assert shares.shape == (2, len(summary.front))
    (heat,) = bits_figure(summary).data
    first = summary.front_rows[0].policy
    column = [int(row[0]) for row in heat.z]
    assert column == [*reversed(first.bits.activations), *reversed(first.bits.weights)]


def test_the_page_asks_nobody(summarize: Callable[..., FrontSummary]) -> None:
    page = front_page(summarize())
    assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page) == []
    configs = re.findall(r'\{"displaylogo": ?false[^}]*', page)
    assert len(configs) == 3
    assert all('"showSendToCloud":false' in text.replace(" ", "") for text in configs)
    assert theme.CONFIG["showSendToCloud"] is False


def test_markup_in_a_name_stays_text(summarize: Callable[..., FrontSummary]) -> None:
    page = front_page(summarize(name="<script>alert(1)</script>&"))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_the_words_agree_with_the_figures(summarize: Callable[..., FrontSummary]) -> None:
    summary = summarize()
    floor = summary.record.reference_value - 0.01
    near = [row.gbops for row in summary.rows if row.value >= floor]
    text = summary_text(summary)
    if near:
        assert f"costs {min(near):.4f} GBOPs" in text
    else:
        assert "No policy yet" in text


def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, summarize: Callable[..., FrontSummary]
) -> None:
    summary = summarize(evaluated=4)
    path = write_front_page(summary, tmp_path / "front.html")
    assert path.read_text() == front_page(summary)
    with pytest.raises(BadInput, match="--report"):
        write_front_page(summary, tmp_path / "front.html" / "below.html")
