"""What a study evaluates: from its configuration to a model, data and an evaluator. Needs torch."""

from __future__ import annotations

from pathlib import Path

from search.data import open_dataset
from search.errors import BadInput
from search.evaluate import Evaluator, TraceCache
from search.models.bundled import checkpoint_path
from search.models.checkpoint import load_checkpoint
from search.quantized import CalibrationCache, QuantizedModel
from studies.config import StudyConfig
from studies.records import StudyRecord


def open_evaluator(
    config: StudyConfig,
    *,
    split: str = "search",
    cache: TraceCache | None = None,
    calibrations: CalibrationCache | None = None,
    device: str = "cpu",
    engine: str | None = None,
) -> Evaluator[QuantizedModel]:
    """Load the model and the data of a study.

    Args:
        config: of the study.
        split: what to evaluate on.
        cache: where traces are kept.
        calibrations: where what calibration saw is kept.
        device: where the model runs.
        engine: name of another engine than the study's.

    Raises:
        BadInput: when either cannot be used, or they do not belong together.
    """
    model, card = load_checkpoint(checkpoint_path(config.model.checkpoint))
    path = Path(config.data.path).expanduser() if config.data.path else None
    dataset = open_dataset(config.data.dataset, path, card.input)
    if dataset.classes != card.classes:
        raise BadInput(
            f"the model knows {len(card.classes)} classes ({card.classes[0]}, ...), the data "
            f"{len(dataset.classes)} ({dataset.classes[0]}, ...): they must be the same"
        )
    quantized = QuantizedModel(
        model=model,
        card=card,
        calibration=dataset.split("calibration").head(config.data.calibration_images),
        quantizer=config.quantizer.name,
        engine_name=engine or config.engine.name,
        device=device,
        calibrations=calibrations,
    )
    return Evaluator(quantized, dataset.split(split), cache)


def open_study_evaluator(
    record: StudyRecord,
    cache: TraceCache | None = None,
    calibrations: CalibrationCache | None = None,
    device: str = "cpu",
) -> Evaluator[QuantizedModel]:
    """Load what a study in the store evaluates.

    Raises:
        BadInput: also when the checkpoint or the images are not those that the study began with.
    """
    name = record.config.name
    evaluator = open_evaluator(record.config, cache=cache, calibrations=calibrations, device=device)
    if evaluator.card.digest != record.model_digest:
        raise BadInput(
            f"the checkpoint of study {name!r} has changed since the study began: "
            "restore it, or launch under another --name"
        )
    if evaluator.data_digest != record.data_digest:
        raise BadInput(
            f"the images of study {name!r} have changed since the study began: restore them, "
            "or launch under another --name"
        )
    return evaluator
