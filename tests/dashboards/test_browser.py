"""The dashboard in a real browser, over real stores, as a person uses it."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Download, Page, expect
from postgres import Postgres, new_database
from serving import Serve, serving
from small_study import grow

from dashboards.pages.study.view import FrontView
from dashboards.snapshot import Snapshots
from search.front import best_under
from studies.policy_file import read_policy_file
from studies.records import StudyRecord
from studies.store.writer import StudyStore

pytestmark = pytest.mark.browser

WAIT_MS = 40_000
MakeRecord = Callable[..., StudyRecord]


@pytest.fixture
def store(tmp_path: Path, make_record: MakeRecord) -> StudyStore:
    """A store of the test's own with one study of 40 trials, 30 of which are done."""
    return new_store(tmp_path, make_record)


def new_store(folder: Path, make_record: MakeRecord) -> StudyStore:
    store = StudyStore(f"sqlite:///{folder}/store.db", create=True)
    store.create(make_record(budget={"trials": 40}))
    grow(store, "small", 30)
    return store


@dataclass(frozen=True)
class Shown:
    """A dashboard and the store that it shows; tests leave the study ``small`` as it is."""

    store: StudyStore
    address: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, make_record: MakeRecord) -> Iterator[Shown]:
    """The dashboard of all tests here that do not need one of their own."""
    folder = tmp_path_factory.mktemp("shown")
    store = new_store(folder, make_record)
    with serving(folder) as start:
        yield Shown(store, start(store.address))


def open_front(page: Page, address: str, name: str = "small", query: str = "") -> None:
    page.goto(f"{address}/study/{quote(name, safe='')}{query}")
    expect(page.locator("#front-pick strong")).to_be_visible(timeout=WAIT_MS)
    page.wait_for_function(
        "() => document.querySelector('#front-figure .js-plotly-plot')?._fullLayout?.xaxis?.range"
    )
    expect(page.locator("#front-table .ag-row").first).to_be_visible(timeout=WAIT_MS)


def plot(page: Page, expression: str) -> Any:
    return page.evaluate(
        f"(() => {{const gd = document.querySelector('#front-figure .js-plotly-plot');"
        f"return {expression}}})()"
    )


def ranges(page: Page) -> list[float]:
    found: list[float] = plot(
        page, "[...gd._fullLayout.xaxis.range, ...gd._fullLayout.yaxis.range].map(Number)"
    )
    return found


def drag(page: Page, x0: float, y0: float, x1: float, y1: float) -> None:
    """Drag over the figure, in shares of its plotting area."""
    box = plot(
        page,
        "(() => {const r = gd.querySelector('.nsewdrag').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]})()",
    )
    page.mouse.move(box[0] + x0 * box[2], box[1] + y0 * box[3])
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(
            box[0] + (x0 + (x1 - x0) * step / 8) * box[2],
            box[1] + (y0 + (y1 - y0) * step / 8) * box[3],
        )
    page.mouse.up()


def choose_tool(page: Page, title: str) -> None:
    page.locator("#front-figure .js-plotly-plot").hover()
    page.locator(f"#front-figure [data-title='{title}']").click()


def view_of(page: Page) -> FrontView:
    return FrontView.from_query(urlsplit(page.url).query)


def wait_for_view(page: Page, wanted: Callable[[FrontView], bool]) -> FrontView:
    deadline = time.monotonic() + WAIT_MS / 1000
    while not wanted(view_of(page)):
        assert time.monotonic() < deadline, page.url
        page.wait_for_timeout(100)
    return view_of(page)


QUIET = """
quiet_ms => new Promise(resolve => {
  let timer = setTimeout(done, quiet_ms);
  const seen = new MutationObserver(() => {
    clearTimeout(timer);
    timer = setTimeout(done, quiet_ms);
  });
  seen.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  function done() { seen.disconnect(); resolve(); }
})
"""


def settle(page: Page, quiet_ms: int = 400) -> None:
    """Wait until the page has changed nothing for a while: what it had to draw is drawn."""
    page.evaluate(QUIET, quiet_ms)


def listed(page: Page) -> int:
    text = page.locator("#front-chosen").inner_text()
    found = re.match(r"\d+", text)
    assert found, text
    return int(found[0])


def test_a_study_grows_while_zoom_and_selection_stay(
    store: StudyStore, serve: Serve, quiet_page: Page
) -> None:
    page = quiet_page
    open_front(page, serve(store.address))
    drag(page, 0.02, 0.05, 0.75, 0.95)
    wait_for_view(page, lambda view: view.zoom is not None)
    choose_tool(page, "Box Select")
    drag(page, 0.1, 0.1, 0.9, 0.9)
    selected = wait_for_view(page, lambda view: bool(view.selection)).selection
    before = ranges(page)
    expect(page.locator("#front-status")).to_contain_text("30 of 40 trials")
    grow(store, "small", 5)
    expect(page.locator("#front-status")).to_contain_text("35 of 40 trials", timeout=WAIT_MS)
    drawn = "gd._fullData.slice(0, 8).reduce((sum, trace) => sum + (trace.x?.length || 0), 0)"
    page.wait_for_function(
        "() => {const gd = document.querySelector('#front-figure .js-plotly-plot');"
        f"return {drawn} === 35}}"
    )
    assert ranges(page) == pytest.approx(before, rel=1e-9)
    assert view_of(page).selection == selected
    assert plot(page, "gd._fullLayout.selections.length") == 1


def test_the_budget_names_the_best_policy_under_it(shown: Shown, quiet_page: Page) -> None:
    page = quiet_page
    open_front(page, shown.address)
    handle = page.locator("#front-budget [role=slider], #front-budget input").first
    handle.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    view = wait_for_view(page, lambda view: view.budget is not None)
    settle(page)
    view = view_of(page)
    assert view.budget is not None
    snapshot = Snapshots(shown.store).get("small")
    index = best_under(snapshot.points, view.budget)
    assert index is not None
    pick = page.locator("#front-pick")
    expect(pick).to_contain_text(snapshot.rows[index].digest[:8])
    expect(pick).to_contain_text(f"{snapshot.rows[index].value:.4f}")
    page.wait_for_function(
        "cost => {const gd = document.querySelector('#front-figure .js-plotly-plot');"
        "const mark = gd._fullData.find(t => t.name === 'best under the budget');"
        "return Math.abs(mark.x[0] / cost - 1) < 1e-6}",
        arg=snapshot.rows[index].gbops,
    )


@pytest.mark.parametrize("tool", ["Box Select", "Lasso Select"])
def test_a_selection_drives_the_table(tool: str, shown: Shown, quiet_page: Page) -> None:
    page = quiet_page
    open_front(page, shown.address)
    choose_tool(page, tool)
    if tool == "Box Select":
        drag(page, 0.05, 0.3, 0.7, 0.98)
    else:
        area = page.locator("#front-figure .nsewdrag").bounding_box()
        assert area
        corners = [(0.05, 0.3), (0.7, 0.2), (0.75, 0.95), (0.1, 0.98), (0.05, 0.32)]
        page.mouse.move(area["x"] + 0.05 * area["width"], area["y"] + 0.3 * area["height"])
        page.mouse.down()
        for x, y in corners:
            page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"], steps=6)
        page.mouse.up()
    view = wait_for_view(page, lambda view: len(view.selection) >= 4)
    snapshot = Snapshots(shown.store).get("small")
    expected = int(view.selected(snapshot.points).sum())
    assert 0 < expected < len(snapshot.rows)
    expect(page.locator("#front-chosen")).to_contain_text(f"{expected} policies selected")
    expect(page.locator("#front-table")).to_contain_text(f"of {expected}")
    page.locator("#front-clear").click()
    expect(page.locator("#front-chosen")).to_contain_text("on the front", timeout=WAIT_MS)
    wait_for_view(page, lambda view: not view.selection)


def test_brushing_an_axis_drives_table_and_figure(shown: Shown, quiet_page: Page) -> None:
    page = quiet_page
    open_front(page, shown.address)
    everything = listed(page)
    page.locator("#front-parallel").scroll_into_view_if_needed()
    axis = page.locator("#front-parallel .parcoords .axis-brush").first
    box = axis.bounding_box()
    assert box
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + box["height"] * 0.55)
    page.mouse.down()
    page.mouse.move(x, box["y"] + box["height"] * 0.98, steps=8)
    page.mouse.up()
    view = wait_for_view(page, lambda view: bool(view.brushes))
    (axis_number, low, high), *_ = view.brushes
    snapshot = Snapshots(shown.store).get("small")
    bits = [row.policy.bits.weights[axis_number] for row in snapshot.summary.front_rows]
    expected = sum(low <= one <= high for one in bits)
    assert expected < everything
    expect(page.locator("#front-chosen")).to_contain_text(f"{expected} policies")
    chosen = "(gd._fullData.find(t => t.name === 'selected')?.x || []).length"
    page.wait_for_function(
        "() => {const gd = document.querySelector('#front-figure .js-plotly-plot');"
        f"return {chosen} === {expected}}}"
    )


def test_an_address_gives_the_same_view_again(shown: Shown, quiet_page: Page) -> None:
    page = quiet_page
    open_front(page, shown.address)
    page.locator("#front-show").get_by_text("standard errors").click()
    drag(page, 0.05, 0.1, 0.8, 0.95)
    wait_for_view(page, lambda view: view.zoom is not None)
    choose_tool(page, "Box Select")
    drag(page, 0.1, 0.1, 0.9, 0.9)
    view = wait_for_view(page, lambda view: bool(view.selection) and not view.errors)
    settle(page)
    before, rows = ranges(page), listed(page)
    page.reload()
    expect(page.locator("#front-table .ag-row").first).to_be_visible(timeout=WAIT_MS)
    page.wait_for_function(
        "() => document.querySelector('#front-figure .js-plotly-plot')?._fullLayout?.selections"
    )
    settle(page)
    assert ranges(page) == pytest.approx(before, rel=1e-4)
    assert listed(page) == rows
    assert view_of(page) == view
    assert plot(page, "gd._fullLayout.selections.length") == 1
    assert plot(page, "gd._fullData.find(t => t.name === 'Pareto front').error_y.visible") is False


def save(download: Download, path: Path) -> str:
    download.save_as(path)
    return path.read_text()


def test_downloads_can_be_read(shown: Shown, quiet_page: Page, tmp_path: Path) -> None:
    page = quiet_page
    address = shown.address
    open_front(page, address)
    snapshot = Snapshots(shown.store).get("small")
    with page.expect_download() as caught:
        page.locator("#front-csv").click()
    rows = list(csv.DictReader(io.StringIO(save(caught.value, tmp_path / "a.csv"))))
    assert [row["digest"] for row in rows] == [row.digest for row in snapshot.summary.front_rows]
    with page.expect_download() as caught:
        page.locator("#front-html").click()
    text = save(caught.value, tmp_path / "a.html")
    assert text.startswith("<!doctype html>")
    assert snapshot.summary.front_rows[0].digest[:8] in text
    with page.expect_download() as caught:
        choose_tool(page, "Download plot as a PNG")
    caught.value.save_as(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    row = snapshot.summary.front_rows[0]
    page.goto(f"{address}/study/small/policy/{row.id}")
    button = page.get_by_role("button", name=re.compile("policy", re.I)).first
    with page.expect_download() as caught:
        button.click()
    caught.value.save_as(tmp_path / "policy.json")
    bundle = read_policy_file(tmp_path / "policy.json")
    assert bundle.read_policy() == row.policy
    assert json.loads((tmp_path / "policy.json").read_text())["digest"] == row.digest


def test_an_empty_store_says_how_to_begin(serve: Serve, quiet_page: Page, tmp_path: Path) -> None:
    address = serve(StudyStore(f"sqlite:///{tmp_path}/none.db", create=True).address)
    quiet_page.goto(address)
    expect(quiet_page.locator("#content")).to_contain_text("No studies yet", timeout=WAIT_MS)
    quiet_page.goto(f"{address}/study/nothing")
    expect(quiet_page.locator("[role=alert]")).to_contain_text("no study 'nothing'")
    quiet_page.goto(f"{address}/nonsense")
    expect(quiet_page.locator("[role=alert]")).to_contain_text("no such page")


def test_a_study_without_evaluations(
    shown: Shown, quiet_page: Page, make_record: MakeRecord
) -> None:
    study = shown.store.create(make_record(name="empty"))
    assert study
    quiet_page.goto(f"{shown.address}/study/empty")
    expect(quiet_page.locator("#front-summary")).to_contain_text("exitbits worker", timeout=WAIT_MS)
    expect(quiet_page.locator("#front-figure")).to_contain_text("no evaluation yet")
    grow(shown.store, "empty", 2)
    expect(quiet_page.locator("#front-chosen")).not_to_contain_text("0 pol", timeout=WAIT_MS)
    shown.store.delete(study.id)


def test_a_database_that_goes_and_comes_back(
    serve: Serve, page: Page, make_record: MakeRecord
) -> None:
    server = Postgres()
    server.start()
    try:
        store = StudyStore(new_database(server.url()), create=True)
        store.create(make_record())
        grow(store, "small", 6)
        page.set_viewport_size({"width": 1440, "height": 900})
        open_front(page, serve(store.address))
        store.database.engine.dispose()
        server.kill()
        expect(page.locator("#front-status")).to_contain_text("Not up to date", timeout=30_000)
        drawn = "gd._fullData.slice(0, 4).reduce((sum, trace) => sum + trace.x.length, 0)"
        assert plot(page, drawn) == 6  # what was drawn is still there
        page.reload()
        expect(page.locator("[role=alert]")).to_contain_text("does not answer", timeout=30_000)
        server.start()
        expect(page.locator("#front-status")).to_contain_text("6 of 12 trials", timeout=30_000)
        grow(store, "small", 3)
        expect(page.locator("#front-status")).to_contain_text("9 of 12 trials", timeout=30_000)
        store.database.engine.dispose()
    finally:
        server.close()


def test_a_name_full_of_markup_is_text(
    shown: Shown, quiet_page: Page, make_record: MakeRecord
) -> None:
    name = "<img src=x onerror=\"document.title='owned'\">&<b>bold</b>'\"/?#%"
    study = shown.store.create(make_record(name=name))
    assert study
    grow(shown.store, name, 5)
    page = quiet_page
    page.goto(shown.address)
    link = page.get_by_role("link", name=name)
    expect(link).to_be_visible(timeout=WAIT_MS)
    link.click()
    expect(page.locator("h1")).to_have_text(name, timeout=WAIT_MS)
    expect(page.locator("#front-pick strong")).to_be_visible(timeout=WAIT_MS)
    for path, drawn in (
        (f"/compare?study={quote(name, safe='')}", "#compare-tables td"),
        ("/launch", "#launch-open [role=group]"),
    ):
        page.goto(shown.address + path)
        expect(page.locator(drawn).first).to_be_visible(timeout=WAIT_MS)
        expect(page.locator("#content")).to_contain_text(name)
        settle(page)
        assert page.title() == "exitbits"
        assert page.locator("img[src=x]").count() == 0
    shown.store.delete(study.id)


def test_login_and_refusal(store: StudyStore, serve: Serve, page: Page) -> None:
    token = "correct horse battery"
    address = serve(store.address, EXITBITS_TOKEN=token)
    page.goto(f"{address}/study/small?x=linear")
    expect(page).to_have_url(re.compile("/login"))
    page.get_by_label("Access token").fill("wrong guess, certainly")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[role=alert]")).to_contain_text("not the token")
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(re.compile(r"/study/small\?x=linear"))
    expect(page.locator("#front-pick strong")).to_be_visible(timeout=WAIT_MS)
    assert token not in page.url
    assert token not in page.content()
    session = next(one for one in page.context.cookies() if one["name"] == "exitbits_session")
    assert session["httpOnly"]
    assert session["sameSite"] == "Strict"


def test_both_themes(shown: Shown, quiet_page: Page) -> None:
    page = quiet_page
    open_front(page, shown.address)
    colors = []
    for label in ("Dark theme", "Light theme"):
        colors.append(
            (page.evaluate("getComputedStyle(document.body).backgroundColor"),
             plot(page, "gd._fullLayout.paper_bgcolor"))
        )  # fmt: skip
        page.get_by_role("button", name=label).click()
        expect(page.get_by_role("button", name=label)).to_have_count(0)
        page.wait_for_function(
            "before => document.querySelector('#front-figure .js-plotly-plot')"
            "._fullLayout.paper_bgcolor !== before",
            arg=colors[-1][1],
        )
    assert colors[0] != colors[1]
    assert colors[0][1].lower() == "#ffffff"
    assert colors[1][1].lower() == "#14181f"
    page.get_by_role("button", name="Dark theme").click()
    expect(page.get_by_role("button", name="Light theme")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Light theme")).to_be_visible(timeout=WAIT_MS)


def test_archiving_a_study(store: StudyStore, serve: Serve, quiet_page: Page) -> None:
    page = quiet_page
    page.goto(serve(store.address))
    page.get_by_role("button", name="archive small").click(timeout=WAIT_MS)
    expect(page.locator("#studies-table")).to_contain_text("No studies yet", timeout=WAIT_MS)
    assert store.names() == []
    page.get_by_text("show archived").click()
    page.get_by_role("button", name="restore small").click(timeout=WAIT_MS)
    expect(page.get_by_role("button", name="archive small")).to_be_visible(timeout=WAIT_MS)
    assert store.names() == ["small"]


# Every page, and something on it that is there when it has been drawn.
PAGES = {
    "/": "#studies-table tbody tr",
    "/study/small": "#front-table .ag-row",
    "/study/small/policy/{id}": "#content .js-plotly-plot .main-svg",
    "/compare?study=small": "#compare-figure .legendtext",
    "/launch": "#launch-open [role=group]",
}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_accessible_and_fits_the_window(
    path: str, shown: Shown, quiet_page: Page
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = quiet_page
    number = Snapshots(shown.store).get("small").summary.front_rows[0].id
    page.goto(shown.address + path.format(id=number))
    for label in ("Dark theme", "Light theme"):
        expect(page.locator(PAGES[path]).first).to_be_visible(timeout=WAIT_MS)
        settle(page)
        serious = [
            (one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:3])
            for one in Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []
        page.get_by_role("button", name=label).click()
        expect(page.get_by_role("button", name=label)).to_have_count(0)
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
