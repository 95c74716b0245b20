"""Samplers by name: which Optuna sampler proposes policies after the anchors.

Plain: what a name stands for is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.registry import Registry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from studies.samplers.knowledge import Knowledge

SAMPLERS = Registry(
    "sampler",
    "exitbits.samplers",
    {
        "apq": "studies.samplers.stock:apq",
        "tpe": "studies.samplers.stock:multivariate_tpe",
        "nsga2": "studies.samplers.stock:nsga2",
        "random": "studies.samplers.stock:uniform_random",
    },
)


def make_sampler(name: str, seed: int, knowledge: Knowledge | None = None) -> BaseSampler:
    """Build the sampler called ``name``.

    Args:
        name: one of :data:`SAMPLERS`.
        seed: of this process's stream; give every worker another one.
        knowledge: of the study, for samplers that use it.
    """
    sampler: BaseSampler = SAMPLERS.resolve(name)(seed, knowledge)
    return sampler
