"""Training an early-exit model: every exit learns at once.

The loss is the weighted sum of the task's losses of all exits (deeply supervised, as in
BranchyNet, arXiv 1709.01686), plus a self-distillation term that pulls each earlier exit towards
the last one's softened answer (Zhang et al., "Be Your Own Teacher", arXiv 1905.08094).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import BadInput, check_range
from search.models.early_exit import EarlyExitModel
from search.models.pretrained import own_head_names
from search.tasks import resolve_task
from search.tasks.torch_half import TorchTask, resolve_torch_task
from search.training.resume import TrainingState
from search.training.stepping import GradientStep


@dataclass(frozen=True)
class TrainRecipe:
    """Hyperparameters of one training.

    Attributes:
        epochs: passes over the training images, 1 or more.
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
            whole = name in ("epochs", "batch_size", "seed")
            check_range(f"training option {name}", getattr(self, name), low, high, whole=whole)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the card."""
        return asdict(self)


class TrainingData(Protocol):
    """Training images, augmented and normalized."""

    def __len__(self) -> int:
        """Number of images in one epoch."""

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in full batches: images ``[B, C, H, W]`` float32, targets ``[B, ...]``."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch printed: mean loss, the task's metric on the last exit, and time."""

    epoch: int
    loss: float
    value: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class BatchReport:
    """How far an epoch is: batches done, of how many, and the sum of their losses."""

    epoch: int
    done: int
    batches: int
    losses: float


def exit_loss(task: TorchTask, outputs: Tensor, targets: Tensor, recipe: TrainRecipe) -> Tensor:
    """Joint loss of all exits; raw outputs ``[B, E, ...]``, targets ``[B, ...]``.

    The task's losses are averaged over exits with twice the weight on the last, which every
    undecided sample reaches.
    """
    exits = outputs.shape[1]
    weights = outputs.new_ones(exits)
    weights[-1] = 2.0
    weights = weights / weights.sum()
    loss = (weights * task.exit_losses(outputs, targets, recipe.label_smoothing)).sum()
    if recipe.distillation and exits > 1:
        heat, student = recipe.temperature, outputs[:, :-1]
        teacher = outputs[:, -1:].detach().expand_as(student)
        pull = task.divergence(teacher, student, heat).mean() * heat**2
        loss = loss + recipe.distillation * pull
    return loss


def _parameter_groups(model: EarlyExitModel, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """Matrices decay, the rest does not; heads learn at the full rate, the body at its share."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    own_head = tuple(f"backbone.{name}" for name in own_head_names(model.backbone))
    for name, parameter in model.named_parameters():
        embeds = name.endswith(("pos_embed", "cls_token", "dist_token", "reg_token"))
        decay = 0.0 if parameter.ndim < 2 or embeds else recipe.weight_decay
        body = name.startswith("backbone.") and not name.startswith(own_head)
        share = recipe.backbone_rate if body else 1.0
        if share:
            groups.setdefault((decay, share), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "share": share}
        for (decay, share), members in groups.items()
    ]


def _epoch_seed(seed: int, epoch: int) -> int:
    return (seed + 1_000_003 * (epoch - 1)) % 2**63


def train(
    model: EarlyExitModel,
    task: str,
    data: TrainingData,
    recipe: TrainRecipe,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_batch: Callable[[BatchReport], None] = lambda report: None,
    state: TrainingState | None = None,
) -> None:
    """Train ``model`` in place and leave it in evaluation mode.

    Matrix products run in bfloat16 under autocast, weights and optimizer stay in float32.

    Args:
        model: in full precision, on the device to train on.
        task: name of what its heads answer.
        data: training images.
        recipe: hyperparameters.
        on_epoch: receives a report at the end of every epoch.
        on_batch: receives a report after every batch.
        state: where it is kept at the end of every epoch, and taken up from; it stays there.

    Raises:
        BadInput: when there are fewer images than one batch.
    """
    steps = len(data) // recipe.batch_size
    if steps < 1:
        raise BadInput(
            f"{len(data)} training images are fewer than one batch of {recipe.batch_size}: "
            "lower --batch-size or add images"
        )
    plain_task, torch_task = resolve_task(task), resolve_torch_task(task)
    device = next(model.parameters()).device
    groups = _parameter_groups(model, recipe)
    learning = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    warmup = recipe.warmup_epochs * steps
    total = recipe.epochs * steps

    def rate(step: int) -> float:
        if step < warmup:
            return recipe.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1.0, total - warmup)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def loss_of(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outputs = model(images).float()
        return exit_loss(torch_task, outputs, targets, recipe), outputs[:, -1].detach()

    gradients = GradientStep(loss_of, optimizer, recipe.compile)
    done = state.load(model, optimizer) if state else 0
    with _learning_only(model, learning, frozen=not recipe.backbone_rate):
        for epoch in range(done + 1, recipe.epochs + 1):
            started = time.monotonic()
            losses, statistics = 0.0, []
            # Of every epoch its own, so that one that goes on draws what it would have drawn.
            torch.manual_seed(_epoch_seed(recipe.seed, epoch))
            generator = torch.Generator().manual_seed(_epoch_seed(recipe.seed, epoch))
            step = (epoch - 1) * steps
            for images, targets in data.batches(recipe.batch_size, generator):
                for group in optimizer.param_groups:
                    group["lr"] = rate(step) * group["share"]
                loss, deepest = gradients(images.to(device), targets.to(device))
                assert deepest is not None
                nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()
                losses += loss.item()
                statistics.append(torch_task.reduce(deepest, targets.numpy())[1])
                step += 1
                on_batch(BatchReport(epoch, step - (epoch - 1) * steps, steps, losses))
            if state:
                state.store(model, optimizer, epoch, step)
            on_epoch(
                EpochReport(
                    epoch,
                    losses / steps,
                    plain_task.score(np.concatenate(statistics)).value,
                    rate(step - 1),
                    time.monotonic() - started,
                )
            )
    model.eval()


@contextmanager
def _learning_only(
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
