"""What the comparison methods share: a study's model opened, its tables measured. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import SensitivityTables
from search.disk_cache import DiskCaches
from search.evaluate import Evaluator
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.quantized import QuantizedModel
from search.sensitivity import Additivity, SensitivityMeter, check_additivity
from search.training.data import open_training_data
from search.training.recovery import RecoverRecipe
from studies.methods.recovery import OnProgress, Recovery, networks_only
from studies.methods.tables import measure_tables
from studies.records import Study, StudyRecord
from studies.store.writer import StudyStore
from studies.work.opening import open_study_evaluator


@dataclass(frozen=True)
class Training:
    """How models are recovered.

    Attributes:
        images: folder of the training images.
        recipe: how recovery trains on them.
        models: folder of recovered checkpoints.
    """

    images: Path
    recipe: RecoverRecipe
    models: Path


@dataclass(frozen=True)
class OpenedStudy:
    """A study's model, ready for the comparison methods.

    Attributes:
        store: where the study is, and where results are recorded.
        study: which one.
        evaluator: of its model on its search split.
        outer: thresholds for given bits.
        meter: measures sensitivities.
        tables: measured ones.
        recovery: how its model is recovered, where training images were named.
    """

    store: StudyStore
    study: Study
    evaluator: Evaluator[QuantizedModel]
    outer: OuterProblem
    meter: SensitivityMeter
    tables: SensitivityTables
    recovery: Recovery | None = None

    @property
    def record(self) -> StudyRecord:
        """What the study is."""
        return self.study.record

    def additivity(self) -> Additivity:
        """How well the tables' sum ranks random policies of the study's space."""
        ledger = self.evaluator.ledger
        problem = AllocationProblem(self.outer.space, ledger, self.tables, Usage.full_depth(ledger))
        return check_additivity(self.meter, problem)


def open_for_methods(
    store: StudyStore,
    study: Study,
    cache: Path,
    settings: MaqeeSettings,
    training: Training | None = None,
    on_progress: OnProgress = lambda what, done, of: None,
) -> OpenedStudy:
    """Open a study's model and measure its tables.

    Args:
        store: where the study is.
        study: which one.
        cache: folder of traces, tables and calibrations.
        settings: hyperparameters of thresholds and allocation.
        training: how models are to be recovered, if they are.
        on_progress: receives how far it is.

    Raises:
        BadInput: when the model or the images are not those of the study.
    """
    caches, record = DiskCaches(cache), study.record
    evaluator = networks_only(open_study_evaluator(record, caches.traces, caches.calibrations))
    recovery = None
    if training is not None:  # before anything costly: a wrong folder is told at once
        section, spec = record.config.data, evaluator.card.input
        data = open_training_data(section.dataset, training.images, spec, section.options())
        recovery = Recovery(evaluator, data, training.recipe, training.models)
    meter = SensitivityMeter(evaluator.quantized, record.config.space.granularity, caches.tables)
    tables = measure_tables(meter, on_progress)
    outer = OuterProblem(evaluator, record.space, settings)
    return OpenedStudy(store, study, evaluator, outer, meter, tables, recovery)
