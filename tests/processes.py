"""Processes that run the tests' own functions: fresh ones, of a server that has loaded the store.

Started from nothing, each would pay a second for its imports.
"""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from running import ROOT

LOADED = [
    "alembic.command", "optuna", "postgres", "pytest", "small_study", "studies.store.contributions",
]  # fmt: skip


@cache
def fresh() -> ForkServerContext:
    """What makes processes, barriers and events."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11's server looks for modules on the environment's path alone.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))
        forkserver.ensure_running()
    return context
