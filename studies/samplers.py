"""Samplers by name: which Optuna sampler proposes policies after the anchors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from search.registry import resolve

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from studies.knowledge import StudyKnowledge

SAMPLERS: dict[str, str] = {
    "apq": "studies.samplers:apq",
    "tpe": "studies.samplers:multivariate_tpe",
    "nsga2": "studies.samplers:nsga2",
    "random": "studies.samplers:uniform_random",
}


def make_sampler(name: str, seed: int, knowledge: StudyKnowledge | None = None) -> BaseSampler:
    """Build the sampler called ``name``.

    Args:
        name: a key of :data:`SAMPLERS`.
        seed: of this process's stream; give every worker another one.
        knowledge: of the study, for samplers that use it.
    """
    sampler: BaseSampler = resolve("sampler", name, SAMPLERS)(seed, knowledge)
    return sampler


def apq(seed: int, knowledge: StudyKnowledge | None) -> BaseSampler:
    """Children of the front, ranked by usage-weighted damage and expected hypervolume gain."""
    from studies.apq_sampler import ApqSampler

    return ApqSampler(seed, knowledge)


def multivariate_tpe(seed: int, _: StudyKnowledge | None = None) -> BaseSampler:
    """Multivariate tree-structured Parzen estimator, with constant liar for parallel workers."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)


def nsga2(seed: int, _: StudyKnowledge | None = None) -> BaseSampler:
    """NSGA-II, for long runs."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


def uniform_random(seed: int, _: StudyKnowledge | None = None) -> BaseSampler:
    """Independent uniform draws: the floor that every other sampler must beat."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)
