"""Weights that a training begins from: every tensor of the backbone is found, or none is taken."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from search.errors import BadInput
from search.models.early_exit import EarlyExitModel

NAMED = 3  # of many names, so many are listed
OWN = ("backbone.", "heads.")  # what the names in exitbits' own checkpoints begin with


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, under the names that timm gives them.

    Attributes:
        file: where they are from.
        backbone: of the backbone and its own head.
        exits: of the exit heads, as ``BLOCK.NAME``; only exitbits' own checkpoints have some.
    """

    file: Path
    backbone: Mapping[str, Tensor]
    exits: Mapping[str, Tensor]


@dataclass(frozen=True)
class Taken:
    """What was taken of a file.

    Attributes:
        backbone: how many tensors of the backbone, which are all that it has.
        head: what became of the last exit's head, in words.
        exits: after which blocks the exit heads were taken.
        left: names in the file that nothing has room for.
    """

    backbone: int
    head: str
    exits: tuple[int, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"all {self.backbone} tensors of the backbone", self.head]
        if self.exits:
            parts.append(f"exit heads after blocks {', '.join(map(str, self.exits))}")
        if self.left:
            parts.append(f"not taken: {_some(self.left)}")
        return "; ".join(parts)


def read_weights(file: Path, prefix: str = "") -> Weights:
    """Read a safetensors file in timm's format, or one that exitbits wrote.

    Args:
        file: to read.
        prefix: what is taken off the names; those that do not begin so are left out.

    Raises:
        BadInput: for another format, a damaged file, or a prefix that no name begins with.
    """
    if file.suffix != ".safetensors":
        raise BadInput(
            f"pretrained weights {str(file)!r} are not a .safetensors file: "
            "other formats (pickles among them) are never loaded"
        )
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"cannot read pretrained weights {str(file)!r} ({error}): name a whole file"
        ) from error
    if prefix:
        named = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not named:
            raise BadInput(
                f"no name in {str(file)!r} begins with {prefix!r}: they are {_some(tensors)}"
            )
        tensors = named
    own = bool(tensors) and all(name.startswith(OWN) for name in tensors)
    if not own:
        return Weights(file, tensors, {})
    backbone, exits = ({k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)}
                       for p in OWN)  # fmt: skip
    return Weights(file, backbone, exits)


def take_weights(model: EarlyExitModel, weights: Weights) -> Taken:
    """Put weights into a model; heads of another shape stay as they are.

    Names and layouts that timm knows how to convert are converted, and position embeddings of
    another size are resampled.

    Raises:
        BadInput: unless every tensor of the backbone is there with the model's shape; the model is
            then as it was.
    """
    backbone: Any = model.backbone
    found = _converted(weights, backbone)
    wanted = backbone.state_dict()
    heads = own_head_names(backbone)
    body = {name: value for name, value in wanted.items() if not name.startswith(heads)}
    _refuse_missing(weights, found, body)
    head = {name: value for name, value in wanted.items() if name.startswith(heads)}
    taken = {name: found[name] for name in body}
    if head and _fits(found, head):
        taken |= {name: found[name] for name in head}
        said = "the head, whose shape fits"
    elif given := [found[name] for name in head if name in found]:
        said = f"not the head, which is for {len(given[0])} classes: a new one begins"
    else:
        said = "no head is in the file: a new one begins"
    backbone.load_state_dict(taken, strict=False)
    exits = _take_exits(model, weights.exits)
    used = {*taken, *(name for name in found if name.startswith(heads))}
    left = [name for name in found if name not in used]
    left += [f"heads.{name}" for name in weights.exits if int(name.split(".")[0]) not in exits]
    return Taken(len(body), said, exits, tuple(left))


def own_head_names(backbone: Any) -> tuple[str, ...]:
    """What the names of a timm backbone's own head begin with, such as ``head.``."""
    names = backbone.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _converted(weights: Weights, backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors in timm's own layout, by the converter that comes with the backbone's class."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(weights.backbone)
    try:
        with torch.no_grad():
            converted: dict[str, Tensor] = convert(dict(weights.backbone), backbone)
    except Exception as error:
        # It checks nothing: tensors of another model end in any error.
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise BadInput(
            f"{str(weights.file)!r} does not hold this model's weights ({reason}): name the model "
            "that they are of with --model"
        ) from error
    return converted


def _refuse_missing(
    weights: Weights, found: Mapping[str, Tensor], body: Mapping[str, Tensor]
) -> None:
    """Raise ``BadInput`` unless every tensor of the body is found in its shape."""
    missing = [name for name in body if name not in found]
    if missing:
        what = f"{len(missing)} of {len(body)} tensors of the model, {_some(missing)} among them"
        raise BadInput(
            f"{str(weights.file)!r} lacks {what}: {_remedy(weights.backbone, found, body)}"
        )
    for name, value in body.items():
        if found[name].shape != value.shape:
            raise BadInput(
                f"{str(weights.file)!r} is of another model: {name} is "
                f"{list(found[name].shape)} there, {list(value.shape)} here: name the model that "
                "it is of with --model"
            )


def _remedy(given: Collection[str], found: Collection[str], body: Collection[str]) -> str:
    """What to do about missing names: the prefix that would fit, or what the file has instead."""
    prefixes = Counter(
        name.removesuffix(end) for name in given for end in _ends(name) if end in body
    )
    prefix, count = max(prefixes.items(), key=lambda one: one[1], default=("", 0))
    if prefix and count > sum(name in body for name in found):
        return (
            f"{count} would be found without the prefix {prefix!r}: give --weights-prefix {prefix}"
        )
    return f"it holds {_some(given)}; name the model that it is of with --model"


def _ends(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(1, len(parts)))


def _take_exits(model: EarlyExitModel, given: Mapping[str, Tensor]) -> tuple[int, ...]:
    taken = []
    for block, head in model.heads.items():
        wanted = head.state_dict()
        found = {k.partition(".")[2]: v for k, v in given.items() if k.split(".")[0] == block}
        if wanted.keys() == found.keys() and _fits(found, wanted):
            head.load_state_dict(found)
            taken.append(int(block))
    return tuple(taken)


def _fits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return all(name in found and found[name].shape == wanted[name].shape for name in wanted)


def _some(names: Collection[str]) -> str:
    """The first of many names, and how many more there are."""
    listed = ", ".join(list(names)[:NAMED])
    return f"{listed} and {len(names) - NAMED} more" if len(names) > NAMED else listed
