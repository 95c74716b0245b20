"""Training an early-exit model: every exit learns at once.

The loss is the weighted sum of the task's losses of all exits (deeply supervised, as in
BranchyNet, arXiv 1709.01686), plus a self-distillation term that pulls each earlier exit towards
the last one's softened answer (Zhang et al., "Be Your Own Teacher", arXiv 1905.08094).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.errors import BadInput, check_range
from search.models.early_exit import EarlyExitModel
from search.tasks import resolve_task
from search.tasks.torch_half import TorchTask, resolve_torch_task


@dataclass(frozen=True)
class TrainRecipe:
    """Hyperparameters of one training.

    Attributes:
        epochs: passes over the training images, 1 or more.
        batch_size: images a step.
        learning_rate: peak of the one-cycle schedule (warm-up, then cosine to zero), AdamW.
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


class ArrayData:
    """Images held in memory, augmented by flips and shifts.

    Args:
        images: uint8 ``[N, H, W, C]``.
        targets: class indices, ``[N]`` or whatever shape the task has.
        mean, std: normalization a channel, of pixels in [0, 1].
        shift: largest shift in pixels, each way.
        flip: whether to mirror half of the images.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        shift: int = 2,
        flip: bool = True,
    ) -> None:
        self.images = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        self.shift = shift
        self.flip = flip

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield self._augment(self.images[chosen], generator), self.targets[chosen]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        if self.shift:
            padded = F.pad(images, [self.shift] * 4)
            offsets = torch.randint(0, 2 * self.shift + 1, (2, count), generator=generator)
            rows = offsets[0].view(-1, 1) + torch.arange(height)
            columns = offsets[1].view(-1, 1) + torch.arange(width)
            index = torch.arange(count).view(-1, 1, 1)
            images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
            images = images.permute(0, 3, 1, 2)
        return (images.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class EpochReport:
    """What one epoch printed: mean loss, the task's metric on the last exit, and time."""

    epoch: int
    loss: float
    value: float
    learning_rate: float
    seconds: float


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


def _parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        embeds = name.endswith(("pos_embed", "cls_token", "dist_token", "reg_token"))
        (rest if parameter.ndim < 2 or embeds else matrices).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def train(
    model: EarlyExitModel,
    task: str,
    data: TrainingData,
    recipe: TrainRecipe,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> None:
    """Train ``model`` in place and leave it in evaluation mode.

    Matrix products run in bfloat16 under autocast, weights and optimizer stay in float32.

    Args:
        model: in full precision.
        task: name of what its heads answer.
        data: training images.
        recipe: hyperparameters.
        on_epoch: receives a report at the end of every epoch.

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
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe.weight_decay), lr=1.0)
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

    step_loss: Callable[..., tuple[Tensor, Tensor]] = (
        torch.compile(loss_of) if recipe.compile else loss_of
    )
    model.train()
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        started = time.monotonic()
        losses, statistics = 0.0, []
        for images, targets in data.batches(recipe.batch_size, generator):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            loss, deepest = step_loss(images.to(device), targets.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses += loss.item()
            statistics.append(torch_task.reduce(deepest, targets.numpy())[1])
            step += 1
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
