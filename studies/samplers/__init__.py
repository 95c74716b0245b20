"""Samplers by name: which Optuna sampler proposes policies after the anchors.

Plain: what a name stands for is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.registry import resolve

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from studies.samplers.knowledge import StudyKnowledge

SAMPLERS: dict[str, str] = {
    "apq": "studies.samplers.stock:apq",
    "tpe": "studies.samplers.stock:multivariate_tpe",
    "nsga2": "studies.samplers.stock:nsga2",
    "random": "studies.samplers.stock:uniform_random",
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
