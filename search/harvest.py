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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.errors import ExitbitsError
from search.exit_choices import ExitChoices, Harvest, front_of
from search.front import as_points, front_indices

TRADE_OFFS = 60
SWEEPS = 4
LINE_POINTS = 64
LINE_ROUNDS = 2
AT_ONCE = 4_000_000  # vectors times samples: bounds the memory, 32 MB an array


@dataclass
class _Path:
    """What happens from some exit on, summed along each sample's path: ``[L, N]`` each."""

    loss: np.ndarray
    cost: np.ndarray
    flips: np.ndarray


def harvest(
    choices: ExitChoices, *, alpha: float = 0.0, trade_offs: int = TRADE_OFFS, sweeps: int = SWEEPS
) -> Harvest:
    """Find the threshold vectors that trace out the front of loss against cost.

    Args:
        choices: the trace, its losses and its costs.
        alpha: weight of boundary risk beside loss, 0 or more; more than 0 needs a reference trace.
        trade_offs: number of values of lambda, logarithmic from 1e-4 to 10.
        sweeps: most sweeps of coordinate refinement after backward induction.

    Returns:
        vectors none of which is dominated in (loss + alpha * boundary, cost).
    """
    _check_alpha(choices, alpha)
    exits = choices.trace.confidence.shape[1]
    if exits == 1:
        return choices.measure(np.zeros((1, 1)))
    prices = np.geomspace(1e-4, 10.0, trade_offs)
    chosen = np.zeros((trade_offs, exits - 1), dtype=np.int64)
    reached = np.ones((exits - 1, trade_offs, len(choices.trace)), dtype=bool)
    for sweep in range(sweeps + 1):
        before = chosen.copy()
        _sweep(choices, prices, alpha, chosen, reached)
        _reach(choices, chosen, reached)
        if sweep and (before == chosen).all():
            break
    found = [chosen]
    rows = max(1, AT_ONCE // len(choices.trace))
    for _ in range(LINE_ROUNDS):
        begun = np.unique(found[-1], axis=0)
        parts = [begun[start : start + rows] for start in range(0, len(begun), rows)]
        found.append(np.concatenate([_lines(choices, alpha, part) for part in parts]))
    measured = choices.measure(_thresholds(choices, np.unique(np.concatenate(found), axis=0)))
    return front_of(measured, measured.loss + alpha * measured.boundary)


def _check_alpha(choices: ExitChoices, alpha: float) -> None:
    if not alpha >= 0 or (alpha > 0 and choices.reference is None):
        raise ExitbitsError(f"alpha {alpha}: give 0 or more, and with it a full-precision trace")


def harvest_global(choices: ExitChoices, *, alpha: float = 0.0, points: int = 400) -> Harvest:
    """The same with one threshold for all exits: an ablation.

    Args:
        choices: the trace, its losses and its costs.
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
    return front_of(measured, measured.loss + alpha * measured.boundary)


def _thresholds(choices: ExitChoices, chosen: np.ndarray) -> np.ndarray:
    """Threshold vectors ``[L, E]`` of chosen candidates ``[L, E - 1]``."""
    columns = [line.values[chosen[:, e]] for e, line in enumerate(choices.lines)]
    return np.stack([*columns, np.zeros(len(chosen))], axis=1)


def _leaves(choices: ExitChoices, chosen: np.ndarray, exit_index: int) -> np.ndarray:
    """Whether each sample's confidence reaches the chosen threshold, ``[L, N]``."""
    values = choices.lines[exit_index].values[chosen[:, exit_index]]
    leaves: np.ndarray = choices.trace.confidence[:, exit_index] >= values[:, None]
    return leaves


def _reach(choices: ExitChoices, chosen: np.ndarray, reached: np.ndarray) -> None:
    """Mark which samples reach every exit under the chosen thresholds."""
    reached[0] = True
    for e in range(1, len(reached)):
        reached[e] = reached[e - 1] & ~_leaves(choices, chosen, e - 1)


def _after_last(choices: ExitChoices, rows: int) -> _Path:
    samples = (rows, len(choices.trace))
    relative = choices.path_bops / choices.path_bops[-1]
    return _Path(
        np.broadcast_to(choices.loss[:, -1], samples).copy(),
        np.full(samples, relative[-1]),
        np.zeros(samples),
    )


def _flips_at(choices: ExitChoices, leaves: np.ndarray, values: np.ndarray, e: int) -> np.ndarray:
    if choices.reference is None:
        return np.zeros(1)
    flips: np.ndarray = leaves != (choices.reference.confidence[:, e] >= values[:, None])
    return flips.astype(np.float64)


def _extend(choices: ExitChoices, path: _Path, chosen: np.ndarray, e: int) -> None:
    """Put exit ``e`` before the path: samples leave there or go on."""
    leaves = _leaves(choices, chosen, e)
    relative = choices.path_bops[e] / choices.path_bops[-1]
    flips = _flips_at(choices, leaves, choices.lines[e].values[chosen[:, e]], e)
    path.loss = np.where(leaves, choices.loss[:, e], path.loss)
    path.cost = np.where(leaves, relative, path.cost)
    path.flips = np.where(leaves, 0.0, path.flips) + flips


def _sweep(
    choices: ExitChoices, prices: np.ndarray, alpha: float, chosen: np.ndarray, reached: np.ndarray
) -> None:
    """Choose every exit's threshold anew, the last exit first, the others as they are."""
    path = _after_last(choices, len(prices))
    relative = choices.path_bops / choices.path_bops[-1]
    for e in reversed(range(len(choices.lines))):
        line = choices.lines[e]
        stop = choices.loss[:, e] + prices[:, None] * relative[e]
        go_on = path.loss + prices[:, None] * path.cost + alpha * path.flips
        total = line.prefix(np.where(reached[e], stop - go_on, 0.0))
        if alpha:
            total = total + alpha * line.flips(reached[e])
        chosen[:, e] = total.argmin(axis=1)
        _extend(choices, path, chosen, e)


def _lines(choices: ExitChoices, alpha: float, chosen: np.ndarray) -> np.ndarray:
    """Candidates ``[K, E - 1]`` on the coordinate lines through chosen ones, none dominated."""
    reached = np.ones((chosen.shape[1], len(chosen), len(choices.trace)), dtype=bool)
    _reach(choices, chosen, reached)
    path = _after_last(choices, len(chosen))
    relative = choices.path_bops / choices.path_bops[-1]
    samples = len(choices.trace)
    everyone = _after_last(choices, len(chosen))
    for e in reversed(range(len(choices.lines))):
        _extend(choices, everyone, chosen, e)
    risks, costs, which = [], [], []
    # The whole policy's figures, less what leaves at this exit, plus what would.
    for e in reversed(range(len(choices.lines))):
        line = choices.lines[e]
        picks = np.unique(np.linspace(0, len(line.counts) - 1, LINE_POINTS).astype(np.int64))
        here = reached[e]
        now = _leaves(choices, chosen, e)
        values = line.values[chosen[:, e]]
        base_loss = everyone.loss.sum(axis=1) - np.where(
            here & now, choices.loss[:, e] - path.loss, 0.0
        ).sum(axis=1)
        base_cost = everyone.cost.sum(axis=1) - np.where(
            here & now, relative[e] - path.cost, 0.0
        ).sum(axis=1)
        loss = line.prefix(np.where(here, choices.loss[:, e] - path.loss, 0.0))[:, picks]
        cost = line.prefix(np.where(here, relative[e] - path.cost, 0.0))[:, picks]
        risk = base_loss[:, None] + loss
        if alpha:
            flips = line.prefix(np.where(here, -path.flips, 0.0)) + line.flips(here)
            spent = np.where(here & now, -path.flips, 0.0)
            spent = spent + np.where(here, _flips_at(choices, now, values, e), 0.0)
            base_flips = everyone.flips.sum(axis=1) - spent.sum(axis=1)
            risk = risk + alpha * (base_flips[:, None] + flips[:, picks])
        risks.append(risk / samples)
        costs.append((base_cost[:, None] + cost) / samples)
        rows, columns = np.indices(risk.shape)
        which.append(
            np.stack([np.full(risk.size, e), rows.ravel(), picks[columns.ravel()]], axis=1)
        )
        _extend(choices, path, chosen, e)
    points = as_points(
        1 - np.concatenate([risk.ravel() for risk in risks]),
        np.concatenate([cost.ravel() for cost in costs]),
    )
    kept = np.concatenate(which)[front_indices(points)]
    vectors: np.ndarray = chosen[kept[:, 1]].copy()
    vectors[np.arange(len(kept)), kept[:, 0]] = kept[:, 2]
    return vectors
