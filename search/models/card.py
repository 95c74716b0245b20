"""The card beside a checkpoint: what the weights are, in JSON. Plain data, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from search.digest import digest_of
from search.errors import BadInput


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Size = Annotated[int, Field(strict=True, ge=1, le=4096)]
Side = Annotated[int, Field(ge=1, le=65_536)]
_Sizes = Size | Annotated[list[Size], Field(min_length=2, max_length=2)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Flag = Annotated[bool, Field(strict=True)]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{0,40}$")]
_Count = Annotated[int, Field(strict=True, ge=1, le=1000)]


class _Arguments(_Frozen):
    """Of timm's arguments those that say what a network is, and how large each may be.

    All others are left to timm: some load files, or run what they are given.
    """

    img_size: _Sizes = 1
    patch_size: _Sizes = 1
    in_chans: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    embed_dim: Size = 1
    depth: _Count = 1
    depths: Annotated[list[_Count], Field(min_length=1, max_length=8)] = [1]
    num_heads: _Count | Annotated[list[_Count], Field(min_length=1, max_length=8)] = 1
    window_size: _Sizes = 1
    mlp_ratio: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] = 1
    reg_tokens: Annotated[int, Field(strict=True, ge=0, le=64)] = 0
    init_values: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    drop_rate: _Share = 0
    pos_drop_rate: _Share = 0
    patch_drop_rate: _Share = 0
    proj_drop_rate: _Share = 0
    attn_drop_rate: _Share = 0
    drop_path_rate: _Share = 0
    class_token: _Flag = True
    qkv_bias: _Flag = True
    qk_norm: _Flag = False
    proj_bias: _Flag = True
    pre_norm: _Flag = False
    final_norm: _Flag = True
    fc_norm: _Flag | None = None
    no_embed_class: _Flag = False
    dynamic_img_size: _Flag = False
    strict_img_size: _Flag = True
    always_partition: _Flag = False
    global_pool: _Word = ""
    pos_embed: _Word = ""
    act_layer: _Word | None = None
    norm_layer: _Word | None = None


def _check_arguments(given: dict[str, Any]) -> dict[str, Any]:
    # Not a ValueError: whoever builds an architecture gets this line, not pydantic's many.
    unknown = sorted(given.keys() - _Arguments.model_fields.keys())
    if unknown:
        raise BadInput(
            f"argument {unknown[0][:40]!r} is none that a card may give to timm: choose from "
            f"{', '.join(_Arguments.model_fields)}"
        )
    try:
        _Arguments.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, value = ".".join(map(str, first["loc"][:1])), repr(first["input"])[:60]
        raise BadInput(f"argument {where} = {value}: {first['msg']}") from error
    return given


class Architecture(_Frozen):
    """How to build the backbone: a timm model name, its keyword arguments, and the stem.

    The arguments are those of an allow-list, within bounds: a card is another person's file.
    """

    timm: str
    kwargs: Annotated[dict[str, Any], AfterValidator(_check_arguments)] = Field(
        default_factory=dict
    )
    stem: str = "patch"


class Exits(_Frozen):
    """After which blocks (1-based) an exit follows, and the head at all but the last."""

    blocks: tuple[int, ...] = Field(min_length=1, max_length=1000)
    head: str = "linear"


RECOVERED_FROM = "recovered_from"  # in a card's training: digest of the model that it came from


class InputSpec(_Frozen):
    """What one image looks like to the model: ``(channels, height, width)`` and normalization."""

    size: tuple[Side, Side, Side]
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
    classes: tuple[str, ...] = Field(min_length=2, max_length=1_000_000)
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
    except BadInput as error:
        raise BadInput(f"{str(path)!r} is not a model card: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(
            f"{str(path)!r} is not a model card: {where}: {first['msg']}; "
            "write one with 'exitbits train'"
        ) from error
