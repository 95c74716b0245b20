"""Recovered models on disk: made once for a set of bits, then found again. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.disk_cache import DiskCaches
from search.errors import BadInput
from search.evaluate import Evaluator
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.models.card import RECOVERED_FROM, card_path
from search.models.checkpoint import check_suffix, load_checkpoint, save_checkpoint
from search.quantized import QuantizedModel
from search.results import Evaluation
from search.space import PolicySpace
from search.training.data import open_training_data
from search.training.loop import TrainingData
from search.training.recovery import (
    OnStep,
    RecoveredTraces,
    RecoverRecipe,
    StepReport,
    recover,
    recovery_key,
)
from search.training.targets import ForBits, ForSpace, Target
from studies.policy_file import PolicyFile
from studies.records import Study
from studies.work.opening import open_policy_evaluator, open_study_evaluator

OnProgress = Callable[[str, int, int | None], None]
"""Receives what is being done, how much of it is done, and of how much, None where nobody knows."""


@dataclass(frozen=True)
class Recovery:
    """How models are recovered, and where they are kept.

    Attributes:
        original: evaluates the model that is recovered from.
        data: training images.
        recipe: hyperparameters.
        folder: of the checkpoints that are named by their content.
    """

    original: Evaluator[QuantizedModel]
    data: TrainingData
    recipe: RecoverRecipe
    folder: Path = Path("recovered")

    def key(self, target: Target) -> str:
        """Digest of everything that a recovered model depends on, but the training images."""
        return recovery_key(self.original.quantized, target, self.recipe)

    def make(
        self,
        target: Target,
        weights: Path | None = None,
        on_step: OnStep = lambda report: None,
    ) -> Recovered:
        """Recover the model for a target, or load it where that is done already.

        An interrupted recovery leaves its state beside ``weights`` and goes on from there.

        Args:
            target: what is trained for.
            weights: the checkpoint to write, None for one that is named by its content; its card
                goes beside it.
            on_step: receives progress.

        Raises:
            BadInput: when there is another checkpoint at ``weights``, or weights without a card.
        """
        key = self.key(target)
        weights = weights or self.folder / f"{key[:16]}.safetensors"
        check_suffix(weights)
        if weights.exists() and card_path(weights).exists():
            model, card = load_checkpoint(weights)
            if card.training.get("recovery") != key:
                raise BadInput(f"{str(weights)!r} is another model's checkpoint: name another file")
        elif weights.exists():
            raise BadInput(
                f"{str(weights)!r} exists and has no card beside it, so that nobody can say what "
                "it is: name another file, or delete it"
            )
        else:
            model = recover(
                self.original.quantized, target, self.data, self.recipe,
                state=weights.with_suffix(".state"), on_step=on_step,
            )  # fmt: skip
            card = self.original.card.model_copy(
                update={
                    "training": {
                        "recovery": key,
                        RECOVERED_FROM: self.original.card.digest,
                        **target.as_dict(),
                        "recipe": self.recipe.as_dict(),
                    }
                }
            )
            card = save_checkpoint(model, card, weights)
        quantized = replace(self.original.quantized, model=model, card=card)
        evaluator = replace(self.original, quantized=quantized)
        return Recovered(weights, card.digest, evaluator, self.original)


@dataclass(frozen=True)
class Recovered:
    """A recovered model.

    Attributes:
        weights: its checkpoint.
        digest: of its card.
        evaluator: of the recovered model, on the original's split.
        original: of the model that it was recovered from.
    """

    weights: Path
    digest: str
    evaluator: Evaluator[QuantizedModel]
    original: Evaluator[QuantizedModel]

    @property
    def traces(self) -> RecoveredTraces:
        """Its traces, held against the original's full precision."""
        return RecoveredTraces(self.evaluator, self.original)


@dataclass(frozen=True)
class RecoveredPolicy:
    """A policy with thresholds chosen anew on the model that was recovered for its bits.

    Attributes:
        before, after: its figures on the original model and on the recovered one.
        weights: the recovered checkpoint.
        digest: of its card.
        file: what is written of the policy.
    """

    before: Evaluation
    after: Evaluation
    weights: Path
    digest: str
    file: PolicyFile


def recover_policy(
    given: PolicyFile,
    images: Path,
    recipe: RecoverRecipe,
    weights: Path,
    on_progress: OnProgress = lambda what, done, of: None,
) -> RecoveredPolicy:
    """Recover the model for a policy's bits, and choose thresholds at the policy's cost.

    Args:
        given: the policy.
        images: folder of the training images.
        recipe: how recovery trains on them.
        weights: the checkpoint to write; its card goes beside it. The policy is not written.
        on_progress: receives how far it is.

    Raises:
        BadInput: when the model or the images are not those that the policy was measured with, or
            ``weights`` holds something else.
    """
    policy, recorded = given.read_policy(), given.read_evaluation()
    evaluator = networks_only(open_policy_evaluator(given))
    evaluator.ledger.check(policy)
    section = given.study.data
    data = open_training_data(section.dataset, images, evaluator.card.input, section.options())
    on_step = steps_of(f"recovering policy {policy.digest[:12]}", on_progress)
    made = Recovery(evaluator, data, recipe).make(
        ForBits(policy.bits, recorded.exit_rates), weights, on_step
    )
    low, high = given.study.space.thresholds
    space = PolicySpace.from_ledger(
        evaluator.ledger, policy.bits.granularity, threshold_low=low, threshold_high=high
    )
    outer = OuterProblem(made.traces, space, MaqeeSettings())
    within = outer.under(policy.bits, recorded.cost.expected)
    chosen = policy if within is None else within[0]
    after = made.traces.evaluate(chosen)
    model = given.study.model.model_copy(update={"checkpoint": str(weights.absolute())})
    file = given.model_copy(
        update={
            "study": given.study.model_copy(update={"model": model}),
            "trial": None,
            "source": f"{given.source}+recovery",
            "digest": chosen.digest,
            "policy": chosen.as_dict(),
            "model_digest": made.digest,
            "evaluation": after.as_dict(),
        }
    )
    return RecoveredPolicy(recorded, after, weights, made.digest, file)


@dataclass(frozen=True)
class RecoveredSpace:
    """A model that was recovered for every policy of a study's space.

    Attributes:
        made: the model.
        uniform: at every width that weights and activations may both have, the metric at full
            depth before and after, without exits.
    """

    made: Recovered
    uniform: dict[int, tuple[float, float]]


def recover_study(
    study: Study,
    images: Path,
    recipe: RecoverRecipe,
    weights: Path,
    cache: Path,
    on_progress: OnProgress = lambda what, done, of: None,
) -> RecoveredSpace:
    """Recover one model for every policy of a study's space.

    Args:
        study: whose model and space.
        images: folder of the training images.
        recipe: how recovery trains on them.
        weights: the checkpoint to write; its card goes beside it.
        cache: folder of traces and calibrations.
        on_progress: receives how far it is.

    Raises:
        BadInput: when the model or the images are not those of the study, or ``weights`` holds
            something else.
    """
    record, caches = study.record, DiskCaches(cache)
    evaluator = networks_only(open_study_evaluator(record, caches.traces, caches.calibrations))
    section, space = record.config.data, record.space
    data = open_training_data(section.dataset, images, evaluator.card.input, section.options())
    on_step = steps_of(
        f"recovering the model for every policy of {record.config.name}", on_progress
    )
    target = ForSpace(space, recipe.seed)
    made = Recovery(evaluator, data, recipe).make(target, weights, on_step)
    uniform = {}
    widths = [w for w in space.weight_choices if w in space.activation_choices]
    for number, width in enumerate(widths):
        on_progress("measuring before and after", number, len(widths))
        deepest = space.uniform(width, 1.0)
        uniform[width] = (evaluator.evaluate(deepest).value, made.traces.evaluate(deepest).value)
    return RecoveredSpace(made, uniform)


def networks_only(evaluator: Evaluator[Any]) -> Evaluator[QuantizedModel]:
    """The evaluator, of a model that can be measured layer by layer and trained.

    Raises:
        BadInput: when it is of another kind, such as a recorded one.
    """
    if not isinstance(evaluator.quantized, QuantizedModel):
        raise BadInput(
            f"model {evaluator.card.name!r} is no network: baselines, MAQEE and recovery need a "
            "checkpoint"
        )
    return evaluator


def steps_of(what: str, on_progress: OnProgress) -> OnStep:
    """What :func:`search.training.recovery.recover` reports to, as progress of ``what``."""
    on_progress(what, 0, None)

    def on_step(report: StepReport) -> None:
        on_progress(what, report.step, report.steps)

    return on_step
