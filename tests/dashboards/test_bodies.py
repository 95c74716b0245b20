"""What no page sends is answered with 400 and one line, never run, never a traceback."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import Dash
from dash_client import CALLBACK, callback_body, csrf
from flask.testing import FlaskClient
from small_study import grow

from dashboards.actions import MAX_TEXT, StudyActions
from dashboards.address import MAX_QUERY
from dashboards.app import create_app
from dashboards.bodies import VALUES
from dashboards.pages.compare.layout import Selection
from dashboards.pages.study.view import MAX_BRUSHES, MAX_CORNERS, FrontView
from search.errors import BadInput
from studies.config import MAX_THRESHOLDS
from studies.config_file import load_config
from studies.records import StudyRecord
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]

HOSTILE: list[Any] = [
    -1, 10**400, 1e308, True, "", "x", "-1", "\x00", [], [[]], [None], [-1, "a", {}], {},
    {"points": [{"curveNumber": -1}]}, {"points": [{}]}, {"points": 3}, {"base": "x"},
    {"xaxis.range[0]": "a", "xaxis.range[1]": None, "yaxis.range[0]": 1, "yaxis.range[1]": 1},
    {"xaxis.range[0]": 1e9, "xaxis.range[1]": 1e9, "yaxis.range[0]": 1, "yaxis.range[1]": 1},
    {"range": {"x": [1], "y": []}}, {"lassoPoints": {"x": [1, 2], "y": [1]}},
    [{"dimensions[x].constraintrange": [[1, 2]]}], [{"dimensions[0].constraintrange": [3]}],
    [{"dimensions[0].constraintrange": [[1, 2, 3]]}], {"colId": "policy", "rowId": "x"},
    "?brushes=-1,0,1", "?brushes=0,0,1;" * 500, "?zoom=1,2,3", "?budget=nan", "x" * 30_000,
    {"type": "x"}, [[1]], {"study": "small", "number": -1}, {"study": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dash, FlaskClient]:
    from small_study import FIELDS, small_ledger

    from studies.config import parse_config

    store = StudyStore(f"sqlite:///{tmp_path_factory.mktemp('s')}/s.db", create=True)
    config = parse_config(FIELDS, "test")
    store.create(StudyRecord(config, small_ledger(), 0.9, "accuracy", "f" * 64, "d" * 64))
    grow(store, "small", 6)
    app = create_app(store)
    client = app.server.test_client()
    client.get("/", headers={"Accept": "text/html"})
    return app, client


def callbacks(app: Dash) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, callback in app.callback_map.items():
        if "callback" in callback:  # else it runs in the browser
            yield key, callback


def bodies(app: Dash) -> Iterator[dict[str, Any]]:
    """A body of every callback, with values such as a page sends."""
    good = {
        "front-study.data": "small", "front-x.value": "log", "front-over.value": "evaluations",
        "front-show.value": ["dominated"], "front-view.data": "", "front-budget.max": 1.0,
        "front-seen.data": {"base": 3, "revision": 3, "trials": [], "marks": ""},
        "studies-sort.value": "name", "studies-share.value": "0.25", "studies-archived.value": [],
        "compare-seeds.value": [], "compare-studies.options": [], "compare-agreed.data": "",
        "policy-view.data": {"study": "small", "number": 1}, "theme.data": "light",
        "url.pathname": "/", "url.search": "", "front-status.className": "",
    }  # fmt: skip
    for key, _ in callbacks(app):
        output = key.strip(".").split("...")[0]
        name, _, prop = output.rpartition(".")
        plain = f"{json.loads(name)['type']}.{prop}" if name.startswith("{") else output
        first = app.callback_map[key]["inputs"][0]["id"]
        pressed = json.loads(first) if first.startswith("{") else first
        if isinstance(pressed, dict):
            one = {**pressed, **{k: 1 for k, v in pressed.items() if v == ["ALL"]}}
            one |= {"archived": True} if "archived" in one else {}
            one |= {"name": "fashion"} if "name" in one else {}
            values: dict[str, Any] = {f"{pressed['type']}.n_clicks": [(one, None)]}
            yield callback_body(app, plain, {**good, **values}, one)
        else:
            yield callback_body(app, plain, good, pressed)


def parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in body["inputs"] + body["state"]:
        yield from one if isinstance(one, list) else [one]


def test_every_value_that_a_callback_takes_is_described(served: tuple[Dash, FlaskClient]) -> None:
    app, _ = served
    taken = set()
    for _, callback in callbacks(app):
        for part in callback["inputs"] + callback["state"]:
            name = part["id"]
            name = json.loads(name)["type"] if name.startswith("{") else name
            taken.add(f"{name}.{part['property']}")
    assert taken == VALUES.keys()


def test_no_hostile_value_is_more_than_refused(
    served: tuple[Dash, FlaskClient], caplog: pytest.LogCaptureFixture
) -> None:
    app, client = served
    header, refused = csrf(client), 0
    for body in bodies(app):
        assert client.post(CALLBACK, json=body, headers=header).status_code in (200, 204), body
        for index, _ in enumerate(parts(body)):
            for value in HOSTILE:
                bad = copy.deepcopy(body)
                list(parts(bad))[index]["value"] = value
                answer = client.post(CALLBACK, json=bad, headers=header)
                assert answer.status_code in (200, 204, 400), (bad, answer.text)
                if answer.status_code == 400:
                    refused += 1
                    assert answer.text.count("\n") == 1
    assert refused > 500
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "change",
    [
        lambda body: [],
        lambda body: "text",
        lambda body: {},
        lambda body: {**body, "output": "nothing.children"},
        lambda body: {**body, "output": 3},
        lambda body: {**body, "inputs": None},
        lambda body: {**body, "inputs": []},
        lambda body: {**body, "inputs": [3] * len(body["inputs"])},
        lambda body: {**body, "inputs": body["inputs"] * 2},
        lambda body: {**body, "inputs": [{**one, "id": "url"} for one in body["inputs"]]},
        lambda body: {**body, "state": {}},
        lambda body: {**body, "outputs": None},
        lambda body: {**body, "outputs": [{}] * len(body["outputs"])},
        lambda body: {**body, "changedPropIds": ["url.search"]},
        lambda body: {**body, "changedPropIds": ["{"]},
        lambda body: {**body, "changedPropIds": 3},
        lambda body: {**body, "changedPropIds": [[]]},
    ],
)
def test_a_body_of_another_shape_is_refused(
    served: tuple[Dash, FlaskClient], change: Callable[[Any], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    app, client = served
    values = {"front-study.data": "small", "front-x.value": "log", "front-show.value": []}
    body = callback_body(app, "front-figure.figure", values, "front-x")
    answer = client.post(CALLBACK, json=change(body), headers=csrf(client))
    assert answer.status_code == 400
    assert answer.text.count("\n") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{", b"\xff", b"[" * 200_000, b'{"a": NaN}', b"9" * 5000]
)
def test_what_is_no_json_is_refused(served: tuple[Dash, FlaskClient], data: bytes) -> None:
    _, client = served
    answer = client.post(CALLBACK, data=data, headers=csrf(client), content_type="application/json")
    assert answer.status_code == 400


def test_a_negative_axis_is_left_out_like_any_other_word() -> None:
    assert FrontView.from_query("?brushes=-1,0,1").brushes == ()
    assert FrontView.from_query("?brushes=1,0,1").brushes == ((1, 0.0, 1.0),)


def test_every_list_in_an_address_has_a_limit() -> None:
    many = FrontView.from_query("?brushes=" + ";".join(["0,0,1"] * (MAX_BRUSHES + 50)))
    assert len(many.brushes) == MAX_BRUSHES
    many = FrontView.from_query("?selection=" + ";".join(["0,1"] * (MAX_CORNERS + 50)))
    assert len(many.selection) == MAX_CORNERS
    long = "?brushes=" + "0,0,1;" * MAX_QUERY
    assert FrontView.from_query(long) == FrontView()
    assert Selection.from_query("?" + "study=x&" * MAX_QUERY) == Selection()


def test_toml_takes_no_longer_than_a_page_may_wait(tmp_path: Path) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    deep = "[" + "a." * (MAX_TEXT // 4) + "b]\n"
    text = deep + "c.d=1\n" * ((MAX_TEXT - len(deep)) // 6)
    began = time.perf_counter()
    with pytest.raises(BadInput):
        StudyActions(store).check(text, None, None)
    assert time.perf_counter() - began < 5  # it was 20 s at eight times the length
    with pytest.raises(BadInput, match="at most"):
        StudyActions(store).check(text + "#" * MAX_TEXT, None, None)


def test_anchors_have_a_limit_and_errors_a_length(tmp_path: Path) -> None:
    values = ", ".join(f"{0.3 + index / 1e6:.6f}" for index in range(MAX_THRESHOLDS + 1))
    file = tmp_path / "study.toml"
    file.write_text(
        'name = "many"\n[model]\ncheckpoint = "bundled:fashion"\n[data]\ndataset = "fashion"\n'
        f"[anchors]\nthresholds = [{values}]\n"
    )
    with pytest.raises(BadInput, match=f"at most {MAX_THRESHOLDS}") as caught:
        load_config(str(file))
    assert len(str(caught.value)) < 600
