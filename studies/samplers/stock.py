"""Building samplers: any of the registry by name, and Optuna's own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from studies.samplers import SAMPLERS

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from studies.samplers.knowledge import Knowledge


def make_sampler(name: str, seed: int, knowledge: Knowledge | None = None) -> BaseSampler:
    """Build the sampler called ``name``.

    Args:
        name: one of :data:`SAMPLERS`.
        seed: of this process's stream; give every worker another one.
        knowledge: of the study, for samplers that use it.
    """
    sampler: BaseSampler = SAMPLERS.resolve(name)(seed, knowledge)
    return sampler


def apq(seed: int, knowledge: Knowledge | None) -> BaseSampler:
    """Children of the front, ranked by usage-weighted damage and expected hypervolume gain."""
    from studies.samplers.apq import ApqSampler

    return ApqSampler(seed, knowledge)


def multivariate_tpe(seed: int, _: Knowledge | None = None) -> BaseSampler:
    """Multivariate tree-structured Parzen estimator, with constant liar for parallel workers."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)


def nsga2(seed: int, _: Knowledge | None = None) -> BaseSampler:
    """NSGA-II, for long runs."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


def uniform_random(seed: int, _: Knowledge | None = None) -> BaseSampler:
    """Independent uniform draws: the floor that every other sampler must beat."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)
