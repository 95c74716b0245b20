"""Fixtures of the tests of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import Fleet


@pytest.fixture
def launch_fleet(tmp_path: Path, shared_cache: Path) -> Iterator[Callable[[str], Fleet]]:
    """Make a fleet on a store; its processes end with the test."""
    fleets: list[Fleet] = []

    def make(address: str) -> Fleet:
        fleets.append(Fleet(tmp_path, address, shared_cache))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()
