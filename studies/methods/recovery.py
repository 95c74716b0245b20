"""Recovered models on disk: made once for a set of bits, then found again. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from search.errors import BadInput
from search.evaluate import Evaluator
from search.models.card import RECOVERED_FROM, card_path
from search.models.checkpoint import check_suffix, load_checkpoint, save_checkpoint
from search.policy import Bits
from search.quantized import QuantizedModel
from search.training.loop import TrainingData
from search.training.recovery import (
    OnStep,
    RecoveredTraces,
    RecoverRecipe,
    recover,
    recovery_key,
)


@dataclass(frozen=True)
class Recovery:
    """How models are recovered, and where they are kept.

    Attributes:
        original: evaluates the model that is recovered from.
        data: training images.
        recipe: hyperparameters.
    """

    original: Evaluator[QuantizedModel]
    data: TrainingData
    recipe: RecoverRecipe

    def key(self, bits: Bits, exit_rates: tuple[float, ...]) -> str:
        """Digest of everything that a recovered model depends on, but the training images."""
        return recovery_key(self.original.quantized, bits, exit_rates, self.recipe)

    def make(
        self,
        bits: Bits,
        exit_rates: tuple[float, ...],
        weights: Path,
        on_step: OnStep = lambda report: None,
    ) -> Recovered:
        """Recover the model for bits, or load it where that is done already.

        An interrupted recovery leaves its state beside ``weights`` and goes on from there.

        Args:
            bits: what is trained for.
            exit_rates: how often samples leave by each exit.
            weights: the checkpoint to write; its card goes beside it.
            on_step: receives progress.

        Raises:
            BadInput: when there is another checkpoint at ``weights``, or weights without a card.
        """
        check_suffix(weights)
        key = self.key(bits, exit_rates)
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
                self.original.quantized, bits, exit_rates, self.data, self.recipe,
                state=weights.with_suffix(".state"), on_step=on_step,
            )  # fmt: skip
            card = self.original.card.model_copy(
                update={
                    "training": {
                        "recovery": key,
                        RECOVERED_FROM: self.original.card.digest,
                        "bits": bits.as_dict(),
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
