"""Where a study's checkpoint lies, and its digest, without loading it. No torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from search.caching import expanded
from search.digest import digest_of_file
from search.errors import BadInput, unknown_choice
from search.models.card import card_path, read_card

BUNDLED_SCHEME = "bundled"
BUNDLED = ("fashion", "fashion-deep")


def checkpoint_path(name: str) -> Path:
    """The file of ``bundled:NAME`` or of a path.

    Raises:
        BadInput: for an unknown bundled model.
    """
    prefix, _, bundled = name.partition(":")
    if prefix != BUNDLED_SCHEME:
        return expanded(name)
    if bundled not in BUNDLED:
        raise unknown_choice("bundled model", bundled, BUNDLED)
    return Path(str(resources.files("search.data").joinpath("assets", f"{bundled}.safetensors")))


def checkpoint_digest(name: str) -> str:
    """Digest of a checkpoint as it is on disk now, its card's with the weights' own.

    Raises:
        BadInput: when a file of it cannot be read.
    """
    weights = checkpoint_path(name)
    card = read_card(card_path(weights))
    try:
        found = digest_of_file(weights)
    except OSError as error:
        raise BadInput(
            f"cannot read checkpoint {str(weights)!r} ({error.strerror}): name an existing file"
        ) from error
    return card.model_copy(update={"weights_sha256": found}).digest
