"""Whole trainings by name: data, architecture and hyperparameters, ending in a checkpoint."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from search.data import fashion
from search.data.batches import normalized_batches
from search.data.idx import read_idx_pair
from search.data.imagefolder import ImageFolderDataset, list_images
from search.data.splits import Split
from search.digest import digest_of_bytes
from search.errors import BadInput, unknown_choice
from search.models.backbones.base import adapt
from search.models.card import Architecture, Exits, InputSpec, ModelCard
from search.models.checkpoint import build_backbone, save_checkpoint
from search.models.early_exit import EarlyExitModel
from search.models.pretrained import read_weights, take_weights
from search.tasks import resolve_task
from search.tasks.torch_half import resolve_torch_task
from search.training.data import FolderData
from search.training.loop import ArrayData, EpochReport, TrainingData, TrainRecipe, train

Say = Callable[[str], None]

UNWRITTEN = "0" * 64  # the weights' digest before there are weights

FASHION_ARCHITECTURE = Architecture(
    timm="vit_tiny_patch16_224",
    kwargs={
        "img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "depth": 6,
        "num_heads": 3, "mlp_ratio": 3, "class_token": False, "global_pool": "avg",
    },
    stem="conv",
)  # fmt: skip


def train_recipe(
    name: str,
    folder: Path,
    output: Path,
    *,
    overrides: dict[str, Any],
    timm_model: str,
    pretrained: bool | Path,
    weights_prefix: str = "",
    exits: tuple[int, ...] | None,
    head: str | None,
    say: Say,
) -> ModelCard:
    """Train the recipe ``name`` on ``folder`` and write the checkpoint ``output``.

    Args:
        name: ``"fashion"`` or ``"imagefolder"``.
        folder: where the training images lie.
        output: the safetensors file to write; the card goes beside it.
        overrides: fields of :class:`TrainRecipe` that replace the recipe's own.
        timm_model: the backbone, for ``imagefolder``.
        pretrained: for ``imagefolder``: True downloads timm's weights, a path reads them from a
            safetensors file in timm's format or of exitbits' own.
        weights_prefix: what is taken off the names in that file.
        exits: blocks that an exit follows (default every block for ``fashion``, every second one
            for ``imagefolder``).
        head: name of the exit head, default ``"linear"``.
        say: receives each line of progress.

    Returns:
        the card as written.
    """
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES)
    default, prepare = RECIPES[name]
    recipe = replace(default, **overrides)
    torch.manual_seed(recipe.seed)
    weights = read_weights(pretrained, weights_prefix) if isinstance(pretrained, Path) else None
    backbone, data, held_out, card = prepare(
        Request(folder, timm_model, pretrained is True, exits, head or "linear")
    )
    model = EarlyExitModel(backbone, card.exits.blocks, card.exits.head, len(card.classes))
    if weights is not None:
        say(f"weights of {pretrained}: {take_weights(model, weights)}")
    parameters = sum(p.numel() for p in model.parameters())
    say(f"training {card.name}: {parameters} parameters, {len(data)} images, {recipe}")
    started = time.monotonic()
    metric = resolve_task(card.task).metric
    train(
        model, card.task, data, recipe,
        on_epoch=lambda report: say(_epoch_line(report, recipe.epochs, metric)),
    )  # fmt: skip
    seconds = time.monotonic() - started
    values = exit_values(model, card, held_out)
    say(
        f"held-out {metric} by exit ({held_out.name} split, {len(held_out)} images, full "
        "precision): " + " ".join(f"{value:.4f}" for value in values)
    )
    card = card.model_copy(
        update={
            "training": {
                "command": shlex.join(["exitbits", *sys.argv[1:]]),
                "recipe": recipe.as_dict(),
                "pretrained": str(pretrained) if isinstance(pretrained, Path) else pretrained,
                "seconds": round(seconds),
                "torch": torch.__version__,
                f"{held_out.name}_{metric}_by_exit": values,
            }
        }
    )
    return save_checkpoint(model, card, output)


@dataclass(frozen=True)
class Request:
    """What a recipe is asked for."""

    folder: Path
    timm_model: str
    pretrained: bool
    exits: tuple[int, ...] | None
    head: str


Prepared = tuple[torch.nn.Module, TrainingData, Split, ModelCard]


def open_training_data(dataset: str, folder: Path, spec: InputSpec) -> TrainingData:
    """The training images of a data set, augmented and normalized.

    Args:
        dataset: ``"fashion"`` or ``"imagefolder"``.
        folder: where they lie: Fashion-MNIST's published files, or ``train/CLASS/`` below it.
        spec: what the model reads.

    Raises:
        BadInput: when they cannot be read.
    """
    if dataset == "fashion":
        images, labels = read_idx_pair(folder, "train")
        return ArrayData(images[..., None], labels, spec.mean, spec.std)
    return FolderData(list_images(folder / "train")[1], spec)


def _prepare_fashion(request: Request) -> Prepared:
    images, labels = read_idx_pair(request.folder, "train")
    card = ModelCard(
        name="fashion",
        task="classification",
        architecture=FASHION_ARCHITECTURE,
        exits=Exits(blocks=request.exits or tuple(range(1, 7)), head=request.head),
        classes=fashion.CLASSES,
        input=InputSpec(size=(1, 28, 28), mean=fashion.MEAN, std=fashion.STD),
        data={
            "dataset": "fashion",
            "train_images": len(labels),
            "train_digest": digest_of_bytes(images.tobytes(), labels.tobytes()),
        },
        weights_sha256=UNWRITTEN,
    )
    backbone = build_backbone(card.architecture, len(card.classes))
    data = ArrayData(images[..., None], labels, fashion.MEAN, fashion.STD)
    return backbone, data, fashion.FashionDataset().split("search"), card


def _prepare_imagefolder(request: Request) -> Prepared:
    classes, files = list_images(request.folder / "train")
    if len(classes) < 2:
        raise BadInput(f"{str(request.folder / 'train')!r} has one class only: two are needed")
    architecture = Architecture(timm=request.timm_model)
    backbone = build_backbone(architecture, len(classes), request.pretrained)
    config = resolve_model_data_config(backbone)
    spec = InputSpec(
        size=config["input_size"],
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )
    depth = adapt(backbone).num_blocks
    card = ModelCard(
        name=request.timm_model,
        task="classification",
        architecture=architecture,
        exits=Exits(
            blocks=request.exits or tuple(range(2 - depth % 2, depth + 1, 2)), head=request.head
        ),
        classes=classes,
        input=spec,
        data={"dataset": "imagefolder", "train_images": len(files)},
        weights_sha256=UNWRITTEN,
    )
    held_out = ImageFolderDataset(request.folder, spec)
    if held_out.classes != classes:
        raise BadInput(f"train and val in {str(request.folder)!r} have different classes")
    return backbone, FolderData(files, spec), held_out.split("search"), card


RECIPES: dict[str, tuple[TrainRecipe, Callable[[Request], Prepared]]] = {
    "fashion": (TrainRecipe(epochs=40), _prepare_fashion),
    "imagefolder": (
        TrainRecipe(epochs=10, batch_size=64, learning_rate=2e-4),
        _prepare_imagefolder,
    ),
}


def exit_values(
    model: EarlyExitModel, card: ModelCard, split: Split, batch_size: int = 500
) -> list[float]:
    """The metric of every exit on a split in full precision, each in [0, 1]."""
    task, torch_task = resolve_task(card.task), resolve_torch_task(card.task)
    statistics: list[list[np.ndarray]] = [[] for _ in model.exit_blocks]
    done = 0
    for images in normalized_batches(split, card.input, batch_size):
        targets = split.targets[done : done + len(images)]
        done += len(images)

        def read(e: int, outputs: Tensor, targets: np.ndarray = targets) -> None:
            statistics[e].append(torch_task.reduce(outputs, targets)[1])

        with torch.inference_mode():
            model.read_exits(images, read)
    return [task.score(np.concatenate(each)).value for each in statistics]


def _epoch_line(report: EpochReport, epochs: int, metric: str) -> str:
    return (
        f"epoch {report.epoch:3d}/{epochs}  loss {report.loss:.4f}  "
        f"train {metric} {report.value:.4f}  lr {report.learning_rate:.5f}  "
        f"{report.seconds:.1f} s"
    )
