"""Checkpoints: a safetensors file and a JSON card. Pickles are never loaded.

The weights' digest is checked before a single tensor is read, so a truncated, swapped or edited
file is refused, not half-loaded.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from search.digest import digest_of_file
from search.errors import BadInput, ExitbitsError
from search.files import replacing
from search.models.card import Architecture, ModelCard, card_path, read_card
from search.models.early_exit import EarlyExitModel
from search.models.stems import resolve_stem


def build_backbone(
    architecture: Architecture, classes: int, pretrained: bool = False
) -> torch.nn.Module:
    """Create the timm backbone of a card.

    Args:
        architecture: what to build.
        classes: number of classes; a head of another size in pretrained weights is left out.
        pretrained: whether to download timm's own weights.

    Raises:
        BadInput: for a name or argument that timm does not know.
        ExitbitsError: when pretrained weights cannot be had.
    """
    kwargs = dict(architecture.kwargs)
    if architecture.stem != "patch":
        kwargs["embed_layer"] = resolve_stem(architecture.stem)
    if not timm.is_model(architecture.timm):
        close = difflib.get_close_matches(architecture.timm, timm.list_models(), 5)
        raise BadInput(
            f"unknown timm model {architecture.timm!r}: "
            + (f"near it are {', '.join(close)}" if close else "see timm.list_models()")
        )
    try:
        backbone: torch.nn.Module = timm.create_model(
            architecture.timm, pretrained=pretrained, num_classes=classes, **kwargs
        )
        return backbone
    except Exception as error:
        # timm checks little: a wrong argument can end in any error, as can a download.
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if pretrained:
            raise ExitbitsError(
                f"cannot load pretrained weights of {architecture.timm!r} ({reason}): check the "
                "network, or name a file with --pretrained FILE.safetensors"
            ) from error
        raise BadInput(
            f"timm cannot build {architecture.timm!r} with {architecture.kwargs} ({reason}): "
            "correct the arguments"
        ) from error


def build_model(card: ModelCard) -> EarlyExitModel:
    """Build the model of a card with random weights."""
    backbone = build_backbone(card.architecture, len(card.classes))
    return EarlyExitModel(backbone, card.exits.blocks, card.exits.head, len(card.classes))


def save_checkpoint(model: EarlyExitModel, card: ModelCard, weights: Path) -> ModelCard:
    """Write ``weights`` and its card, each in one atomic step, and return the card as written.

    ``card.weights_sha256`` is replaced by the digest of the file.
    """
    check_suffix(weights)
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with replacing(card_path(weights)) as card_partial, replacing(weights) as partial:
            save_file(tensors, partial)
            card = card.model_copy(update={"weights_sha256": digest_of_file(partial)})
            card_partial.write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"cannot write checkpoint {str(weights)!r} ({error}): choose a writable folder"
        ) from error
    return card


def check_suffix(weights: Path) -> None:
    """Raise ``BadInput`` unless ``weights`` is named as a safetensors file."""
    if weights.suffix != ".safetensors":
        raise BadInput(
            f"checkpoint {str(weights)!r} is not a .safetensors file: "
            "other formats (pickles among them) are never loaded"
        )


def _check_shapes(weights: Path, card: ModelCard) -> None:
    """Compare the file with what the card describes before memory is taken for either.

    Raises:
        RuntimeError: when the file has not the tensors of that model.
    """
    with torch.device("meta"):  # shapes alone
        described = build_model(card).state_dict()
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            if name not in described:
                raise RuntimeError(f"unexpected tensor {name[:80]!r}")
            if tuple(described.pop(name).shape) != tuple(file.get_slice(name).get_shape()):
                raise RuntimeError(f"tensor {name!r} has another shape")
    if described:
        raise RuntimeError(f"tensor {next(iter(described))!r} is missing")


def load_checkpoint(weights: Path) -> tuple[EarlyExitModel, ModelCard]:
    """Read a checkpoint in evaluation mode, refusing one that does not match its card.

    Raises:
        BadInput: when a file is missing, is no safetensors file, or its digest or its tensors
            differ from what the card says.
    """
    check_suffix(weights)
    card = read_card(card_path(weights))
    try:
        found = digest_of_file(weights)
    except OSError as error:
        raise BadInput(
            f"cannot read checkpoint {str(weights)!r} ({error}): name an existing file"
        ) from error
    if found != card.weights_sha256:
        raise BadInput(
            f"checkpoint {str(weights)!r} has digest {found[:12]}, its card says "
            f"{card.weights_sha256[:12]}: the file is truncated, changed or another model's; "
            "restore the pair that 'exitbits train' wrote"
        )
    try:
        _check_shapes(weights, card)
        model = build_model(card)
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        # torch's first line only says that something is wrong; the next names a tensor.
        first = " ".join(line.strip() for line in str(error).splitlines()[1:2]) or str(error)
        raise BadInput(
            f"checkpoint {str(weights)!r} does not hold the tensors its card describes ({first}): "
            "restore the pair that 'exitbits train' wrote"
        ) from error
    return model.eval(), card
