"""Training an early-exit model: every exit at once, or the backbone first and then its exits.

The loss is the weighted sum of the task's losses of the exits that learn (deeply supervised, as in
BranchyNet, arXiv 1709.01686), plus a self-distillation term that pulls each earlier exit towards
the last one's softened answer (Zhang et al., "Be Your Own Teacher", arXiv 1905.08094).

Exits that learn with the backbone pull features of their own into its first blocks. Where the
backbone learns by its last exit alone and exits are fitted to it frozen, as they are to a
pretrained model, depth keeps the use that it has there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import BadInput
from search.models.early_exit import EarlyExitModel
from search.tasks import resolve_task
from search.tasks.torch_half import TorchTask, resolve_torch_task
from search.training.plan import Stage, TrainRecipe, learning_only, parameter_groups, stages
from search.training.resume import TrainingState
from search.training.stepping import GradientStep


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
    """One epoch.

    Attributes:
        epoch: its number from 1, of ``epochs`` in all.
        loss: mean over its batches.
        values: the task's metric on training images, of every exit whose loss was taken.
        learning_rate: at its end.
        seconds: that it took.
    """

    epoch: int
    epochs: int
    loss: float
    values: tuple[float, ...]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class BatchReport:
    """How far an epoch is: batches done, of how many, and the sum of their losses."""

    epoch: int
    epochs: int
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
    if len(data) < recipe.batch_size:
        raise BadInput(
            f"{len(data)} training images are fewer than one batch of {recipe.batch_size}: "
            "lower --batch-size or add images"
        )
    plan = stages(recipe, len(model.exit_blocks))
    training = _Training(model, task, data, recipe, plan[-1].last, on_epoch, on_batch, state)
    for stage in plan:
        training.run(stage)
    model.eval()


@dataclass(frozen=True)
class _Training:
    """A training with all that its stages share."""

    model: EarlyExitModel
    task: str
    data: TrainingData
    recipe: TrainRecipe
    epochs: int
    on_epoch: Callable[[EpochReport], None]
    on_batch: Callable[[BatchReport], None]
    state: TrainingState | None

    def run(self, stage: Stage) -> None:
        """The epochs of one stage that are not done yet; its schedule is its own."""
        model, recipe, state = self.model, self.recipe, self.state
        torch_task = resolve_torch_task(self.task)
        device = next(model.parameters()).device
        groups = parameter_groups(model, recipe.weight_decay, stage)
        learning = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=1.0)

        def loss_of(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                outputs = model(images).float()[:, stage.exits]
            return exit_loss(torch_task, outputs, targets, recipe), outputs.detach()

        gradients = GradientStep(loss_of, optimizer, recipe.compile)
        done = state.load(model, optimizer) if state else 0
        with learning_only(model, learning, frozen=not stage.backbone_rate):
            for epoch in range(max(done + 1, stage.first), stage.last + 1):
                self._epoch(epoch, stage, optimizer, gradients)

    def _epoch(
        self, epoch: int, stage: Stage, optimizer: torch.optim.Optimizer, gradients: GradientStep
    ) -> None:
        recipe, task = self.recipe, resolve_torch_task(self.task)
        device = next(self.model.parameters()).device
        started = time.monotonic()
        losses, statistics = 0.0, []
        # Of every epoch its own, so that one that goes on draws what it would have drawn.
        torch.manual_seed(_epoch_seed(recipe.seed, epoch))
        generator = torch.Generator().manual_seed(_epoch_seed(recipe.seed, epoch))
        steps = len(self.data) // recipe.batch_size
        before = (epoch - stage.first) * steps
        rate = 0.0
        for done, (images, targets) in enumerate(self.data.batches(recipe.batch_size, generator)):
            rate = recipe.rate(before + done, stage.epochs * steps, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            loss, outputs = gradients(images.to(device), targets.to(device))
            assert outputs is not None
            nn.utils.clip_grad_norm_(
                [one for group in optimizer.param_groups for one in group["params"]], 1.0
            )
            optimizer.step()
            losses += loss.item()
            answers = targets.numpy()
            statistics.append([task.reduce(one, answers)[1] for one in outputs.unbind(dim=1)])
            self.on_batch(BatchReport(epoch, self.epochs, done + 1, steps, losses))
        if self.state:
            self.state.store(self.model, optimizer, epoch, before + steps)
        score = resolve_task(self.task).score
        values = [score(np.concatenate(each)).value for each in zip(*statistics, strict=True)]
        self.on_epoch(
            EpochReport(
                epoch, self.epochs, losses / steps, tuple(values), rate, time.monotonic() - started
            )
        )
