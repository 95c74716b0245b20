"""How far several searches got, and which points of one front dominate which of another.

Pure NumPy. A front is points ``[N, 2]`` of a metric (up) and a cost (down), in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def reached(front: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The best metric that ``front`` gives at no more than each cost, ``[K]``.

    Args:
        front: points ``[N, 2]``.
        costs: in any order ``[K]``.

    Returns:
        minus infinity where no point is that cheap.
    """
    order = np.argsort(front[:, 1], kind="stable")
    best = np.concatenate([[-np.inf], np.maximum.accumulate(front[order, 0])])
    found: np.ndarray = best[np.searchsorted(front[order, 1], costs, side="right")]
    return found


def needed(level: float, count: int) -> int:
    """How many of ``count`` searches make up at least the share ``level`` in (0, 1]."""
    # 0.1 of 30 is three, though the product is a little more in floating point.
    return max(1, math.ceil(level * count - 1e-9))


def attainment(
    fronts: Sequence[np.ndarray], levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The curves that a share of the searches attains (empirical attainment function).

    Source: Grunert da Fonseca, Fonseca and Hall, "Inferential performance assessment of stochastic
    optimisers and the attainment function", EMO 2001.

    Args:
        fronts: of each search, none of them empty.
        levels: shares in (0, 1].

    Returns:
        costs ``[K]``, ascending and distinct: every cost at which a search gains something; and the
        metric ``[levels, K]`` that :func:`needed` searches reach at that cost, NaN where fewer have
        any point.
    """
    costs = np.unique(np.concatenate([front[:, 1] for front in fronts]))
    best = np.sort([reached(front, costs) for front in fronts], axis=0)[::-1]
    curves = best[[needed(level, len(fronts)) - 1 for level in levels]]
    return costs, np.where(np.isneginf(curves), np.nan, curves)


def dominates(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which points of ``ours [A, 2]`` dominate which of ``theirs [B, 2]``, bool ``[A, B]``.

    A point dominates another when it is no worse in both and better in one: equal points do not.
    """
    value, cost = ours[:, None, 0], ours[:, None, 1]
    no_worse = (value >= theirs[None, :, 0]) & (cost <= theirs[None, :, 1])
    better = (value > theirs[None, :, 0]) | (cost < theirs[None, :, 1])
    found: np.ndarray = no_worse & better
    return found
