"""Figures hold for the model and the images that they were measured with, and for no others.

Wherever a model or images are opened for what was recorded before, their digests are compared
here.
"""

from __future__ import annotations

from search.errors import BadInput


def check_model(owner: str, recorded: str, now: str, otherwise: str = "") -> None:
    """Make sure that a model is the one that figures were measured with.

    Args:
        owner: whose figures they are, for example ``"study 'mine'"``.
        recorded: digest of the model's card then.
        now: digest of the card of what was opened.
        otherwise: what to do where it cannot be restored.

    Raises:
        BadInput: when it is another.
    """
    if now != recorded:
        raise BadInput(
            f"the checkpoint of {owner} has changed ({recorded[:12]} when it was measured, "
            f"{now[:12]} now): {_remedy('restore it', otherwise)}"
        )


def check_images(owner: str, recorded: str, now: str, otherwise: str = "") -> None:
    """Make sure that images are those that figures were measured on; likewise.

    Raises:
        BadInput: when they are others.
    """
    if now != recorded:
        raise BadInput(
            f"the images are not those that {owner} was measured on ({recorded[:12]} then, "
            f"{now[:12]} now): {_remedy('restore them', otherwise)}"
        )


def _remedy(*ways: str) -> str:
    return ", or ".join(way for way in ways if way)
