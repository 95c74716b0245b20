"""Finding sensitivity rows where they are kept, by everything that they depend on. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import Ledger
from search.data.splits import Split
from search.digest import digest_of
from search.policy import QUANTIZED_BITS, Granularity

IMAGES = 256
VERSION = 1

Side = Literal["weights", "activations"]


class TableCache(Protocol):
    """Where rows are kept by content."""

    def load(self, key: str) -> Sensitivity | None:
        """The row under ``key``, or None."""

    def store(self, key: str, row: Sensitivity) -> None:
        """Keep ``row`` under ``key``."""


class Sensed(Protocol):
    """What rows are of. A ``QuantizedModel`` is one."""

    @property
    def ledger(self) -> Ledger:
        """The model's operations."""

    @property
    def calibration(self) -> Split:
        """The images that set the quantizer's ranges."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that its answers depend on but the bits: plain values."""


@dataclass(frozen=True)
class TableLookup:
    """The sensitivity rows of one model.

    Attributes:
        model: whose rows.
        granularity: what a group is.
        cache: where rows are kept, or None for nowhere.
        images: how many calibration images are run for a row, 1 or more; more give steadier
            figures at a cost in proportion.
    """

    model: Sensed
    granularity: Granularity
    cache: TableCache | None = None
    images: int = IMAGES

    @property
    def split(self) -> Split:
        """The images that are run."""
        return self.model.calibration.head(self.images)

    def wanted(self) -> list[tuple[Side, str]]:
        """Side and group of every row, in the order in which they are measured."""
        weights, activations = self.model.ledger.groups(self.granularity)
        return [
            *(("weights", name) for name in weights),
            *(("activations", name) for name in activations),
        ]

    def known(self) -> SensitivityTables | None:
        """The tables where every row of them is kept, without measuring any."""
        rows: dict[Side, dict[str, Sensitivity]] = {"weights": {}, "activations": {}}
        for side, name in self.wanted():
            row = self.load(side, name)
            if row is None:
                return None
            rows[side][name] = row
        return SensitivityTables(rows["weights"], rows["activations"])

    def load(self, side: Side, group: str) -> Sensitivity | None:
        """A row, or None where it is not kept."""
        return None if self.cache is None else self.cache.load(self._key(side, group))

    def store(self, side: Side, group: str, row: Sensitivity) -> None:
        """Keep a row."""
        if self.cache is not None:
            self.cache.store(self._key(side, group), row)

    def _key(self, side: Side, group: str) -> str:
        """Digest of everything that a row depends on."""
        return digest_of(
            {
                **self.model.identity,  # with the engine that really runs
                "what": "sensitivity",
                "version": VERSION,
                "side": side,
                "group": group,
                "granularity": self.granularity,
                "bits": list(QUANTIZED_BITS),
                "images": self.split.digest,
            }
        )
