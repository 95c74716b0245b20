"""The whole threshold front of one trace: which thresholds are worth having, at any cost.

For a trade-off lambda, the best thresholds minimise

    mean over samples of [loss + lambda * cost + alpha * flips]

where cost is a path's BOPs as a fraction of the deepest path's, and flips counts the exit
decisions on the path that full precision would have taken otherwise (boundary risk). Given the
thresholds of all other exits, the best of one exit's candidates is found exactly: sort the samples
by confidence, sum what each would gain by leaving, take the best prefix. Candidates lie halfway
between the trace's own confidences; flips also change where the reference's lie, which matters
only where alpha is large (tests hold the whole against exhaustive search over both). Going backward
from the last exit, first as if every sample reached every exit (backward induction), then with the
samples that really do, this is coordinate descent, for all trade-offs at once. It is also the outer
problem of MAQEE (arXiv 2605.07317). The algorithm is ours.

Trade-offs alone reach only the convex part of the front, so points on the coordinate lines through
what was found are kept as well where they are not dominated.

Losses add up over samples; the task's objective need not. So losses lead the search, and what it
finds is measured by the objective and kept by that alone.
"""

from __future__ import annotations

import numpy as np

from search.errors import ExitbitsError
from search.front import as_points, front_indices
from search.thresholds.candidates import ExitChoices, Harvest, front_of

TRADE_OFFS = 60
SWEEPS = 4
LINE_POINTS = 64
LINE_ROUNDS = 2
AT_ONCE = 4_000_000  # vectors times samples: bounds the memory, 32 MB an array


def harvest(
    choices: ExitChoices, *, alpha: float = 0.0, trade_offs: int = TRADE_OFFS, sweeps: int = SWEEPS
) -> Harvest:
    """Find the threshold vectors that trace out the front of the objective against cost.

    Args:
        choices: the trace, its task and its costs.
        alpha: weight of boundary risk beside loss and shortfall, 0 or more; more than 0 needs a
            reference trace.
        trade_offs: number of values of lambda, logarithmic from 1e-4 to 10.
        sweeps: most sweeps of coordinate refinement after backward induction.

    Returns:
        vectors none of which is dominated in (shortfall + alpha * boundary, cost), cheapest first.
    """
    _check_alpha(choices, alpha)
    exits = choices.trace.confidence.shape[1]
    if exits == 1:
        return choices.measure(np.zeros((1, 1)))
    prices = np.geomspace(1e-4, 10.0, trade_offs)
    chosen = np.zeros((trade_offs, exits - 1), dtype=np.int64)
    moving = np.arange(trade_offs)  # trade-offs whose thresholds the last sweep changed
    reached = np.ones((exits - 1, trade_offs, len(choices.trace)), dtype=bool)
    for sweep in range(sweeps + 1):
        found = _sweep(choices, prices[moving], alpha, reached)
        changed = (found != chosen[moving]).any(axis=1)
        chosen[moving] = found
        if sweep:
            moving = moving[changed]
        if not len(moving):
            break
        reached = _reach(choices, chosen[moving])
    vectors = [chosen]
    rows = max(1, AT_ONCE // len(choices.trace))
    for _ in range(LINE_ROUNDS):
        begun = np.unique(vectors[-1], axis=0)
        parts = [begun[start : start + rows] for start in range(0, len(begun), rows)]
        vectors.append(np.concatenate([_lines(choices, alpha, part) for part in parts]))
    measured = choices.measure(_thresholds(choices, np.unique(np.concatenate(vectors), axis=0)))
    return front_of(measured, measured.shortfall + alpha * measured.boundary)


def _check_alpha(choices: ExitChoices, alpha: float) -> None:
    if not alpha >= 0 or (alpha > 0 and choices.reference is None):
        raise ExitbitsError(f"alpha {alpha}: give 0 or more, and with it a full-precision trace")


def harvest_global(choices: ExitChoices, *, alpha: float = 0.0, points: int = 400) -> Harvest:
    """The same with one threshold for all exits: an ablation.

    Args:
        choices: the trace, its task and its costs.
        alpha: weight of boundary risk.
        points: how many thresholds are tried, at quantiles of all confidences.
    """
    _check_alpha(choices, alpha)
    exits = choices.trace.confidence.shape[1]
    if exits == 1:
        return choices.measure(np.zeros((1, 1)))
    at = np.quantile(choices.trace.confidence[:, :-1], np.linspace(0, 1, points))
    at = np.unique(np.clip(np.append(at, [choices.low, choices.high]), choices.low, choices.high))
    thresholds = np.repeat(at[:, None], exits, axis=1)
    thresholds[:, -1] = 0
    measured = choices.measure(thresholds)
    return front_of(measured, measured.shortfall + alpha * measured.boundary)


def _thresholds(choices: ExitChoices, chosen: np.ndarray) -> np.ndarray:
    """Threshold vectors ``[L, E]`` of chosen candidates ``[L, E - 1]``."""
    columns = [line.values[chosen[:, e]] for e, line in enumerate(choices.lines)]
    return np.stack([*columns, np.zeros(len(chosen))], axis=1)


def _leaves(choices: ExitChoices, chosen: np.ndarray, exit_index: int) -> np.ndarray:
    """Whether each sample's confidence reaches the chosen threshold, ``[L, N]``."""
    values = choices.lines[exit_index].values[chosen[:, exit_index]]
    leaves: np.ndarray = choices.trace.confidence[:, exit_index] >= values[:, None]
    return leaves


def _either(leaves: np.ndarray, here: np.ndarray, further: np.ndarray) -> np.ndarray:
    """``here`` where a sample leaves, else ``further``; :func:`numpy.where` guesses each branch."""
    chosen: np.ndarray = here * leaves + further * ~leaves
    return chosen


def _reach(choices: ExitChoices, chosen: np.ndarray) -> np.ndarray:
    """Which samples reach every exit but the last under chosen candidates, ``[E - 1, L, N]``."""
    reached = np.ones((chosen.shape[1], len(chosen), len(choices.trace)), dtype=bool)
    for e in range(1, len(reached)):
        reached[e] = reached[e - 1] & ~_leaves(choices, chosen, e - 1)
    return reached


def _flips_at(choices: ExitChoices, leaves: np.ndarray, chosen: np.ndarray, e: int) -> np.ndarray:
    """Whether full precision would decide otherwise at exit ``e``, ``[L, N]``."""
    assert choices.reference is not None
    values = choices.lines[e].values[chosen[:, e]]
    flips: np.ndarray = leaves != (choices.reference.confidence[:, e] >= values[:, None])
    return flips


def _sweep(
    choices: ExitChoices, prices: np.ndarray, alpha: float, reached: np.ndarray
) -> np.ndarray:
    """Choose every exit's threshold anew, the last exit first, for the samples that reach it.

    Args:
        prices: lambdas, ``[L]``.
        reached: ``[E - 1, L, N]``, under the thresholds so far.

    Returns:
        the best candidates, ``[L, E - 1]``.
    """
    chosen = np.zeros((len(prices), len(choices.lines)), dtype=np.int64)
    relative = choices.path_bops / choices.path_bops[-1]
    # What is still ahead of a sample: loss, price times cost, and alpha times flips.
    ahead = choices.loss[:, -1] + prices[:, None] * relative[-1]
    for e in reversed(range(len(choices.lines))):
        line = choices.lines[e]
        stop = choices.loss[:, e] + prices[:, None] * relative[e]
        total = line.prefix((stop - ahead) * reached[e])
        if alpha:
            total = total + alpha * line.flips(reached[e])
        chosen[:, e] = total.argmin(axis=1)
        leaves = _leaves(choices, chosen, e)
        ahead = _either(leaves, stop, ahead)
        if alpha:
            ahead += alpha * _flips_at(choices, leaves, chosen, e)
    return chosen


def _lines(choices: ExitChoices, alpha: float, chosen: np.ndarray) -> np.ndarray:
    """Candidates ``[K, E - 1]`` on the coordinate lines through chosen ones, none dominated."""
    reached = _reach(choices, chosen)
    relative = choices.path_bops / choices.path_bops[-1]
    samples = (len(chosen), len(choices.trace))
    # What is still ahead of a sample: risk, which is loss and alpha times flips, and cost.
    risk_ahead = np.broadcast_to(choices.loss[:, -1], samples)
    cost_ahead = np.broadcast_to(relative[-1], samples)
    risks, costs, which = [], [], []
    # What each candidate of an exit adds to the whole policy's figures.
    for e in reversed(range(len(choices.lines))):
        line = choices.lines[e]
        picks = np.unique(np.linspace(0, len(line.counts) - 1, LINE_POINTS).astype(np.int64))
        risk = line.prefix((choices.loss[:, e] - risk_ahead) * reached[e])
        if alpha:
            risk += alpha * line.flips(reached[e])
        cost = line.prefix((relative[e] - cost_ahead) * reached[e])
        now = chosen[:, e, None]
        risks.append(risk[:, picks] - np.take_along_axis(risk, now, axis=1))
        costs.append(cost[:, picks] - np.take_along_axis(cost, now, axis=1))
        rows, columns = np.indices(risks[-1].shape)
        which.append(
            np.stack([np.full(rows.size, e), rows.ravel(), picks[columns.ravel()]], axis=1)
        )
        leaves = _leaves(choices, chosen, e)
        risk_ahead = _either(leaves, choices.loss[:, e], risk_ahead)
        cost_ahead = _either(leaves, relative[e], cost_ahead)
        if alpha:
            risk_ahead += alpha * _flips_at(choices, leaves, chosen, e)
    risk, cost = risk_ahead.sum(axis=1)[:, None], cost_ahead.sum(axis=1)[:, None]
    points = as_points(
        1 - np.concatenate([(risk + more).ravel() for more in risks]) / samples[1],
        np.concatenate([(cost + more).ravel() for more in costs]) / samples[1],
    )
    kept = np.concatenate(which)[front_indices(points)]
    vectors: np.ndarray = chosen[kept[:, 1]].copy()
    vectors[np.arange(len(kept)), kept[:, 0]] = kept[:, 2]
    return vectors
