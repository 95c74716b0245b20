"""What pages are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from dashboards import theme
from dashboards.address import at
from search.errors import ExitbitsError
from studies.store.database import StoreUnavailable

POLL_MS = 2000


def guarded(build: Callable[[], Any]) -> Any:
    """What ``build`` gives, or what stands in the way, in words."""
    try:
        return build()
    except StoreUnavailable as error:
        return html.Div(
            [
                problem("The database does not answer.", str(error)),
                dcc.Interval(id="reconnect", interval=POLL_MS),
            ]
        )
    except ExitbitsError as error:
        return problem("This cannot be shown.", str(error))


def problem(what: str, why: str) -> html.Div:
    """An error state."""
    return html.Div([html.H1(what), html.P(why), dcc.Link("All studies", href=at("/"))],
                    className="problem", role="alert")  # fmt: skip


def empty(what: str, how: str, code: str = "") -> html.Div:
    """An empty state: what is missing and how it comes about."""
    return html.Div(
        [html.H2(what), html.P(how), *([html.Pre(code, tabIndex="0")] if code else [])],
        className="empty",
    )


def graph(name: str, label: str, figure: Any = None, height: int = 420, **more: Any) -> html.Div:
    """A figure with its place kept free while it loads."""
    return html.Div(
        dcc.Graph(
            id=name,
            config=theme.CONFIG,
            style={"height": f"{height}px"},
            **({} if figure is None else {"figure": figure}),
            **more,
        ),
        className="figure",
        role="group",
        **{"aria-label": label},
    )


def study_path(name: str) -> str:
    """Address of a study's front."""
    return at(f"/study/{quote(name, safe='')}")


def policy_path(name: str, number: int) -> str:
    """Address of an evaluation's page."""
    return f"{study_path(name)}/policy/{number}"


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> html.Div:
    """A small table; the first column is text, the others are figures."""
    return html.Div(
        html.Table(
            [
                *([html.Caption(caption)] if caption else []),
                html.Thead(html.Tr([html.Th(one, scope="col") for one in headings])),
                html.Tbody([html.Tr([html.Td(cell) for cell in row]) for row in rows]),
            ]
        ),
        className="scroll",
        tabIndex="0",
        role="group",
        **{"aria-label": caption or "table"},
    )
