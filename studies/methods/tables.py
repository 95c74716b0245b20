"""Sensitivity tables for a search that begins: measured first where its budget pays for them.

With tables the sampler ``apq`` knows from its first proposal which layers can do with few bits;
without them it finds out by trials. Needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.bits.tables import SensitivityTables
from search.disk_cache import DiskCaches
from search.policy import QUANTIZED_BITS
from search.quantized import QuantizedModel
from search.sensitivity import SensitivityMeter
from studies.methods.recovery import OnProgress
from studies.records import StudyRecord
from studies.work.opening import open_study_evaluator

SHARE = 0.25  # of the budget's passes, at most, where nobody asked for tables
MEASURING = "measuring sensitivity tables"


def measure_tables(meter: SensitivityMeter, on_progress: OnProgress) -> SensitivityTables:
    """Measure what is not known; every row is kept as soon as it is there."""
    on_progress(MEASURING, 0, None)
    return meter.tables(lambda done, of: on_progress(MEASURING, done, of))


@dataclass(frozen=True)
class TablesFirst:
    """What a study's tables cost, and what measures them.

    Attributes:
        meter: measures them.
        passes: how many passes over the search images they take as long as; 0 where all are known.
    """

    meter: SensitivityMeter
    passes: float

    def worth(self, trials: int) -> bool:
        """Whether a search of so many trials pays for them."""
        return self.passes <= SHARE * trials


def tables_first(record: StudyRecord, caches: DiskCaches) -> TablesFirst | None:
    """Open a study's model and say what its tables cost; None where it has no layers to measure.

    Args:
        record: of the study.
        caches: where tables are looked up and kept.

    Raises:
        BadInput: when the model or the images are not those of the study.
    """
    evaluator = open_study_evaluator(record, caches.traces, caches.calibrations)
    if not isinstance(evaluator.quantized, QuantizedModel):
        return None
    meter = SensitivityMeter(evaluator.quantized, record.config.space.granularity, caches.tables)
    rows = meter.rows
    missing = sum(rows.load(side, group) is None for side, group in rows.wanted())
    images = missing * len(QUANTIZED_BITS) * len(rows.split)
    return TablesFirst(meter, images / len(evaluator.split))
