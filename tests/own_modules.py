"""A person's own modules, under names that others have too."""

from __future__ import annotations

from pathlib import Path

NAMES = ("search", "random", "json", "torch", "alembic", "dashboards", "studies/__init__")
MODULE = """
import os, sys
with open(os.path.join({folder!r}, "imported.txt"), "a") as file:
    print({name!r}, sys.argv, file=file)
raise RuntimeError("{name} is not yours")
"""


def put_own_modules(folder: Path) -> None:
    """Put modules there that note down who imports them, and fail."""
    for name in NAMES:
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(MODULE.format(folder=str(folder), name=name))


def imported_ones(folder: Path) -> list[str]:
    """Which of them were imported, and by which command lines."""
    noted = folder / "imported.txt"
    return noted.read_text().splitlines() if noted.exists() else []
