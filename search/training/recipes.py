"""Whole trainings by name: data, architecture and hyperparameters, ending in a checkpoint."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from search.data import fashion
from search.data.augment import resolve_augmentation
from search.data.batches import batch_that_fits, normalized_batches
from search.data.idx import read_idx_pair
from search.data.imagefolder import ImageFolderDataset
from search.data.listing import list_images, refuse_faults
from search.data.splits import DataOptions, Split, few_images
from search.digest import digest_of, digest_of_bytes, digest_of_file
from search.errors import BadInput, check_range, unknown_choice
from search.models.backbones.base import adapt
from search.models.card import Architecture, Exits, InputSpec, ModelCard
from search.models.checkpoint import build_backbone, save_checkpoint
from search.models.early_exit import EarlyExitModel
from search.models.pretrained import read_weights, take_weights
from search.tasks import resolve_task
from search.tasks.torch_half import resolve_torch_task
from search.training.data import FolderData, open_training_data
from search.training.loop import BatchReport, EpochReport, TrainingData, train
from search.training.plan import TrainRecipe
from search.training.resume import TrainingState

Say = Callable[[str], None]

TUNED_BACKBONE = 0.1  # share of the rate at which weights that are good already are tuned
UNWRITTEN = "0" * 64  # the weights' digest before there are weights

FASHION_ARCHITECTURE = Architecture(
    timm="vit_tiny_patch16_224",
    kwargs={
        "img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "depth": 6,
        "num_heads": 3, "mlp_ratio": 3, "class_token": False, "global_pool": "avg",
    },
    stem="conv",
)  # fmt: skip

# Plain patches and a class token: little is known after the first blocks, so that depth matters.
DEEP_ARCHITECTURE = Architecture(
    timm="vit_tiny_patch16_224",
    kwargs={
        "img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "depth": 12,
        "num_heads": 2,
    },
)  # fmt: skip


MOST_PIXELS = 2048  # a side; beyond, memory ends before anybody has seen why
PROGRESS_S = 15.0  # between two lines within an epoch


@dataclass(frozen=True)
class Request:
    """What is trained, and on what.

    Attributes:
        folder: where the training images lie.
        timm_model: the backbone, for ``imagefolder``.
        pretrained: for ``imagefolder``: True downloads timm's weights, a path reads them from a
            safetensors file in timm's format or of exitbits' own.
        weights_prefix: what is taken off the names in that file.
        img_size: side of the images that ``imagefolder``'s model reads, None for timm's own.
        augmentation: of the images; None for light where weights are given, else strong.
        exits: blocks that an exit follows (default every second one for ``imagefolder``, else
            every block).
        head: name of the exit head.
        duplicates: what becomes of an image that lies in two splits.
        device: where it is trained, None for a GPU where there is one.
    """

    folder: Path
    timm_model: str = "vit_tiny_patch16_224"
    pretrained: bool | Path = False
    weights_prefix: str = ""
    img_size: int | None = None
    augmentation: str | None = None
    exits: tuple[int, ...] | None = None
    head: str = "linear"
    duplicates: Literal["refuse", "leave-out"] = "refuse"
    device: str | None = None

    @property
    def images(self) -> str:
        """The name of the augmentation."""
        return self.augmentation or ("light" if self.pretrained else "strong")


def train_recipe(
    name: str, request: Request, output: Path, *, overrides: dict[str, Any], say: Say
) -> ModelCard:
    """Train the recipe ``name`` and write the checkpoint ``output``.

    What was learned is kept beside it at the end of every epoch, before anything is scored; a
    training that was interrupted goes on from there to the same outcome.

    Args:
        name: a key of :data:`RECIPES`.
        request: what is trained, and on what.
        output: the safetensors file to write; the card goes beside it.
        overrides: fields of :class:`TrainRecipe` that replace the recipe's own.
        say: receives each line of progress.

    Returns:
        the card as written.
    """
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES)
    default, prepare = RECIPES[name]
    if request.pretrained:
        default = replace(default, backbone_rate=TUNED_BACKBONE)
    recipe = replace(default, **overrides)
    torch.manual_seed(recipe.seed)
    given = request.pretrained
    weights = read_weights(given, request.weights_prefix) if isinstance(given, Path) else None
    backbone, data, held_out, card = prepare(request)
    model = EarlyExitModel(backbone, card.exits.blocks, card.exits.head, len(card.classes))
    if weights is not None:
        say(f"weights of {weights.file}: {take_weights(model, weights)}")
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    parameters = sum(p.numel() for p in model.parameters())
    say(
        f"training {card.name} on {device}: {parameters} parameters, {len(data)} images, "
        f"augmentation {request.images}, {recipe}"
    )
    if warning := few_images(held_out):
        say(warning)
    state = TrainingState(output.with_suffix(".state"), _training_key(card, recipe, request))
    started, metric = time.monotonic(), resolve_task(card.task).metric
    train(
        model, card.task, data, recipe,
        on_epoch=lambda report: say(_epoch_line(report, metric)),
        on_batch=_within_epochs(say), state=state,
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
                "augmentation": request.images,
                "pretrained": str(given) if isinstance(given, Path) else given,
                "seconds": round(seconds),
                "torch": torch.__version__,
                f"{held_out.name}_{metric}_by_exit": values,
            }
        }
    )
    card = save_checkpoint(model, card, output)
    state.remove()
    return card


def _training_key(card: ModelCard, recipe: TrainRecipe, request: Request) -> str:
    """Digest of what a training's outcome depends on; the card names its images."""
    fields = recipe.as_dict()
    del fields["compile"]
    given = request.pretrained
    return digest_of(
        {
            "card": card.model_dump(mode="json"),
            "recipe": fields,
            "augmentation": request.images,
            "weights": digest_of_file(given) if isinstance(given, Path) else given,
        }
    )


Prepared = tuple[torch.nn.Module, TrainingData, Split, ModelCard]


def _prepare_fashion(name: str, architecture: Architecture, request: Request) -> Prepared:
    images, labels = read_idx_pair(request.folder, "train")
    depth = int(architecture.kwargs["depth"])
    card = ModelCard(
        name=name,
        task="classification",
        architecture=architecture,
        exits=Exits(blocks=request.exits or tuple(range(1, depth + 1)), head=request.head),
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
    data = open_training_data("fashion", request.folder, card.input, DataOptions(), request.images)
    return backbone, data, fashion.FashionDataset().split("search"), card


def _check_size(request: Request) -> None:
    """Refuse a size before memory is taken for it, or one that patches do not fill."""
    if request.img_size is None:
        return
    check_range("--img-size", request.img_size, 8, MOST_PIXELS, whole=True)
    with torch.device("meta"):
        plain = build_backbone(Architecture(timm=request.timm_model), 2)
    patch = getattr(getattr(plain, "patch_embed", None), "patch_size", (1, 1))
    if any(request.img_size % side for side in patch):
        raise BadInput(
            f"--img-size {request.img_size}: {request.timm_model} reads patches of {max(patch)} "
            "pixels: give a multiple of that"
        )


def _prepare_imagefolder(request: Request) -> Prepared:
    _check_size(request)
    kwargs = {} if request.img_size is None else {"img_size": request.img_size}
    architecture = Architecture(timm=request.timm_model, kwargs=kwargs)
    found = list_images(request.folder, "train")
    classes = found.classes
    if len(classes) < 2:
        refuse_faults(request.folder, found.faults)
        raise BadInput(f"{str(request.folder / 'train')!r} has one class only: two are needed")
    backbone = build_backbone(architecture, len(classes), request.pretrained is True)
    config = resolve_model_data_config(backbone)
    channels, *side = config["input_size"]
    spec = InputSpec(
        size=(channels, *([request.img_size] * 2 if request.img_size else side)),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )
    depth = adapt(backbone).num_blocks
    options = DataOptions(duplicates=request.duplicates)
    images = ImageFolderDataset(request.folder, spec, options)
    files = images.training_files()
    card = ModelCard(
        name=request.timm_model,
        task="classification",
        architecture=architecture,
        exits=Exits(
            blocks=request.exits or tuple(range(2 - depth % 2, depth + 1, 2)), head=request.head
        ),
        classes=classes,
        input=spec,
        data={
            "dataset": "imagefolder",
            "train_images": len(files),
            "train_digest": digest_of([[file.name, file.size] for file in files]),
        },
        weights_sha256=UNWRITTEN,
    )
    data = FolderData(files, spec, resolve_augmentation(request.images))
    return backbone, data, images.split("search"), card


RECIPES: dict[str, tuple[TrainRecipe, Callable[[Request], Prepared]]] = {
    "fashion": (
        TrainRecipe(epochs=40),
        partial(_prepare_fashion, "fashion", FASHION_ARCHITECTURE),
    ),
    "fashion-deep": (
        TrainRecipe(epochs=20, exit_epochs=3),
        partial(_prepare_fashion, "fashion-deep", DEEP_ARCHITECTURE),
    ),
    "imagefolder": (
        TrainRecipe(epochs=10, batch_size=64, learning_rate=5e-4),
        _prepare_imagefolder,
    ),
}


def exit_values(model: EarlyExitModel, card: ModelCard, split: Split) -> list[float]:
    """The metric of every exit on a split in full precision, each in [0, 1]."""
    device = str(next(model.parameters()).device)
    task, torch_task = resolve_task(card.task), resolve_torch_task(card.task)
    statistics: list[list[np.ndarray]] = [[] for _ in model.exit_blocks]
    done = 0
    for images in normalized_batches(split, card.input, batch_that_fits(card.input), device):
        targets = split.targets[done : done + len(images)]
        done += len(images)

        def read(e: int, outputs: Tensor, targets: np.ndarray = targets) -> None:
            statistics[e].append(torch_task.reduce(outputs, targets)[1])

        with torch.inference_mode():
            model.read_exits(images, read)
    return [task.score(np.concatenate(each)).value for each in statistics]


def _epoch_line(report: EpochReport, metric: str) -> str:
    values = " ".join(f"{value:.4f}" for value in report.values)
    left = (report.epochs - report.epoch) * report.seconds
    return (
        f"epoch {report.epoch:3d}/{report.epochs}  loss {report.loss:.4f}  "
        f"train {metric} by exit {values}  lr {report.learning_rate:.5f}  "
        f"{report.seconds:.1f} s, {left / 60:.0f} min left"
    )


def _within_epochs(say: Say) -> Callable[[BatchReport], None]:
    """Says how far a long epoch is, now and then."""
    told = time.monotonic()

    def on_batch(report: BatchReport) -> None:
        nonlocal told
        if time.monotonic() - told < PROGRESS_S or report.done == report.batches:
            return
        told = time.monotonic()
        say(
            f"epoch {report.epoch:3d}/{report.epochs}  batch {report.done} of {report.batches}  "
            f"loss {report.losses / report.done:.4f}"
        )

    return on_batch
