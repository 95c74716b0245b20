"""The card beside a checkpoint: what the weights are, in JSON. Plain data, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from search.digest import digest_of
from search.errors import BadInput


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """How to build the backbone: a timm model name, its keyword arguments, and the stem."""

    timm: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    stem: str = "patch"


class Exits(_Frozen):
    """After which blocks (1-based) an exit follows, and the head at all but the last."""

    blocks: tuple[int, ...] = Field(min_length=1)
    head: str = "linear"


RECOVERED_FROM = "recovered_from"  # in a card's training: digest of the model that it came from


class InputSpec(_Frozen):
    """What one image looks like to the model: ``(channels, height, width)`` and normalization."""

    size: tuple[int, int, int]
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    std: tuple[Annotated[float, Field(allow_inf_nan=False, gt=0)], ...]
    interpolation: str = "bicubic"
    crop_pct: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _channels_agree(self) -> InputSpec:
        if not len(self.mean) == len(self.std) == self.size[0]:
            raise ValueError(f"mean and std need {self.size[0]} values each, one per channel")
        return self


class ModelCard(_Frozen):
    """Everything about a checkpoint but its numbers.

    ``weights_sha256`` ties the card to one safetensors file; :attr:`digest` names the pair.
    """

    card_schema: Literal[1] = 1
    name: str
    task: str
    architecture: Architecture
    exits: Exits
    classes: tuple[str, ...] = Field(min_length=2)
    input: InputSpec
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def digest(self) -> str:
        """SHA-256 over what determines the model's answers (not how it was trained)."""
        fields = self.model_dump(mode="json", include=set(_IDENTITY))
        return digest_of(fields)


_IDENTITY = ("task", "architecture", "exits", "classes", "input", "weights_sha256")


def card_path(weights: Path) -> Path:
    """Where the card of a checkpoint lies: the same name ending in ``.json``."""
    return weights.with_suffix(".json")


def read_card(path: Path) -> ModelCard:
    """Read and check a card file.

    Raises:
        BadInput: when it is missing, unreadable, or not a card.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read model card {str(path)!r} ({getattr(error, 'strerror', error)}): a "
            "checkpoint NAME.safetensors needs its card NAME.json beside it; where both lie "
            "elsewhere, say so with --model"
        ) from error
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(
            f"{str(path)!r} is not a model card: {where}: {first['msg']}; "
            "write one with 'exitbits train'"
        ) from error
