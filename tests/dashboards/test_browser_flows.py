"""From a form to a compared front: what a person does over several pages, in a real browser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from running import command_env, command_line
from small_study import grow

from studies.records import StudyRecord
from studies.store.writer import StudyStore

pytestmark = pytest.mark.browser

WAIT_MS = 90_000
MakeRecord = Callable[..., StudyRecord]
Serve = Callable[..., str]


# Its trials take a second, so that a page sees them run.
RECORDED = """
name = "as-in-the-text"
model.checkpoint = "recorded:form@0.2"
data.dataset = "fashion"
engine.name = "reference"
sampler.name = "random"
trial = { harvest = 8, racing = 0 }
anchors = { bits = [4], thresholds = [0.9] }
budget.trials = 5
"""


def test_a_study_is_submitted_worked_on_and_seen(
    serve: Serve, quiet_page: Page, tmp_path: Path
) -> None:
    page = quiet_page
    store = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    address = serve(store.address, EXITBITS_CACHE=str(tmp_path / "cache"))
    page.goto(f"{address}/launch")
    page.get_by_label("Study, in TOML").fill(RECORDED)
    page.get_by_label("Name (empty: as in the text)").fill("from-the-form")
    page.get_by_label("Trials (empty: as in the text)").first.fill("many")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#launch-answer [role=alert]")).to_contain_text("many", timeout=WAIT_MS)
    assert store.names() == []
    page.get_by_label("Trials (empty: as in the text)").first.fill("2")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#launch-open")).to_contain_text("from-the-form", timeout=WAIT_MS)
    expect(page.locator("#launch-open")).to_contain_text("0 of 2 trials")

    options = ["--study", "from-the-form", "--until-done", "--cache", str(tmp_path / "cache")]
    worker = subprocess.Popen(
        command_line(["worker", "--store", store.address, *options]),
        cwd=tmp_path, env=command_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        page.goto(address)
        row = page.locator("#studies-table tbody tr")
        expect(row).to_contain_text("running", timeout=WAIT_MS)
        expect(row).to_contain_text("2/2", timeout=WAIT_MS)
        expect(row).to_contain_text("done", timeout=WAIT_MS)
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
    row.get_by_role("link").click()
    expect(page.locator("#front-status")).to_contain_text("Done: 2 of 2 trials", timeout=WAIT_MS)
    page.goto(f"{address}/study/from-the-form/policy/1")
    expect(page.locator("#content")).to_contain_text("boundary risk: both", timeout=WAIT_MS)


@pytest.fixture
def two(tmp_path: Path, make_record: MakeRecord) -> StudyStore:
    store = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    for name, trials in (("first", 4), ("second", 9), ("third", 0)):
        store.create(make_record(name=name, budget={"trials": 12}))
        grow(store, name, trials)
    return store


def test_search_and_order_of_the_studies_are_a_link(
    two: StudyStore, serve: Serve, quiet_page: Page
) -> None:
    page = quiet_page
    page.goto(serve(two.address))
    rows = page.locator("#studies-table tbody tr")
    expect(rows).to_have_count(3, timeout=WAIT_MS)
    page.get_by_label("Search").fill("ir")
    page.locator("#studies-sort").get_by_text("evaluations").click()
    expect(rows).to_have_count(2)
    page.wait_for_url("**/?*search=ir*")
    page.wait_for_url("**/?*sort=evaluations*")
    page.reload()
    expect(rows).to_have_count(2, timeout=WAIT_MS)
    assert page.get_by_label("Search").input_value() == "ir"
    assert [text.split()[0] for text in rows.all_inner_texts()] == ["first", "third"]
    query = urlsplit(page.url).query
    grow(two, "third", 6)
    expect(rows.first).to_contain_text("third", timeout=WAIT_MS)
    assert urlsplit(page.url).query == query


def test_studies_are_compared_in_one_figure(
    two: StudyStore, serve: Serve, quiet_page: Page
) -> None:
    page = quiet_page
    page.goto(f"{serve(two.address)}/compare?study=first&study=second")
    legend = page.locator("#compare-figure .legendtext")
    expect(legend.filter(has_text="first")).to_have_count(1, timeout=WAIT_MS)
    expect(legend.filter(has_text="second")).to_have_count(1)
    expect(page.locator("#compare-tables")).to_contain_text("hypervolume")
    page.get_by_text("treat them as seeds of one search").click()
    expect(legend.filter(has_text="attainment").first).to_be_visible(timeout=WAIT_MS)
    page.wait_for_url("**group=1*")
    page.reload()
    expect(legend.filter(has_text="attainment").first).to_be_visible(timeout=WAIT_MS)
    found = "() => document.querySelector('#compare-tables').innerText"
    before = page.evaluate(found)
    grow(two, "first", 5)
    page.wait_for_function(f"before => ({found})() !== before", arg=before)


def test_the_hypervolume_is_drawn_over_time(
    two: StudyStore, serve: Serve, quiet_page: Page
) -> None:
    page = quiet_page
    page.goto(f"{serve(two.address)}/study/second")
    title = page.locator("#front-course .xtitle")
    expect(title).to_have_text("evaluations recorded", timeout=WAIT_MS)
    page.locator("#front-over").get_by_text("time").click()
    expect(title).to_have_text("time of recording (UTC)")
    page.wait_for_url("**course=time*")
    page.reload()
    expect(title).to_have_text("time of recording (UTC)", timeout=WAIT_MS)
