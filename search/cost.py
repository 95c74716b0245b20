"""The BOPs ledger: every counted operation, its multiply-accumulates, its two bit-widths.

An executed operation costs MACs x (bits of the left operand) x (bits of the right operand).
Counted are the patch embedding, qkv, proj and MLP layers, both attention products, patch merging,
and every exit head evaluated on the way. Softmax, normalization, GELU, pooling and residual adds
are not counted. See docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from search.errors import BadInput
from search.policy import FULL_PRECISION, Bits, Granularity, Policy

Part = Literal["embed", "block", "head"]
Kind = Literal["conv", "linear", "matmul"]

NOT_COUNTED = "softmax, normalization, GELU, pooling and residual adds are not counted"


@dataclass(frozen=True, slots=True)
class Op:
    """One counted operation, for one sample.

    Attributes:
        name: module path, such as ``blocks.3.attn.qkv``.
        kind: ``conv`` and ``linear`` multiply activations by weights, ``matmul`` two activations.
        part: where it belongs.
        block: 1-based block it runs in; for a head, the block that it follows; 0 for the embedding.
        macs: multiply-accumulates a sample.
        layer: the layer whose bits it takes (both attention products share ``blocks.N.attn``).
        weights: how many it multiplies by; 0 for two activations, and in ledgers that were
            recorded before this was.
    """

    name: str
    kind: Kind
    part: Part
    block: int
    macs: int
    layer: str
    weights: int = 0


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """An operation under bits: its two bit-widths and its BOPs when executed once."""

    op: Op
    left_bits: int
    right_bits: int

    @property
    def bops(self) -> int:
        """Bit operations a sample that executes the operation."""
        return self.op.macs * self.left_bits * self.right_bits


@dataclass(frozen=True, slots=True)
class Cost:
    """What a policy costs over a set of samples, and in memory.

    Attributes:
        expected, p95, worst: BOPs a sample: mean, 95th percentile, and the deepest path there is.
        memory: bytes of all weights at their bits, without scales, biases and normalization; None
            where the ledger does not tell.
        mean_bits: bits of a weight of the blocks, their mean; likewise.
    """

    expected: float
    p95: float
    worst: float
    memory: float | None = None
    mean_bits: float | None = None


Measure = Literal["expected", "p95", "worst", "memory", "mean_bits"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Most that a policy may cost by each measure of :class:`Cost`; None for no bound."""

    expected: float | None = None
    p95: float | None = None
    worst: float | None = None
    memory: float | None = None
    mean_bits: float | None = None

    def bounds(self) -> dict[Measure, float]:
        """The bounds that there are."""
        every: dict[Measure, float | None] = {
            "expected": self.expected, "p95": self.p95, "worst": self.worst,
            "memory": self.memory, "mean_bits": self.mean_bits,
        }  # fmt: skip
        return {measure: bound for measure, bound in every.items() if bound is not None}

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within every bound.

        Raises:
            BadInput: when a bound is on what the ledger does not tell.
        """
        for measure, bound in self.bounds().items():
            value = getattr(cost, measure)
            if value is None:
                raise untold(measure)
            if value > bound:
                return False
        return True


NO_BOUNDS = Budget()
GIGA = 1e9


def in_words(measure: Measure, value: float) -> str:
    """A cost with its unit, as it stands in messages."""
    if measure == "memory":
        return f"{value:.6g} bytes of weights"
    if measure == "mean_bits":
        return f"{value:.6g} bits a weight"
    what = {"expected": "", "p95": " at the 95th percentile", "worst": " at worst"}[measure]
    return f"{value / GIGA:.6g} GBOPs{what}"


def untold(measure: Measure) -> BadInput:
    """The error of a bound on what a ledger does not tell."""
    return BadInput(
        f"no bound on {measure}: this study's ledger was recorded before weights were counted; "
        "launch it under another name"
    )


@dataclass(frozen=True, slots=True)
class References:
    """BOPs a sample at full depth without exits: what a reduction is measured against."""

    w32a32: float
    w8a8: float
    same_bits: float


def group_of(op: Op, granularity: Granularity) -> str:
    """Name of the layer group whose bits a block's operation takes."""
    return f"block{op.block}" if granularity == "block" else op.layer


@dataclass(frozen=True)
class Ledger:
    """All counted operations of one early-exit model.

    Attributes:
        ops: in order of execution.
        exit_blocks: block (1-based) that each exit follows, ascending; the last is the depth.
    """

    ops: tuple[Op, ...]
    exit_blocks: tuple[int, ...]

    def groups(self, granularity: Granularity) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the weight groups and of the activation groups, in order of execution."""
        weights: dict[str, None] = {}
        activations: dict[str, None] = {}
        for op in self.ops:
            if op.part != "block":
                continue
            activations[group_of(op, granularity)] = None
            if op.kind != "matmul":
                weights[group_of(op, granularity)] = None
        return tuple(weights), tuple(activations)

    def widths(self, bits: Bits) -> dict[str, tuple[int, int]]:
        """Widths ``(left, right)`` of every operation by name.

        Raises:
            BadInput: when the bits are of another number of groups than this model has.
        """
        weights, activations = self.groups(bits.granularity)
        _refuse_other("weight bit-widths", len(bits.weights), len(weights))
        _refuse_other("activation bit-widths", len(bits.activations), len(activations))
        weight_bits = dict(zip(weights, bits.weights, strict=True))
        activation_bits = dict(zip(activations, bits.activations, strict=True))
        fixed = {"embed": bits.embed, "head": bits.head}
        table: dict[str, tuple[int, int]] = {}
        for op in self.ops:
            if op.part != "block":
                table[op.name] = (fixed[op.part], fixed[op.part])
                continue
            group = group_of(op, bits.granularity)
            left = activation_bits[group]
            table[op.name] = (left, left if op.kind == "matmul" else weight_bits[group])
        return table

    def check(self, policy: Policy) -> None:
        """Raise ``BadInput`` unless the policy has as many groups and exits as this model."""
        self.widths(policy.bits)
        _refuse_other("thresholds", len(policy.thresholds), len(self.exit_blocks))

    def rows(self, bits: Bits) -> tuple[LedgerRow, ...]:
        """The ledger under bits, one row an operation."""
        table = self.widths(bits)
        return tuple(LedgerRow(op, *table[op.name]) for op in self.ops)

    def fixed_bops(self, bits: Bits) -> float:
        """BOPs that every sample pays whatever its blocks' bits are: embedding and first head."""
        first = self.exit_blocks[0]
        return sum(
            row.bops
            for row in self.rows(bits)
            if row.op.part == "embed" or (row.op.part == "head" and row.op.block == first)
        )

    def path_bops(self, bits: Bits) -> np.ndarray:
        """BOPs of a sample that leaves at each exit, float64 ``[E]``, all heads passed included."""
        rows = self.rows(bits)
        return np.array(
            [sum(row.bops for row in rows if row.op.block <= last) for last in self.exit_blocks],
            dtype=np.float64,
        )

    def cost(self, bits: Bits, exits: np.ndarray) -> Cost:
        """Cost over samples that leave at the exits ``exits`` (indices, ``[N]``)."""
        path = self.path_bops(bits)
        counts = np.bincount(exits, minlength=len(path))
        rates = counts / counts.sum()
        reached = int(np.searchsorted(np.cumsum(counts), np.ceil(0.95 * counts.sum())))
        return Cost(
            float(rates @ path), float(path[reached]), float(path[-1]),
            self.memory(bits), self.mean_bits(bits),
        )  # fmt: skip

    @property
    def tells_weights(self) -> bool:
        """Whether the operations say how many weights they multiply by."""
        return all(op.weights or op.kind == "matmul" for op in self.ops)

    def memory(self, bits: Bits) -> float | None:
        """Bytes of all weights at their bits, None where the operations do not tell."""
        if not self.tells_weights:
            return None
        return sum(row.op.weights * row.right_bits for row in self.rows(bits)) / 8

    def mean_bits(self, bits: Bits) -> float | None:
        """Mean width of the blocks' weights, None where the operations do not tell."""
        if not self.tells_weights:
            return None
        rows = [row for row in self.rows(bits) if row.op.part == "block"]
        total = sum(row.op.weights * row.right_bits for row in rows)
        return total / sum(row.op.weights for row in rows)

    @property
    def full_depth_macs(self) -> int:
        """MACs of a sample at full depth with only the last exit's head."""
        return sum(op.macs for op in self.ops if self._at_full_depth(op))

    def _at_full_depth(self, op: Op) -> bool:
        return op.part != "head" or op.block == self.exit_blocks[-1]

    def references(self, bits: Bits) -> References:
        """The three references: full depth, only the last exit's head."""
        macs = self.full_depth_macs
        same = sum(row.bops for row in self.rows(bits) if self._at_full_depth(row.op))
        return References(
            w32a32=float(macs * FULL_PRECISION**2), w8a8=float(macs * 8**2), same_bits=float(same)
        )

    def as_dict(self) -> dict[str, Any]:
        """The ledger as plain values, for the store."""
        return {"ops": [asdict(op) for op in self.ops], "exit_blocks": list(self.exit_blocks)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ledger:
        """Build what :meth:`as_dict` gave."""
        ops: Sequence[Mapping[str, Any]] = fields["ops"]
        return cls(tuple(Op(**op) for op in ops), tuple(fields["exit_blocks"]))


def _refuse_other(what: str, have: int, need: int) -> None:
    if have != need:
        raise BadInput(
            f"policy has {have} {what}, the model needs {need}: "
            "use a policy searched for this model"
        )
