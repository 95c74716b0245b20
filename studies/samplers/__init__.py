"""Samplers by name: which Optuna sampler proposes policies after the anchors.

Plain: what a name stands for is imported when it is asked for.
"""

from __future__ import annotations

from search.registry import Registry

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
