"""A study's configuration as a file: a preset, or TOML, whose paths are relative to it."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from search.caching import expanded
from search.errors import BadInput, unknown_choice
from search.opening import is_path
from studies.config import StudyConfig, parse_config


def _resolve_paths(fields: dict[str, Any], folder: Path) -> None:
    """Take relative paths from the file that names them, wherever the command runs."""
    for section, key in (("model", "checkpoint"), ("data", "path")):
        part = fields.get(section)
        if not isinstance(part, dict) or not isinstance(part.get(key), str):
            continue
        if key == "path" or is_path(part[key]):
            part[key] = str((folder / expanded(part[key])).absolute())


def _put(fields: dict[str, Any], section: str, key: str, path: str | None) -> None:
    """Set a path that was given in the working folder."""
    if path is None:
        return
    part = fields.setdefault(section, {})
    if isinstance(part, dict):
        part[key] = path
        if key == "path" or is_path(path):
            part[key] = str(expanded(path).absolute())


def preset_names() -> list[str]:
    """Names of the presets that come with exitbits."""
    folder = resources.files("studies").joinpath("presets")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_config(
    source: str,
    *,
    name: str | None = None,
    trials: int | None = None,
    model: str | None = None,
    data: str | None = None,
) -> StudyConfig:
    """Read a preset or a TOML file.

    Args:
        source: a preset's name, or a path ending in ``.toml``.
        name, trials: replace what the file says.
        model, data: likewise, the checkpoint and the folder of the images; relative to the
            working folder.

    Raises:
        BadInput: for an unknown preset, an unreadable file, or a value that is not allowed.
    """
    try:
        if source.endswith(".toml"):
            text = Path(source).read_text(encoding="utf-8-sig")
        elif source in preset_names():
            preset = resources.files("studies").joinpath("presets", f"{source}.toml")
            text = preset.read_text(encoding="utf-8")
        else:
            raise unknown_choice("preset", source, [*preset_names(), "or a path ending in .toml"])
        fields = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {source!r} ({error}): name an existing TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{source}: not valid TOML ({error})") from error
    _resolve_paths(fields, Path(source).parent)
    _put(fields, "model", "checkpoint", model)
    _put(fields, "data", "path", data)
    if name is not None:
        fields["name"] = name
    if trials is not None:
        budget = fields.get("budget", {})
        fields["budget"] = {**(budget if isinstance(budget, dict) else {}), "trials": trials}
    return parse_config(fields, source)
