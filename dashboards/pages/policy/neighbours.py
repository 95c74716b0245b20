"""What the evaluations recorded around one policy say: its neighbours, and what a bit buys.

Nothing is estimated: two evaluations are compared where they differ in one choice only, on the same
model. A study may hold 100,000 of them and a policy takes 0.1 ms to parse, so their texts are
compared instead: equal policies are recorded as equal text, list by list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dashboards.snapshot import Snapshot
from search.policy import Policy
from studies.records import EvaluationRow, StudyRecord


@dataclass(frozen=True)
class Neighbour:
    """A policy that differs in exactly one choice.

    Attributes:
        row: its evaluation.
        choice: what differs, in words.
        old, new: the choice here and there, bits or a threshold.
        metric, gbops: how much more the neighbour has.
    """

    row: EvaluationRow
    choice: str
    old: float
    new: float
    metric: float
    gbops: float


@dataclass(frozen=True)
class BitWorth:
    """What one bit more, or the last bit, is worth in one group.

    Differences are per bit of the wider policy against the narrower; several give their median.

    Attributes:
        group: in words.
        bits: of this policy.
        more: whether it is about one bit more than this policy has, or about its last bit.
        other: the evaluation that this policy is compared with; None where pairs of other
            policies answer.
        widths: the fewest and the most bits compared.
        metric, gbops: differences, one a pair.
    """

    group: str
    bits: int
    more: bool
    other: EvaluationRow | None
    widths: tuple[int, int]
    metric: np.ndarray
    gbops: np.ndarray


def choice_names(record: StudyRecord, policy: Policy) -> list[str]:
    """Every choice of a policy in words: w weights, a activations, then thresholds."""
    weights, activations = record.ledger.groups(policy.bits.granularity)
    return [
        *(f"w {group}" for group in weights),
        *(f"a {group}" for group in activations),
        *(f"threshold, block {block}" for block in record.ledger.exit_blocks),
    ]


def neighbours(snapshot: Snapshot, index: int) -> list[Neighbour]:
    """Policies that differ from row ``index`` in one choice, the nearest in GBOPs first.

    They were measured on the same model. A policy that was recorded twice is there once.
    """
    rows, here = snapshot.rows, snapshot.rows[index]
    names, mine = choice_names(snapshot.record, here.policy), _Lists.of(here)
    found: dict[str, Neighbour] = {}
    for other, lists in _alike(snapshot, index):
        if sum(one != own for one, own in zip(lists, mine, strict=True)) != 1:
            continue
        pairs = zip(names, mine.choices(), lists.choices(), strict=True)
        changed = [(name, float(old), float(new)) for name, old, new in pairs if old != new]
        row = rows[other]
        if len(changed) == 1 and row.digest not in found:
            metric, gbops = row.value - here.value, row.gbops - here.gbops
            found[row.digest] = Neighbour(row, *changed[0], metric, gbops)
    return sorted(found.values(), key=lambda one: (abs(one.gbops), one.row.id))


def bit_worth(snapshot: Snapshot, index: int) -> list[BitWorth]:
    """What the recorded evaluations say about a bit in each group; groups without are left out.

    Compared are policies that differ in one group's bits only, on the same model under the same
    thresholds: this policy with another where there is one, else pairs of others between whose
    widths the bit in question lies.
    """
    rows, here = snapshot.rows, snapshot.rows[index]
    names = choice_names(snapshot.record, here.policy)
    kept = _in_pairs(list(_alike(snapshot, index)), index)
    alike = np.array([other for other, _ in kept])
    numbers: dict[str, int] = {}
    asked = [numbers.setdefault(lists.thresholds, len(numbers)) for _, lists in kept]
    written = ",".join(f"{lists.weights},{lists.activations}" for _, lists in kept)
    bits = np.fromstring(written, np.int64, sep=",").reshape(len(kept), -1)
    points = snapshot.points[alike]
    table, at = np.column_stack([bits, asked]).astype(np.uint64), int(np.searchsorted(alike, index))
    groups = bits.shape[1]
    mix = np.random.default_rng(0).integers(1 << 63, size=groups + 1, dtype=np.uint64)
    keys = (table * mix).sum(axis=1)
    found = []
    for column in range(groups):
        # Sorted by a hash of all other choices, then by this one: policies that differ in this one
        # alone come one after the other. Two hashes that collide could hide a pair, not invent one.
        others = keys - table[:, column] * mix[column]
        order = np.lexsort((bits[:, column], others))
        low, high = order[:-1], order[1:]
        hopeful = (others[low] == others[high]) & (bits[low, column] < bits[high, column])
        low, high = low[hopeful], high[hopeful]
        alone = (table[low] != table[high]).sum(axis=1) == 1
        low, high, width = low[alone], high[alone], bits[at, column]
        for more, end, inside in (
            (True, low, (bits[low, column] <= width) & (width < bits[high, column])),
            (False, high, (bits[low, column] < width) & (width <= bits[high, column])),
        ):
            mine = inside & (table[end] == table[at]).all(axis=1)
            chosen = mine if mine.any() else inside
            if not chosen.any():
                continue
            a, b = low[chosen], high[chosen]
            step = bits[b, column] - bits[a, column]
            ends = (int(bits[a, column].min()), int(bits[b, column].max()))
            other = rows[alike[(b if more else a)[0]]] if mine.any() else None
            gained = (points[b] - points[a]) / step[:, None]
            found.append(
                BitWorth(names[column], int(width), more, other, ends, gained[:, 0], gained[:, 1])
            )
    return found


# What Policy.to_json writes.
_TEXT = re.compile(
    r'\{"activation_bits":\[([^]]*)\],([^[]*),'
    r'"thresholds":\[([^]]*)\],"weight_bits":\[([^]]*)\]\}'
)


class _Lists(NamedTuple):
    """A policy in pieces of its text; ``fixed`` is what a study does not choose."""

    activations: str
    fixed: str
    thresholds: str
    weights: str

    @classmethod
    def of(cls, row: EvaluationRow) -> _Lists:
        found = _TEXT.fullmatch(row.policy_json) or _TEXT.fullmatch(row.policy.to_json())
        assert found is not None, "canonical JSON has its keys in order"
        return cls(*found.groups())

    def choices(self) -> list[str]:
        """As text, in the order of :func:`choice_names`."""
        return f"{self.weights},{self.activations},{self.thresholds}".split(",")


def _alike(snapshot: Snapshot, index: int) -> Iterator[tuple[int, _Lists]]:
    """Indices of the rows that agree with row ``index`` in model and fixed bits, itself too."""
    here = snapshot.rows[index]
    fixed = _Lists.of(here).fixed
    for other, row in enumerate(snapshot.rows):
        if row.model == here.model:
            lists = _Lists.of(row)
            if lists.fixed == fixed:
                yield other, lists


def _in_pairs(alike: Sequence[tuple[int, _Lists]], index: int) -> list[tuple[int, _Lists]]:
    """Row ``index``, and rows that another one equals but for weights or for activations."""
    seen: dict[tuple[str, str, bool], str] = {}
    several = set()
    for _, lists in alike:
        for key, rest in _partners(lists):
            if seen.setdefault(key, rest) != rest:
                several.add(key)
    return [
        (other, lists)
        for other, lists in alike
        if other == index or any(key in several for key, _ in _partners(lists))
    ]


def _partners(lists: _Lists) -> tuple[tuple[tuple[str, str, bool], str], ...]:
    """What two policies have in common whose weights, or activations, alone differ; and those."""
    return (
        ((lists.thresholds, lists.activations, True), lists.weights),
        ((lists.thresholds, lists.weights, False), lists.activations),
    )
