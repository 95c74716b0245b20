"""Distributions as an installer leaves them, for tests of members from outside the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from running import ROOT


def write_distribution(
    folder: Path,
    name: str,
    modules: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
) -> None:
    """Write version 1.0 of a distribution into a folder that is, or will be, on ``sys.path``.

    Args:
        folder: where modules and metadata go.
        name: of the distribution.
        modules: file names to source.
        entry_points: of each group, names to ``"module:attribute"``.
    """
    for file, source in modules.items():
        (folder / file).write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, members in entry_points.items():
        lines += [f"[{group}]", *(f"{member} = {value}" for member, value in members.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def documented(file: str) -> str:
    """The source of ``file`` as ``docs/architecture.md`` shows it."""
    blocks = (ROOT / "docs" / "architecture.md").read_text().split("```python\n")[1:]
    sources = [block.partition("```")[0] for block in blocks]
    return next(source for source in sources if source.startswith(f"# {file}\n"))
