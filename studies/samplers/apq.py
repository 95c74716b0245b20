"""The sampler ``apq``: children of the current front, ranked by what APQ knows.

Bits decide what a trial can find; its thresholds are harvested anyway. So a proposal is a set of
bits that nobody has measured or is measuring, from many candidates: mutations of and crosses
between policies on the front, and, where sensitivities are at hand, exact allocations for the
usage that they have. Each is scored by its expected gain in hypervolume above three quarters of the
best metric: cost by the ledger under the parent's exit rates, accuracy as the parent's less what
the additive damage adds. How much accuracy a unit of damage costs, and how sure that is, is fitted
to what the study has measured; what the parent's samples do not run raises no doubt.

On any other study it draws uniformly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.bits.allocation import AllocationProblem, Usage
from search.bits.surrogate import front_gain
from search.cost import GIGA
from search.errors import ExitbitsError
from search.policy import Policy
from search.results import Evaluation
from search.space import PolicySpace
from studies.samplers.knowledge import Knowledge

PARENTS = 12  # drawn from the front for a proposal
CHILDREN = 24  # of each parent
TOGETHER = 0.2  # of the children: all weights, or all activations, a step wider or narrower
ALLOCATIONS = 6  # exact ones, where tables are at hand
VALUED = 0.75  # of the best metric: nobody deploys what answers less well, however cheap
FITTED = 200  # sets of bits that the fit looks at, the latest ones
DRAWS = np.array([-1.28, -0.52, 0.0, 0.52, 1.28])  # deciles 1, 3, 5, 7, 9 of a normal
LEAST_DOUBT = 0.002  # of a predicted metric, however well the fit went


class ApqSampler(BaseSampler):
    """See the module.

    Args:
        seed: of this process's stream.
        knowledge: of the study that is sampled for; without it all draws are uniform.
    """

    def __init__(self, seed: int | None = None, knowledge: Knowledge | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self._uniform = RandomSampler(seed)
        self._knowledge = knowledge

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._uniform.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._knowledge is None:
            return {}
        return distributions_of(self._knowledge.surrogate.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._knowledge is None or not search_space:
            return {}
        policy = _Proposal(self._knowledge, self._rng).make()
        if policy is None:
            return {}
        return dict(self._knowledge.surrogate.space.encode(policy))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)


def distributions_of(space: PolicySpace) -> dict[str, BaseDistribution]:
    """What a trial of the space is asked for, by name."""
    asked = _Asked()
    space.propose(asked)
    return asked.distributions


class _Asked:
    """A proposer that notes what it is asked for."""

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.distributions[name] = IntDistribution(low, high)
        return low

    def suggest_float(self, name: str, low: float, high: float) -> float:
        self.distributions[name] = FloatDistribution(low, high)
        return low


class _Proposal:
    """One proposal in the making."""

    def __init__(self, knowledge: Knowledge, rng: np.random.Generator) -> None:
        self.knowledge, self.rng = knowledge, rng
        self.surrogate = knowledge.surrogate
        space = self.surrogate.space
        self.choices = [np.array(space.weight_choices)] * len(space.weight_groups) + [
            np.array(space.activation_choices)
        ] * len(space.activation_groups)
        self.sides = np.repeat([0, 1], [len(space.weight_groups), len(space.activation_groups)])
        self.blocks = self.surrogate.blocks

    def make(self) -> Policy | None:
        """The policy of the highest expected gain, None where there is no front yet."""
        self.knowledge.learn()
        front, keys = self.knowledge.front()
        if not len(front):
            return None
        floor = VALUED * float(front[:, 0].max())
        chosen = self.rng.permutation(np.flatnonzero(front[:, 0] >= floor))[:PARENTS]
        front = np.column_stack([np.maximum(front[:, 0] - floor, 0), front[:, 1]])
        parents = self.knowledge.evaluations([keys[index] for index in chosen])
        taken = set(self.knowledge.best_by_bits())
        taken |= {policy.bits for policy in self.knowledge.pending()}
        slope, doubt = self._fit()
        log = bool(self.rng.random() < 0.5)
        best, highest = None, -np.inf
        vectors = [self.surrogate.vector(parent.policy.bits) for parent in parents]
        for index, parent in enumerate(parents):
            usage = _usage(parent)
            vectors_near = self._children(index, vectors)
            if index < ALLOCATIONS:
                vectors_near += self._allocations(parent, usage)
            new = [vector for vector in vectors_near if self.surrogate.bits(vector) not in taken]
            if not new:
                continue
            candidates = np.array(new)
            worse = self.surrogate.damage(candidates, usage) - self.surrogate.damage(
                vectors[index][None], usage
            )
            values = np.clip(parent.value - slope * worse, 0, 1)
            costs = self.surrogate.gbops(candidates, usage)
            doubts = doubt * self._change(candidates, vectors[index], usage)
            drawn_values = [np.clip(values + doubts * z, 0, 1) - floor for z in DRAWS]
            high = self.knowledge.reference_gbops
            gains = np.mean(
                [
                    front_gain(np.column_stack([drawn, costs]), front, high, log=log)
                    for drawn in drawn_values
                ],
                axis=0,
            )
            top = int(np.argmax(gains))
            if gains[top] > highest:
                highest = float(gains[top])
                best = Policy(self.surrogate.bits(candidates[top]), parent.policy.thresholds)
        return best

    def _children(self, index: int, vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Mutations of a parent and crosses with the others."""
        children = []
        for _ in range(CHILDREN):
            child = vectors[index].copy()
            if len(vectors) > 1 and self.rng.random() < 0.3:
                other = vectors[int(self.rng.integers(len(vectors)))]
                mask = self.rng.random(len(child)) < 0.5
                child[mask] = other[mask]
            if self.rng.random() < TOGETHER:
                self._step(child, np.flatnonzero(self.sides == self.rng.integers(2)))
            else:
                for place in self.rng.permutation(len(child))[: self.rng.geometric(0.4)]:
                    self._step(child, [place])
            children.append(child)
        return children

    def _step(self, vector: np.ndarray, places: Sequence[int] | np.ndarray) -> None:
        """Widen or narrow some groups by the same number of choices."""
        step = int(self.rng.choice([-2, -1, 1, 2], p=[0.1, 0.4, 0.4, 0.1]))
        for place in places:
            choices = self.choices[place]
            now = int(np.searchsorted(choices, vector[place]))
            vector[place] = choices[np.clip(now + step, 0, len(choices) - 1)]

    def _change(self, candidates: np.ndarray, parent: np.ndarray, usage: Usage) -> np.ndarray:
        """How much of its parent's path each candidate changes, 0 to 1, ``[M]``.

        What nobody runs cannot change what is known of the parent.
        """
        used = usage.utilization[self.blocks - 1]
        changed: np.ndarray = np.sqrt((candidates != parent) @ used / used.sum())
        return changed

    def _allocations(self, parent: Evaluation, usage: Usage) -> list[np.ndarray]:
        """The exact allocation for a parent's usage at about its cost."""
        surrogate = self.surrogate
        if surrogate.tables is None:
            return []
        problem = AllocationProblem(
            surrogate.space, surrogate.ledger, surrogate.tables, usage, surrogate.beta
        )
        budget = parent.gbops * GIGA * float(self.rng.uniform(0.8, 1.25))
        try:
            allocation = problem.solve(budget)
        except ExitbitsError:  # none fits, or the solver gave up: the children are left
            return []
        return [surrogate.vector(allocation.bits)]

    def _fit(self) -> tuple[float, float]:
        """Metric lost for a unit of damage at full depth, and the doubt of a prediction."""
        latest = list(self.knowledge.best_by_bits().items())[-FITTED:]
        vectors = np.array([self.surrogate.vector(bits) for bits, _ in latest])
        values = np.array([value for _, value in latest])
        damage = self.surrogate.damage(vectors, Usage.full_depth(self.surrogate.ledger))
        near = values >= np.median(values)  # collapsed ones say nothing about those worth having
        if near.sum() < 3 or np.ptp(damage[near]) == 0:
            return 0.0, 0.05
        slope = max(0.0, -float(np.polyfit(damage[near], values[near], 1)[0]))
        left = values[near] - (values[near].mean() - slope * (damage[near] - damage[near].mean()))
        return slope, max(LEAST_DOUBT, float(left.std()))


def _usage(evaluation: Evaluation) -> Usage:
    return Usage(np.array(evaluation.utilization), np.array(evaluation.exit_rates))
