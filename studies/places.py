"""Where models and images lie: relative to the file that names them, so that both can move."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from search.caching import expanded
from search.opening import is_path
from studies.config import StudyConfig

LEVELS = 2  # folders up from the file within which a path is still relative to it


def relative(path: str, folder: Path) -> str:
    """A path as a file in ``folder`` names it.

    Relative where it lies in the folder or in one of the two above it, so that a project moves as a
    whole; absolute where it lies elsewhere. What is no path stays as it is.
    """
    place = Path(path)
    if not place.is_absolute():
        return path
    own = folder.absolute()
    for base in (own, *own.parents)[: LEVELS + 1]:
        if base != base.parent and place.is_relative_to(base):
            named = os.path.relpath(place, own)
            return named if is_path(named) else path
    return path


def absolute(path: str, folder: Path) -> str:
    """What :func:`relative` named, from ``folder`` as it is called now."""
    if not is_path(path) or Path(path).is_absolute():
        return path
    return os.path.normpath(folder.absolute() / path)


def placed(
    config: StudyConfig, change: Callable[[str, Path], str], folder: Path | None
) -> StudyConfig:
    """A configuration whose paths are changed for a folder, None for none."""
    if folder is None:
        return config
    path = config.data.path
    return _with(config, change(config.model.checkpoint, folder), path and change(path, folder))


def moved(config: StudyConfig, model: str | None = None, data: str | None = None) -> StudyConfig:
    """A configuration whose model or images lie elsewhere, in the working folder or absolute."""
    path = config.data.path if data is None else str(expanded(data).absolute())
    if model is not None and is_path(model):
        model = str(expanded(model).absolute())
    return _with(config, model or config.model.checkpoint, path)


def _with(config: StudyConfig, checkpoint: str, path: str | None) -> StudyConfig:
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"checkpoint": checkpoint}),
            "data": config.data.model_copy(update={"path": path}),
        }
    )
