"""What a study evaluates: from its configuration to a model, data and an evaluator.

Plain: a checkpoint loads torch when it is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.errors import ExitbitsError
from search.evaluate import Evaluator, TraceCache
from search.opening import open_model
from studies.config import StudyConfig
from studies.policy_file import PolicyFile
from studies.records import StudyRecord
from studies.unchanged import check_images, check_model

if TYPE_CHECKING:
    from search.quantized import CalibrationCache

ANOTHER_NAME = "launch under another --name"


def open_evaluator(
    config: StudyConfig,
    *,
    split: str = "search",
    cache: TraceCache | None = None,
    calibrations: CalibrationCache | None = None,
    device: str = "cpu",
    engine: str | None = None,
) -> Evaluator[Any]:
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
    opened = open_model(
        config.model.checkpoint,
        config.data.dataset,
        config.data.path,
        data=config.data.options(),
        quantizer=config.quantizer.name,
        engine=engine or config.engine.name,
        device=device,
        calibrations=calibrations,
    )
    return Evaluator(opened.quantized, opened.split(split), cache)


def open_study_evaluator(
    record: StudyRecord,
    cache: TraceCache | None = None,
    calibrations: CalibrationCache | None = None,
    device: str = "cpu",
) -> Evaluator[Any]:
    """Load what a study in the store evaluates.

    Raises:
        BadInput: also when the checkpoint or the images are not those that the study began with.
    """
    evaluator = open_evaluator(record.config, cache=cache, calibrations=calibrations, device=device)
    owner = f"study {record.config.name!r}"
    check_model(owner, record.model_digest, evaluator.card.digest, ANOTHER_NAME)
    check_images(owner, record.data_digest, evaluator.data_digest, ANOTHER_NAME)
    return evaluator


def open_policy_evaluator(
    given: PolicyFile,
    *,
    split: str = "search",
    engine: str | None = None,
) -> Evaluator[Any]:
    """Load what a policy was measured with.

    Args:
        given: the policy.
        split: what to evaluate on.
        engine: name of another engine than its study's.

    Raises:
        BadInput: also when the checkpoint, or the images of the split that it was measured on, are
            not those.
    """
    evaluator = open_evaluator(given.study, split=split, engine=engine)
    owner = "the policy"
    check_model(owner, given.model_digest, evaluator.card.digest, "name the right file")
    if split == given.split:
        check_images(owner, given.data_digest, evaluator.data_digest)
    return evaluator


def refuse_unknown_device(device: str) -> None:
    """Raise ``ExitbitsError`` unless torch can compute on ``device``."""
    if device == "cpu":
        return  # wherever torch runs, and it need not be loaded to know
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExitbitsError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu"
        ) from error
