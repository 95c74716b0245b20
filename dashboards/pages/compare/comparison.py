"""Several studies beside each other, in numbers and words: where each stands, who dominates whom.

Pure functions of snapshots; nothing here reads the store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dashboards.pages.compare.attainment import attainment, dominates, needed
from dashboards.snapshot import Snapshot
from search.errors import BadInput
from search.front import best_under, hypervolume
from studies.records import EvaluationRow

SHARES = (2, 4, 8)
"""Budgets are the reference cost divided by these."""
LEVELS = (0.25, 0.5, 0.75)
"""Shares of the studies whose attainment is shown."""


@dataclass(frozen=True)
class Comparison:
    """Studies that can be compared: of one metric, in the order in which they were chosen.

    Attributes:
        snapshots: at least one, also those without evaluations.
    """

    snapshots: tuple[Snapshot, ...]

    def __post_init__(self) -> None:
        metrics: dict[str, list[str]] = {}
        for one in self.snapshots:
            metrics.setdefault(one.record.metric, []).append(one.record.config.name)
        if len(metrics) > 1:
            listed = "; ".join(f"{metric}: {', '.join(names)}" for metric, names in metrics.items())
            raise BadInput(
                "studies of different metrics cannot be compared: choose studies of one metric "
                f"({listed})"
            )

    @property
    def metric(self) -> str:
        """Its name."""
        return self.snapshots[0].record.metric

    @cached_property
    def reference(self) -> float:
        """The cost at which a policy is worth nothing: the largest W8A8 full depth, GBOPs."""
        return max(one.summary.w8a8_gbops for one in self.snapshots)

    @cached_property
    def filled(self) -> list[Snapshot]:
        """The studies that have a front."""
        return [one for one in self.snapshots if one.front]

    @cached_property
    def waiting(self) -> list[str]:
        """Names of the studies that have no evaluation yet."""
        return [one.record.config.name for one in self.snapshots if not one.front]

    def cautions(self, seeds: bool) -> list[str]:
        """What makes the comparison less than one of like with like, a sentence each."""
        records = [one.record for one in self.snapshots]
        said = []
        if len({one.model_digest for one in records}) > 1:
            said.append(
                "These studies are of different models: their fronts differ by the models as well "
                "as by the searches."
            )
        if len({one.data_digest for one in records}) > 1:
            said.append(
                "They were measured with different images (search or calibration split): "
                "differences may come from these."
            )
        if seeds and (found := _beyond_seeds(self.snapshots)):
            said.append(f"They are not seeds of one search: {found}.")
        return said


def front_of(snapshot: Snapshot) -> np.ndarray:
    """Metric and GBOPs of the front, by ascending cost ``[F, 2]``."""
    points: np.ndarray = snapshot.points[list(snapshot.front)]
    return points


def _beyond_seeds(snapshots: Sequence[Snapshot]) -> str | None:
    """The first setting, other than name and seed, in which a study differs from the first."""
    first = snapshots[0].record.config
    for one in snapshots[1:]:
        config = one.record.config
        sampler = config.sampler.model_copy(update={"seed": first.sampler.seed})
        same = config.model_copy(update={"name": first.name, "sampler": sampler})
        ours, theirs = first.identity(), same.identity()
        for section in ours:
            if ours[section] != theirs[section]:
                return f"{config.name} has another [{section}] than {first.name}"
    return None


@dataclass(frozen=True)
class Standing:
    """Where a study stands.

    Attributes:
        snapshot: the study.
        hypervolume: on the comparison's common reference point.
        best: the best evaluation under each budget of ``SHARES``, None where nothing is as cheap.
    """

    snapshot: Snapshot
    hypervolume: float
    best: tuple[EvaluationRow | None, ...]


def standings(comparison: Comparison) -> list[Standing]:
    """Every study's, in the comparison's order."""
    found = []
    for one in comparison.snapshots:
        points, rows = front_of(one), one.summary.front_rows
        indices = [best_under(points, comparison.reference / share) for share in SHARES]
        best = tuple(None if index is None else rows[index] for index in indices)
        found.append(Standing(one, hypervolume(points, comparison.reference), best))
    return found


@dataclass(frozen=True)
class Domination:
    """What one study's front takes from another's.

    Attributes:
        ours, theirs: the dominating and the dominated study.
        count: points of the front of ``theirs`` that a point of ``ours`` dominates.
        pairs: how many pairs of a dominating and a dominated policy there are.
    """

    ours: Snapshot
    theirs: Snapshot
    count: int
    pairs: int


def dominations(comparison: Comparison) -> list[Domination]:
    """Of every ordered pair of different studies."""
    found = []
    for ours in comparison.snapshots:
        for theirs in comparison.snapshots:
            if ours is not theirs:
                mask = dominates(front_of(ours), front_of(theirs))
                found.append(Domination(ours, theirs, int(mask.any(axis=0).sum()), int(mask.sum())))
    return found


def listed(
    found: Sequence[Domination], cap: int
) -> list[tuple[Domination, EvaluationRow, EvaluationRow]]:
    """Which policy dominates which, at most ``cap`` of them, spread over the pairs of studies.

    Of each pair of studies every dominated policy is listed with the best policy that dominates it
    before a second one is; they are in order of the dominated policy's cost.
    """
    rows = []
    for one, share in zip(found, _shares([one.pairs for one in found], cap), strict=True):
        if share:
            mask = dominates(front_of(one.ours), front_of(one.theirs))
            winners, losers = np.nonzero(mask)
            # By ascending cost a front's metric ascends: the last that dominates is the best.
            rank = np.cumsum(mask[::-1], axis=0)[::-1][winners, losers]
            chosen = np.lexsort((losers, rank))[:share]
            for index in chosen[np.lexsort((rank[chosen], losers[chosen]))]:
                winner = one.ours.summary.front_rows[int(winners[index])]
                loser = one.theirs.summary.front_rows[int(losers[index])]
                rows.append((one, winner, loser))
    return rows


def _shares(totals: Sequence[int], cap: int) -> list[int]:
    """Deal ``cap`` out in turn to everyone who still wants some."""
    shares, left = [0] * len(totals), cap
    while left and shares != list(totals):
        for index, total in enumerate(totals):
            if left and shares[index] < total:
                shares[index] += 1
                left -= 1
    return shares


def summary_text(comparison: Comparison, seeds: bool) -> str:
    """The figure in words."""
    found = [one for one in standings(comparison) if one.snapshot.front]
    if not found:
        return "None of the chosen studies has an evaluation yet: there is no front to show."
    if seeds:
        return _seeds_text(comparison, found)
    words = []
    ranked = sorted(found, key=lambda one: -one.hypervolume)
    if len(ranked) == 1:
        words.append(f"{_name(ranked[0])} has a hypervolume of {ranked[0].hypervolume:.4f}.")
    else:
        words.append(
            f"Of {len(ranked)} fronts that of {_name(ranked[0])} has the largest hypervolume, "
            f"{ranked[0].hypervolume:.4f}, and that of {_name(ranked[-1])} the smallest, "
            f"{ranked[-1].hypervolume:.4f}."
        )
    for position, share in enumerate(SHARES):
        best = [(one.best[position], one) for one in found]
        row, one = max(best, key=lambda pair: -math.inf if pair[0] is None else pair[0].value)
        limit = f"Under {comparison.reference / share:.4g} GBOPs (1/{share} of W8A8)"
        if row is None:
            words.append(f"{limit} there is no policy.")
        else:
            words.append(
                f"{limit} the best {comparison.metric} is {row.value:.4f}, of {_name(one)}."
            )
    return " ".join(words)


def _seeds_text(comparison: Comparison, found: Sequence[Standing]) -> str:
    count = len(found)
    volumes = [one.hypervolume for one in found]
    spread = f"Hypervolumes of the {count} studies go from {min(volumes):.4f} to {max(volumes):.4f}"
    words = [f"{spread}, median {np.median(volumes):.4f}."]
    costs, curves = attainment([front_of(one.snapshot) for one in found], LEVELS)
    for share in SHARES:
        limit = comparison.reference / share
        at = int(np.searchsorted(costs, limit, side="right")) - 1
        reach = {
            needed(level, count): f"{curve[at]:.4f}"
            for level, curve in zip(LEVELS, curves, strict=True)
            if at >= 0 and not np.isnan(curve[at])
        }
        said = ", ".join(f"{number} of {count} reach {best}" for number, best in reach.items())
        words.append(
            f"Under {limit:.4g} GBOPs (1/{share} of W8A8): "
            f"{said or 'too few studies have a policy that cheap'}."
        )
    return " ".join(words)


def _name(one: Standing) -> str:
    return one.snapshot.record.config.name
