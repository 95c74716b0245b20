"""A model as a person in a notebook meets it: spaces, evaluations, fronts. Needs torch.

Every split is evaluated by the same quantized model, and every trace is kept in memory, so asking
again costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from search.cost import Ledger
from search.data.splits import SHARES, DataOptions
from search.display import compact, html_table, to_pandas
from search.evaluate import Evaluator
from search.loading import open_checkpoint
from search.models.bundled import BUNDLED
from search.opening import OpenedModel
from search.policy import Bits, Granularity, Policy
from search.quantized import QuantizedModel
from search.results import Evaluation
from search.space import PolicySpace
from search.thresholds.candidates import ExitChoices
from search.thresholds.harvest import harvest
from search.trace import ExitTrace

if TYPE_CHECKING:
    import pandas as pd


def load(
    checkpoint: str,
    dataset: str | None = None,
    path: str | None = None,
    *,
    calibration_images: int = DataOptions.calibration_images,
    shares: tuple[float, float, float] = SHARES,
    duplicates: Literal["refuse", "leave-out"] = DataOptions.duplicates,
    quantizer: str = "mse",
    engine: str = "fast",
    device: str = "cpu",
) -> Model:
    """A model with its images, by the name of a bundled one or a checkpoint's path.

    Args:
        checkpoint: such as ``"fashion"``, or a safetensors file with its card beside it.
        dataset: a data set's name; by default the one that the card says it was trained on.
        path: folder of its files, for data sets that are not bundled.
        calibration_images: how many images set the quantizer's ranges, 1 up.
        shares: of search, order and certify, by weight.
        duplicates: whether an image in two splits is refused, or kept in one of them only.
        quantizer, engine: their names in the registries.
        device: where the model runs.

    Raises:
        BadInput: when model or data cannot be used, or do not belong together.
    """
    named = f"bundled:{checkpoint}" if checkpoint in BUNDLED else checkpoint
    return Model(
        open_checkpoint(
            named,
            dataset,
            path,
            data=DataOptions(calibration_images, shares, duplicates),
            quantizer=quantizer,
            engine=engine,
            device=device,
        )
    )


class _Memory:
    """Traces of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, ExitTrace] = {}

    def load(self, key: str) -> ExitTrace | None:
        return self._kept.get(key)

    def store(self, key: str, trace: ExitTrace) -> None:
        self._kept[key] = trace


class Model:
    """A quantized early-exit model and its data set; :func:`load` makes one.

    Args:
        opened: model and data set.
    """

    def __init__(self, opened: OpenedModel[QuantizedModel]) -> None:
        self.opened = opened
        self._traces = _Memory()
        self._evaluators: dict[str, Evaluator[QuantizedModel]] = {}

    @property
    def name(self) -> str:
        """The model's, by its card."""
        return self.opened.quantized.card.name

    @property
    def ledger(self) -> Ledger:
        """Every counted operation for one image."""
        return self.opened.quantized.ledger

    def space(self, granularity: Granularity = "block", **options: Any) -> PolicySpace:
        """The legal policies of this model.

        Args:
            granularity: ``"block"`` or ``"layer"``.
            options: further attributes of :class:`search.space.PolicySpace`.
        """
        return PolicySpace.from_ledger(self.ledger, granularity, **options)

    def on(self, split: str = "search") -> Evaluator[QuantizedModel]:
        """What evaluates this model on ``search``, ``order`` or ``certify``."""
        if split not in self._evaluators:
            images = self.opened.split(split)
            self._evaluators[split] = Evaluator(self.opened.quantized, images, self._traces)
        return self._evaluators[split]

    def evaluate(self, policy: Policy, split: str = "search") -> Evaluation:
        """Metric, cost, routing and risk of a policy.

        Raises:
            BadInput: when the policy does not fit the model.
        """
        return self.on(split).evaluate(policy)

    def harvest(self, bits: Bits, split: str = "search") -> HarvestedFront:
        """All thresholds worth having at these bits: one pass, then arithmetic.

        Raises:
            BadInput: when the bits do not fit the model.
        """
        evaluator = self.on(split)
        trace, path_bops = evaluator.trace(bits), self.ledger.path_bops(bits)
        harvested = harvest(ExitChoices(trace, evaluator.task, path_bops))
        return HarvestedFront(
            tuple(
                evaluator.evaluate_trace(harvested.policy(bits, index), trace)
                for index in range(len(harvested))
            )
        )

    def __repr__(self) -> str:
        blocks = self.ledger.exit_blocks
        return f"Model({self.name!r}, {blocks[-1]} blocks, exits after {list(blocks)})"


@dataclass(frozen=True)
class HarvestedFront(Sequence[Evaluation]):
    """Evaluations of one set of bits under thresholds none of which is dominated, cheapest first.

    Attributes:
        evaluations: the whole of each.
    """

    evaluations: tuple[Evaluation, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, index: Any) -> Any:
        return self.evaluations[index]

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.evaluations)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary a policy."""
        return [evaluation.summary() for evaluation in self.evaluations]

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a data frame.

        Raises:
            ExitbitsError: where pandas is not installed.
        """
        return to_pandas(self.rows())

    def _repr_html_(self) -> str:
        bits = self.evaluations[0].policy.bits
        title = (
            f"{len(self)} threshold vectors at weights {compact(bits.weights)}, activations "
            f"{compact(bits.activations)}"
        )
        rows = self.rows()
        return html_table(title, [*rows[0]], ([*row.values()] for row in rows))
