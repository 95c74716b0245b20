"""What the comparison methods share: a study's model opened, its tables measured. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import SensitivityTables
from search.disk_cache import DiskCaches
from search.evaluate import Evaluator
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.quantized import QuantizedModel
from search.sensitivity import Additivity, SensitivityMeter, check_additivity
from search.training.recipes import open_training_data
from search.training.recovery import OnStep, RecoverRecipe, StepReport
from studies.methods.recovery import Recovery
from studies.records import StudyRecord
from studies.work.opening import open_study_evaluator


@dataclass(frozen=True)
class Workbench:
    """A study's model, ready for the comparison methods.

    Attributes:
        record: the study.
        evaluator: of its model on its search split.
        outer: thresholds for given bits.
        meter: measures sensitivities.
        tables: measured ones.
        recovery: how its model is recovered, where training images were named.
    """

    record: StudyRecord
    evaluator: Evaluator[QuantizedModel]
    outer: OuterProblem
    meter: SensitivityMeter
    tables: SensitivityTables
    recovery: Recovery | None = None

    def additivity(self) -> Additivity:
        """How well the tables' sum ranks random policies of the study's space."""
        ledger = self.evaluator.ledger
        problem = AllocationProblem(self.outer.space, ledger, self.tables, Usage.full_depth(ledger))
        return check_additivity(self.meter, problem)


def open_workbench(
    record: StudyRecord,
    cache: Path,
    settings: MaqeeSettings,
    console: Console,
    training: tuple[Path, RecoverRecipe] | None = None,
) -> Workbench:
    """Open a study's model and measure its tables, with progress.

    Args:
        record: of the study.
        cache: folder of traces, tables and calibrations.
        settings: hyperparameters of thresholds and allocation.
        console: where progress goes.
        training: folder of the training images, and how recovery trains on them.

    Raises:
        BadInput: when the model or the images are not those of the study.
    """
    caches = DiskCaches(cache)
    evaluator = open_study_evaluator(record, caches.traces, caches.calibrations)
    recovery = None
    if training is not None:  # before anything costly: a wrong folder is told at once
        folder, recipe = training
        data = open_training_data(record.config.data.dataset, folder, evaluator.card.input)
        recovery = Recovery(evaluator, data, recipe)
    granularity = record.config.space.granularity
    meter = SensitivityMeter(evaluator.quantized, granularity, caches.tables)
    with bar(console) as shown:
        task = shown.add_task("measuring sensitivity tables", total=None)
        tables = meter.tables(lambda done, of: shown.update(task, completed=done, total=of))
    outer = OuterProblem(evaluator, record.space, settings)
    return Workbench(record, evaluator, outer, meter, tables, recovery)


@contextmanager
def bar(console: Console) -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere one plain line a task when it is done."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield progress
    if not console.is_terminal:
        for task in progress.tasks:
            console.print(f"{task.description}: done", markup=False, highlight=False)


@contextmanager
def recovery_bar(console: Console, what: str) -> Iterator[OnStep]:
    """Progress of one recovery: gives what :func:`search.training.recovery.recover` reports to."""
    with bar(console) as shown:
        task = shown.add_task(f"recovering {what}", total=None)

        def on_step(report: StepReport) -> None:
            shown.update(task, completed=report.step, total=report.steps)

        yield on_step
