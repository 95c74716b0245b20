"""From a checkpoint and a data set to a quantized model with its images. Needs torch."""

from __future__ import annotations

from search.data.splits import DataOptions
from search.models.bundled import checkpoint_path
from search.models.checkpoint import load_checkpoint
from search.opening import OpenedModel, open_data_of
from search.quantized import CalibrationCache, QuantizedModel


def open_checkpoint(
    checkpoint: str,
    dataset: str | None = None,
    path: str | None = None,
    *,
    data: DataOptions | None = None,
    quantizer: str = "mse",
    engine: str = "fast",
    device: str = "cpu",
    calibrations: CalibrationCache | None = None,
) -> OpenedModel[QuantizedModel]:
    """Load a model and open its data set.

    Args:
        checkpoint: ``bundled:NAME``, or a safetensors file with its card beside it.
        dataset: a data set's name in the registry; None for the one that the card names.
        path: where its files lie; None for one that is bundled.
        data: what is said of its images.
        quantizer, engine: their names in the registries.
        device: where the model runs.
        calibrations: where what calibration saw is kept.

    Raises:
        BadInput: when either cannot be used, or they do not belong together.
    """
    model, card = load_checkpoint(checkpoint_path(checkpoint))
    options = data or DataOptions()
    opened = open_data_of(checkpoint, card, dataset, path, options)
    quantized = QuantizedModel(
        model=model,
        card=card,
        calibration=opened.split("calibration").head(options.calibration_images),
        quantizer=quantizer,
        engine_name=engine,
        device=device,
        calibrations=calibrations,
    )
    return OpenedModel(quantized, opened)
