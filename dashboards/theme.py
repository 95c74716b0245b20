"""Colours, fonts and Plotly settings shared by every figure and page."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette, told apart under the common colour blindnesses.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8F98",
)  # fmt: skip
INK, PAPER, GRID = "#1C2430", "#FFFFFF", "#E4E7EC"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Figures stay on this machine: plotly.js offers by default to send them to a server.
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "showSendToCloud": False,
    "responsive": True,
    "scrollZoom": True,
    "toImageButtonOptions": {"format": "png", "scale": 2},
}


def layout(**changes: Any) -> dict[str, Any]:
    """The layout that every figure starts from."""
    return {
        "template": "plotly_white",
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "margin": {"l": 70, "r": 30, "t": 30, "b": 60},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hoverlabel": {"align": "left"},
        **changes,
    }
