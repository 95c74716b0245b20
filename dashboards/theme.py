"""Colours, fonts and Plotly settings shared by every figure and page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette, told apart under the common colour blindnesses.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8F98",
)  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Colors:
    """What differs between the light and the dark theme.

    Attributes:
        ink: text.
        paper: background.
        grid: lines of a figure.
        front: the front itself, which must stand out on the paper.
    """

    ink: str
    paper: str
    grid: str
    front: str


_COLORS = {
    "light": Colors("#1C2430", "#FFFFFF", "#E4E7EC", BLUE),
    "dark": Colors("#E8EBF0", "#14181F", "#323A46", SKY),
}
INK, PAPER, GRID = _COLORS["light"].ink, _COLORS["light"].paper, _COLORS["light"].grid

# Figures stay on this machine: plotly.js offers by default to send them to a server.
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "showSendToCloud": False,
    "responsive": True,
    "scrollZoom": True,
    "toImageButtonOptions": {"format": "png", "scale": 2},
}


def colors(mode: str) -> Colors:
    """The colours of the theme ``mode``: ``"light"``, ``"dark"``, or light for anything else."""
    return _COLORS.get(mode, _COLORS["light"])


def layout(mode: str = "light", **changes: Any) -> dict[str, Any]:
    """The layout that every figure starts from."""
    chosen = colors(mode)
    return {
        # In full: a template's name would be looked up in Plotly's, which takes longer to send
        # and to apply than most figures.
        "template": _template(chosen),
        "font": {"family": FONT, "size": 13, "color": chosen.ink},
        "paper_bgcolor": chosen.paper,
        "plot_bgcolor": chosen.paper,
        "margin": {"l": 70, "r": 30, "t": 30, "b": 60},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hoverlabel": {"align": "left"},
        **changes,
    }


def _template(chosen: Colors) -> dict[str, Any]:
    """What figures do not say themselves: axes that make room for their labels, quiet lines."""
    axis = {
        "automargin": True,
        "gridcolor": chosen.grid,
        "linecolor": chosen.grid,
        "zerolinecolor": chosen.grid,
        "ticks": "",
        "title": {"standoff": 15},
    }
    return {
        "layout": {
            "autotypenumbers": "strict",
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": axis,
        }
    }
