"""A dashboard's callbacks, called as a browser's page would call them."""

from __future__ import annotations

import json
from typing import Any

from dash import Dash
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dashboards.security import CSRF_COOKIE, CSRF_HEADER

CALLBACK = "/_dash-update-component"


def callback_body(
    app: Dash, output: str, values: dict[str, Any], pressed: str | dict[str, str]
) -> dict[str, Any]:
    """What a page sends for the callback whose first output is ``output``.

    Args:
        app: whose callback it is.
        output: ``id.property`` of its first output, a pattern's id as its type.
        values: of its inputs and states, by ``id.property`` as above; a pattern's is a list of
            pairs of id and value. What is left out is null, or an empty list.
        pressed: id of the component whose input changed.
    """
    (found,) = [
        (key, one)
        for key, one in app.callback_map.items()
        if _plain(key.strip(".").split("...")[0]) == output
    ]
    key, callback = found

    def filled(part: dict[str, Any]) -> Any:
        name, prop = part["id"], part["property"]
        value = values.get(_plain(f"{name}.{prop}"))
        if not name.startswith("{"):
            return {"id": name, "property": prop, "value": value}
        return [{"id": one, "property": prop, "value": given} for one, given in value or []]

    inputs = [filled(part) for part in callback["inputs"]]
    changed = pressed
    if isinstance(pressed, dict):
        changed = json.dumps(pressed, sort_keys=True, separators=(",", ":"))
    flat = [part for one in inputs for part in (one if isinstance(one, list) else [one])]
    prop = next(part["property"] for part in flat if part["id"] == pressed)
    outputs: list[Any] = []
    for one in key.strip(".").split("..."):
        name, _, given = one.rpartition(".")
        if name.startswith("{"):  # one for each component that there is
            there = values.get(_plain(f"{name}.id"), [])
            outputs.append([{"id": part, "property": given} for part, _ in there])
        else:
            outputs.append({"id": name, "property": given})
    return {
        "output": key,
        "outputs": outputs if key.startswith("..") else outputs[0],
        "inputs": inputs,
        "state": [filled(part) for part in callback["state"]],
        "changedPropIds": [f"{changed}.{prop}"],
    }


def _plain(name: str) -> str:
    """``id.property`` with a pattern's id shortened to its type."""
    key, _, prop = name.rpartition(".")
    return f"{json.loads(key)['type']}.{prop}" if key.startswith("{") else name


def csrf(client: FlaskClient) -> dict[str, str]:
    """The header that a page of the dashboard sends, after the page was opened."""
    if client.get_cookie(CSRF_COOKIE) is None:
        client.get("/", headers={"Accept": "text/html"})
    cookie = client.get_cookie(CSRF_COOKIE)
    assert cookie is not None
    return {CSRF_HEADER: cookie.value}


def call(
    app: Dash, client: FlaskClient, output: str, values: dict[str, Any], pressed: Any
) -> TestResponse:
    """Call a callback as the dashboard's own page does."""
    body = callback_body(app, output, values, pressed)
    return client.post(CALLBACK, json=body, headers=csrf(client))
