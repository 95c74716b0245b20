"""What a person looks at on a front: a value that stands in the page's address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.address import Addressed, number, one_of

SCALES = ("log", "linear")
COURSES = ("evaluations", "time")
MAX_CORNERS = 200
MAX_BRUSHES = 200
MAX_DIGITS = 6  # of an axis of the parallel coordinates


@dataclass(frozen=True)
class FrontView(Addressed):
    """The state of the front page.

    Attributes:
        x: scale of the cost axis.
        dominated: whether dominated points are shown.
        errors: whether error bars are shown.
        budget: in GBOPs, or None.
        zoom: ranges ``(x0, x1, y0, y1)`` in GBOPs and metric, or None for all.
        selection: corners ``(gbops, metric)`` of the selected polygon; a box has four.
        brushes: axis of the parallel coordinates to its chosen range.
        course: what the hypervolume is drawn over.
    """

    x: str = "log"
    dominated: bool = True
    errors: bool = True
    budget: float | None = None
    zoom: tuple[float, float, float, float] | None = None
    selection: tuple[tuple[float, float], ...] = ()
    brushes: tuple[tuple[int, float, float], ...] = ()
    course: str = "evaluations"

    def selected(self, points: np.ndarray) -> np.ndarray:
        """Which of the points ``[N, 2]`` (metric, GBOPs) lie in the selection, bool ``[N]``."""
        inside = np.zeros(len(points), dtype=bool)
        corners = self.selection
        if len(corners) < 3:
            return inside
        x, y = points[:, 1], points[:, 0]
        # Even-odd rule: a ray to the right crosses the outline an odd number of times.
        for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
            spans = (y1 > y) != (y2 > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            inside ^= spans & (x < crossing)
        return inside

    def brushed(self, choices: np.ndarray) -> np.ndarray:
        """Which rows of ``choices [N, axes]`` are in a chosen range of every brushed axis."""
        kept = np.ones(len(choices), dtype=bool)
        for axis in {one[0] for one in self.brushes if one[0] < choices.shape[1]}:
            kept &= np.logical_or.reduce(
                [
                    (choices[:, axis] >= low) & (choices[:, axis] <= high)
                    for one, low, high in self.brushes
                    if one == axis
                ]
            )
        return kept


def selection_of(event: Mapping[str, Any] | None) -> tuple[tuple[float, float], ...]:
    """The polygon of Plotly's ``selectedData``, in GBOPs and metric."""
    if not event:
        return ()
    if box := event.get("range"):
        (x0, x1), (y0, y1) = box["x"], box["y"]
        return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    if lasso := event.get("lassoPoints"):
        corners = list(zip(lasso["x"], lasso["y"], strict=True))
        step = -(-len(corners) // MAX_CORNERS)
        return tuple(corners[::step])
    return ()


def _zoom(text: str) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = map(number, text.split(","))
    return x0, x1, y0, y1


def _corners(text: str) -> tuple[tuple[float, float], ...]:
    corners = [tuple(map(number, one.split(","))) for one in text.split(";")[:MAX_CORNERS]]
    if any(len(one) != 2 for one in corners):
        raise ValueError(text)
    return tuple((one[0], one[1]) for one in corners)


def _brushes(text: str) -> tuple[tuple[int, float, float], ...]:
    found = []
    for one in text.split(";")[:MAX_BRUSHES]:
        axis, low, high = one.split(",")
        if not axis.isdecimal():
            raise ValueError(axis)
        found.append((int(axis[:MAX_DIGITS]), number(low), number(high)))
    return tuple(found)


FrontView.readers = {
    "x": one_of(*SCALES),
    "dominated": lambda text: text != "0",
    "errors": lambda text: text != "0",
    "budget": number,
    "zoom": _zoom,
    "selection": _corners,
    "brushes": _brushes,
    "course": one_of(*COURSES),
}
