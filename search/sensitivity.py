"""Measuring what each layer group does to the model when it alone is quantized.

One row a group: noise nu_l(b) at the output of the group's block, and drift at every exit, at
every bit-width. A row depends on the model, the images, the quantizer and the engine only, so it
is kept by content and an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from search.bits.allocation import AllocationProblem
from search.bits.lookup import IMAGES, Side, TableCache, TableLookup
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import group_of
from search.data.batches import normalized_batches
from search.errors import BadInput
from search.policy import FULL_PRECISION, QUANTIZED_BITS, Bits, Granularity
from search.quantized import QuantizedModel

Widths = Mapping[str, tuple[int, int]]
OnRow = Callable[[int, int], None]


@dataclass(frozen=True)
class SensitivityMeter:
    """Measures sensitivities of a quantized model on the first of its calibration images.

    Attributes:
        quantized: the model, its quantizer and its calibration images.
        granularity: what a group is.
        cache: where rows are looked up first.
        images: how many calibration images are run, 1 or more; more give steadier figures at a
            cost in proportion.
    """

    quantized: QuantizedModel
    granularity: Granularity
    cache: TableCache | None = None
    images: int = IMAGES

    @property
    def rows(self) -> TableLookup:
        """Where the rows are kept."""
        return TableLookup(self.quantized, self.granularity, self.cache, self.images)

    def tables(self, on_row: OnRow = lambda done, of: None) -> SensitivityTables:
        """Measure every group, or read it where it is known.

        Args:
            on_row: receives how many rows are there, and of how many.
        """
        wanted = self.rows.wanted()
        found: dict[Side, dict[str, Sensitivity]] = {"weights": {}, "activations": {}}
        for done, (side, name) in enumerate(wanted):
            on_row(done, len(wanted))
            found[side][name] = self._row(side, name)
        on_row(len(wanted), len(wanted))
        return SensitivityTables(found["weights"], found["activations"])

    def joint(self, bits: Bits) -> Sensitivity:
        """Noise of the last block's output and drift with all of ``bits`` at once.

        The embedding and the heads stay in full precision, as they do in the tables.
        """
        ledger = self.quantized.ledger
        fixed = {op.name for op in ledger.ops if op.part != "block"}
        table = {
            name: (FULL_PRECISION, FULL_PRECISION) if name in fixed else widths
            for name, widths in ledger.widths(bits).items()
        }
        noise, drift = self._compare([table], ledger.exit_blocks[-1])
        return Sensitivity(ledger.exit_blocks[-1], (0,), noise, drift)

    def _row(self, side: Side, group: str) -> Sensitivity:
        rows = self.rows
        if (known := rows.load(side, group)) is not None:
            return known
        ops = [
            op
            for op in self.quantized.ledger.ops
            if op.part == "block" and group_of(op, self.granularity) == group
        ]
        tables = [self._alone(side, group, bits) for bits in QUANTIZED_BITS]
        noise, drift = self._compare(tables, ops[0].block)
        row = Sensitivity(ops[0].block, QUANTIZED_BITS, noise, drift)
        rows.store(side, group, row)
        return row

    def _alone(self, side: Side, group: str, bits: int) -> dict[str, tuple[int, int]]:
        """Bits of every operation when one side of one group is quantized."""
        wide = FULL_PRECISION
        table = {}
        for op in self.quantized.ledger.ops:
            left = right = wide
            if op.part == "block" and group_of(op, self.granularity) == group:
                if side == "activations":
                    left, right = bits, bits if op.kind == "matmul" else wide
                elif op.kind != "matmul":
                    right = bits
            table[op.name] = (left, right)
        return table

    def _compare(self, tables: Sequence[Widths], block: int) -> tuple[np.ndarray, np.ndarray]:
        """Noise ``[B]`` after ``block`` and drift ``[B, E]`` of each table against all at 32."""
        engine = self.quantized.engine
        wide = {op.name: (FULL_PRECISION, FULL_PRECISION) for op in self.quantized.ledger.ops}
        error, power = np.zeros(len(tables)), 0.0
        drift = np.zeros((len(tables), len(self.quantized.ledger.exit_blocks)))
        for images in self._batches():
            engine.set_bits(wide)
            expected: list[Tensor] = []
            states = engine.run_states(images, partial(_keep, expected))
            power += float(states[block - 1].double().square().sum())
            for index, table in enumerate(tables):
                engine.set_bits(table)
                changed, found = self._drift(images, expected)
                difference = changed[block - 1].double() - states[block - 1].double()
                error[index] += float(difference.square().sum())
                drift[index] += found
        if not power > 0:
            raise BadInput(
                f"block {block} gives nothing but zeros: its noise has no scale; check the model"
            )
        return error / power, drift / len(self.rows.split)

    def _drift(self, images: Tensor, expected: list[Tensor]) -> tuple[list[Tensor], np.ndarray]:
        """States of every block, and divergence ``[E]`` from expected raw outputs, summed."""
        task, found = self.quantized.torch_task, np.zeros(len(expected))

        def read(e: int, outputs: Tensor) -> None:
            each = task.divergence(expected[e][:, None], outputs.double()[:, None])
            found[e] = float(each.clamp_min(0).sum())

        return self.quantized.engine.run_states(images, read), found

    def _batches(self) -> Iterator[Tensor]:
        quantized = self.quantized
        return normalized_batches(self.rows.split, quantized.card.input, device=quantized.device)


def _keep(kept: list[Tensor], _: int, outputs: Tensor) -> None:
    kept.append(outputs.double())


@dataclass(frozen=True)
class Additivity:
    """How well the tables' sum ranks policies that are quantized as a whole.

    Attributes:
        noise: Spearman's rank correlation of predicted and measured noise of the last block, None
            where there is nothing to rank.
        drift: the same of drift at the last exit.
        policies: how many random policies were measured.
    """

    noise: float | None
    drift: float | None
    policies: int


def check_additivity(
    meter: SensitivityMeter, problem: AllocationProblem, *, policies: int = 24, seed: int = 0
) -> Additivity:
    """Compare the tables with random policies, at full depth.

    Args:
        meter: measures the policies.
        problem: holds tables and space; its usage is not looked at.
        policies: how many, 3 or more.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    space, tables = problem.space, problem.tables
    predicted, measured = [], []
    for _ in range(policies):
        # A width of its own a policy, so that mild and harsh ones are both among them.
        low = rng.integers(0, min(len(space.weight_choices), len(space.activation_choices)))
        bits = space.bits(
            [rng.choice(space.weight_choices[low:]) for _ in space.weight_groups],
            [rng.choice(space.activation_choices[low:]) for _ in space.activation_groups],
        )
        parts = [
            rows[group].at(width)
            for rows, groups, widths in (
                (tables.weights, space.weight_groups, bits.weights),
                (tables.activations, space.activation_groups, bits.activations),
            )
            for group, width in zip(groups, widths, strict=True)
        ]
        predicted.append((sum(n for n, _ in parts), sum(float(d[-1]) for _, d in parts)))
        joint = meter.joint(bits)
        measured.append((float(joint.noise[0]), float(joint.drift[0, -1])))
    noise, drift = (
        _rank_correlation([row[k] for row in predicted], [row[k] for row in measured])
        for k in (0, 1)
    )
    return Additivity(noise, drift, policies)


def _rank_correlation(expected: Sequence[float], found: Sequence[float]) -> float | None:
    """Spearman's, or None where all on one side are equal, as in a space of one set of bits."""
    if len(set(expected)) == 1 or len(set(found)) == 1:
        return None
    from scipy.stats import spearmanr  # slow to import, seldom needed

    return float(spearmanr(expected, found).statistic)
