"""Recovery: a quantized model learns to answer as its full-precision self did.

Self-distillation: the teacher is the full-precision model, the student its quantized twin under
one policy's bits, or under bits that every step draws anew, with a straight-through estimator. No
labels are used. Every exit is pulled towards the teacher's own answer there.

The ranges are chosen anew every so many steps by the very quantizer that later evaluates the
model, so what was trained is what is measured. The outcome is an ordinary full-precision
checkpoint, meant for the bits that were trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search.cost import Ledger
from search.data.batches import normalized_batches
from search.digest import digest_of
from search.errors import BadInput, check_range
from search.evaluate import Evaluator
from search.models.early_exit import EarlyExitModel
from search.policy import Bits, Policy
from search.quantize.ranges import resolve_quantizer
from search.quantize.straight_through import StraightThrough
from search.quantized import QuantizedModel
from search.results import Evaluation, evaluate_trace
from search.tasks import Task
from search.tasks.torch_half import TorchTask
from search.trace import ExitTrace
from search.training.loop import TrainingData
from search.training.resume import TrainingState
from search.training.stepping import GradientStep
from search.training.targets import Target


@dataclass(frozen=True)
class RecoverRecipe:
    """Hyperparameters of one recovery.

    Attributes:
        steps: optimizer steps, 1 to 1,000,000; more recover more.
        batch_size: images a step, 2 to 1,000,000.
        learning_rate: peak of a one-cycle schedule (warm-up over a tenth, then cosine to zero),
            Adam, 1e-9 to 0.1; lower bits stand higher rates.
        temperature: softening of both answers, 0.001 to 100.
        refresh_every: steps between two choices of ranges, and between two saved states, 1 up.
        seed: of order and augmentation, 0 to 2^63 - 1.
        compile: whether to compile the step: most of a minute to start, then several times faster.
    """

    steps: int = 200
    batch_size: int = 128
    learning_rate: float = 5e-4
    temperature: float = 2.0
    refresh_every: int = 50
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "steps": (1, 1_000_000),
            "batch_size": (2, 1_000_000),
            "learning_rate": (1e-9, 0.1),
            "temperature": (1e-3, 100),
            "refresh_every": (1, 1_000_000),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            whole = name not in ("learning_rate", "temperature")
            check_range(f"recovery option {name}", getattr(self, name), low, high, whole=whole)

    def as_dict(self) -> dict[str, Any]:
        """What determines the outcome, for cards and keys."""
        fields = asdict(self)
        del fields["compile"]
        return fields


@dataclass(frozen=True)
class StepReport:
    """Progress: steps done, of how many, and the mean loss since the last report."""

    step: int
    steps: int
    loss: float


OnStep = Callable[[StepReport], None]


def recovery_key(quantized: QuantizedModel, target: Target, recipe: RecoverRecipe) -> str:
    """Digest of everything that a recovered model depends on, but the training images."""
    return digest_of(
        {
            **target.as_dict(),
            "recipe": recipe.as_dict(),
            "model": quantized.card.digest,
            "calibration": quantized.calibration.digest,
            "quantizer": quantized.identity["quantizer"],
        }
    )


def recover(
    quantized: QuantizedModel,
    target: Target,
    data: TrainingData,
    recipe: RecoverRecipe,
    *,
    state: Path | None = None,
    on_step: OnStep = lambda report: None,
) -> EarlyExitModel:
    """Train a copy of a model for bits.

    Args:
        quantized: the full-precision model, the calibration images and the quantizer.
        target: what is trained for.
        data: training images.
        recipe: hyperparameters.
        state: a file that keeps the state of an interrupted recovery, which then goes on from
            there to the same outcome; removed at the end.
        on_step: receives progress at every refresh.

    Returns:
        the recovered model in full precision, in evaluation mode.

    Raises:
        BadInput: for too few images, or bits of another model.
    """
    if len(data) < recipe.batch_size:
        raise BadInput(
            f"{len(data)} training images are fewer than one batch of {recipe.batch_size}: "
            "lower the batch size or add images"
        )
    target.check(quantized.ledger)
    teacher = quantized.model.to(quantized.device).eval()
    student = copy.deepcopy(teacher)
    widths, first = quantized.ledger.widths, target.draw(1)
    twin = StraightThrough(student, widths(first[0]), resolve_quantizer(quantized.quantizer))
    twin.model.to(quantized.device)
    parameters = list(student.parameters())
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=(0.9, 0.99))
    weights = torch.tensor(target.exit_weights(), device=quantized.device)
    saved = TrainingState(state, recovery_key(quantized, target, recipe))
    done = saved.load(student, optimizer)

    def loss_of(images: Tensor, answers: Tensor) -> tuple[Tensor, None]:
        heat = recipe.temperature
        return distillation_loss(
            quantized.torch_task, twin.model(images), answers, weights, heat
        ), None

    gradients = GradientStep(loss_of, optimizer, recipe.compile)

    def calibration() -> Iterator[Tensor]:
        return normalized_batches(
            quantized.calibration, quantized.card.input, device=quantized.device
        )

    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    twin.model.train()
    losses: list[float] = []
    try:
        for step, images in enumerate(_images(data, recipe), start=1):
            if step <= done:
                continue
            if (step - 1) % recipe.refresh_every == 0:
                saved.store(student, optimizer, step - 1, step - 1)
                twin.refresh(calibration)
                on_step(StepReport(step - 1, recipe.steps, _mean(losses)))
                losses.clear()
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(step, recipe.steps)
            losses.append(_gradients(gradients, twin, teacher, images.to(quantized.device),
                                     [widths(bits) for bits in target.draw(step)]))  # fmt: skip
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    finally:
        for parameter in teacher.parameters():
            parameter.requires_grad_(True)
    on_step(StepReport(recipe.steps, recipe.steps, _mean(losses)))
    saved.remove()
    return student.eval()


def _gradients(
    step: GradientStep,
    twin: StraightThrough,
    teacher: EarlyExitModel,
    images: Tensor,
    drawn: list[dict[str, tuple[int, int]]],
) -> float:
    """Leave the gradients of the mean loss over drawn widths, and return that loss."""
    with torch.no_grad():
        answers = teacher(images)
    total = 0.0
    for index, widths in enumerate(drawn):
        twin.set_bits(widths)
        loss, _ = step(images, answers, add=index > 0, share=1 / len(drawn))
        total += loss.item() / len(drawn)
    return total


@dataclass(frozen=True)
class RecoveredTraces:
    """Traces of a recovered model, held against the model that it was recovered from.

    Attributes:
        recovered: evaluates the recovered model.
        original: evaluates the original one, whose full precision is the reference.
    """

    recovered: Evaluator[QuantizedModel]
    original: Evaluator[QuantizedModel]

    @property
    def ledger(self) -> Ledger:
        """The operations, which are the same for both."""
        return self.recovered.ledger

    @property
    def task(self) -> Task:
        """What both models' heads answer."""
        return self.recovered.task

    def trace(self, bits: Bits) -> ExitTrace:
        """The recovered model's trace of ``bits``."""
        return self.recovered.trace(bits)

    def full_precision_trace(self) -> ExitTrace:
        """The original model's trace."""
        return self.original.full_precision_trace()

    def evaluate(self, policy: Policy) -> Evaluation:
        """Measure ``policy`` on the recovered model."""
        trace, reference = self.trace(policy.bits), self.full_precision_trace()
        return evaluate_trace(policy, trace, self.ledger, self.task, reference)


def distillation_loss(
    task: TorchTask, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """Weighted divergence of softened answers (Hinton et al., arXiv 1503.02531).

    Args:
        task: measures the divergence.
        student, teacher: raw outputs ``[B, E, ...]``.
        weights: of each exit, ``[E]``, summing to 1.
        temperature: softening; the loss is scaled by its square.
    """
    each = task.divergence(teacher.detach().float(), student.float(), temperature).mean(dim=0)
    return (weights * each).sum() * temperature**2


def _rate(step: int, steps: int) -> float:
    """Fraction of the peak rate at a step from 1 on."""
    warmup = max(1, steps // 10)
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _images(data: TrainingData, recipe: RecoverRecipe) -> Iterator[Tensor]:
    """The images of every step, the same at every start."""
    step, epoch = 0, 0
    while True:
        generator = torch.Generator().manual_seed((recipe.seed * 1009 + epoch) % 2**63)
        for images, _ in data.batches(recipe.batch_size, generator):
            if step == recipe.steps:
                return
            step += 1
            yield images
        epoch += 1


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan
