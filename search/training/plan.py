"""What learns when, and how fast: a training's hyperparameters and its stages. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from search.errors import check_range
from search.models.early_exit import EarlyExitModel
from search.models.pretrained import own_head_names


@dataclass(frozen=True)
class TrainRecipe:
    """Hyperparameters of one training.

    Attributes:
        epochs: passes over the training images, 1 or more.
        exit_epochs: passes after those, in which the exits before the last learn on the frozen
            backbone, which has learned by its last exit alone; 0 for all of them at once.
        batch_size: images a step.
        learning_rate: peak of the one-cycle schedule (warm-up, then cosine to zero), AdamW.
        backbone_rate: share of it that the backbone below its own head learns at, 0 to 1; at 0 it
            is frozen.
        weight_decay: decoupled decay of matrices; vectors and embeddings have none.
        warmup_epochs: linear warm-up, in epochs (fractions allowed), at most ``epochs``.
        distillation: weight of the pull towards the last exit's answer, 0 for none.
        temperature: softening of both answers in that term.
        label_smoothing: in [0, 1).
        seed: of initial weights, order and augmentation.
        compile: whether to compile the training step (most of a minute to start, then 3 to 5
            times faster).
    """

    epochs: int = 20
    exit_epochs: int = 0
    batch_size: int = 256
    learning_rate: float = 2e-3
    backbone_rate: float = 1.0
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    distillation: float = 0.5
    temperature: float = 2.0
    label_smoothing: float = 0.0
    seed: int = 0
    compile: bool = True

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, 100_000),
            "exit_epochs": (0, 100_000),
            "batch_size": (2, 1_000_000),
            "learning_rate": (1e-9, 0.999),
            "backbone_rate": (0, 1),
            "weight_decay": (0, 0.999),
            "warmup_epochs": (0, self.epochs),
            "distillation": (0, 10),
            "temperature": (1e-3, 100),
            "label_smoothing": (0, 0.999),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            whole = name in ("epochs", "exit_epochs", "batch_size", "seed")
            check_range(f"training option {name}", getattr(self, name), low, high, whole=whole)

    def rate(self, step: int, steps: int, an_epoch: int) -> float:
        """The learning rate at one step, from 0, of so many in a stage and in an epoch."""
        warmup = min(self.warmup_epochs * an_epoch, steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1.0, steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the card."""
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """Epochs in which the same parameters learn.

    Attributes:
        first, last: its epochs, of the whole training's.
        exits: whose loss is taken.
        backbone_rate: as a recipe's; None where the backbone's own head rests as well.
        heads: whether the exits before the last learn.
    """

    first: int
    last: int
    exits: slice
    backbone_rate: float | None
    heads: bool

    @property
    def epochs(self) -> int:
        """How many."""
        return self.last - self.first + 1


def stages(recipe: TrainRecipe, exits: int) -> list[Stage]:
    """The stages of training a model with so many exits, in their order."""
    everything = slice(None)
    if not recipe.exit_epochs or exits == 1:
        return [Stage(1, recipe.epochs, everything, recipe.backbone_rate, heads=True)]
    end = recipe.epochs + recipe.exit_epochs
    return [
        Stage(1, recipe.epochs, slice(-1, None), recipe.backbone_rate, heads=False),
        Stage(recipe.epochs + 1, end, everything, None, heads=True),
    ]


def parameter_groups(
    model: EarlyExitModel, weight_decay: float, stage: Stage
) -> list[dict[str, Any]]:
    """Matrices decay, the rest does not; heads learn at the full rate, the body at its share."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    own_head = tuple(f"backbone.{name}" for name in own_head_names(model.backbone))
    own_share = 0.0 if stage.backbone_rate is None else 1.0
    for name, parameter in model.named_parameters():
        embeds = name.endswith(("pos_embed", "cls_token", "dist_token", "reg_token"))
        decay = 0.0 if parameter.ndim < 2 or embeds else weight_decay
        if name.startswith(own_head):
            share = own_share
        elif name.startswith("backbone."):
            share = stage.backbone_rate or 0.0
        else:
            share = float(stage.heads)
        if share:
            groups.setdefault((decay, share), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "share": share}
        for (decay, share), members in groups.items()
    ]


@contextmanager
def learning_only(
    model: EarlyExitModel, learning: Sequence[nn.Parameter], *, frozen: bool
) -> Iterator[None]:
    """Gradients for these parameters only; a frozen backbone keeps its running figures too."""
    chosen = {id(parameter) for parameter in learning}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in wanted:
        parameter.requires_grad_(id(parameter) in chosen)
    model.train()
    if frozen:
        model.backbone.eval()
    try:
        yield
    finally:
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
