"""What the tests of ``search`` share: the refusal check, images, and a model whose exits differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from search.data import fashion
from search.data.batches import normalized_batches
from search.engines import ENGINES
from search.engines.base import Engine, resolve_engine
from search.engines.reference import ReferenceEngine
from search.errors import ExitbitsError
from search.models.card import Exits, InputSpec, ModelCard
from search.models.checkpoint import build_model
from search.models.early_exit import EarlyExitModel
from search.quantize.calibration import calibrate
from search.quantize.histograms import Histogram
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.training.recipes import FASHION_ARCHITECTURE

# The same examples in every run, however busy the machine is.
settings.register_profile("exitbits", deadline=None, derandomize=True)
settings.load_profile("exitbits")

Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refused() -> Refused:
    """A context that demands a one-line error naming every given word, exit code 2 by default."""

    @contextmanager
    def expect(*words: object, exit_code: int = 2) -> Iterator[None]:
        with pytest.raises(ExitbitsError) as caught:
            yield
        message = str(caught.value)
        assert caught.value.exit_code == exit_code, message
        assert message, "the error says nothing"
        assert "\n" not in message
        for word in words:
            assert str(word) in message

    return expect


@pytest.fixture(scope="session")
def fashion_card() -> ModelCard:
    """The card of the bundled architecture with exits after blocks 1, 2, 4 and 6."""
    return ModelCard(
        name="spread",
        task="classification",
        architecture=FASHION_ARCHITECTURE,
        exits=Exits(blocks=(1, 2, 4, 6)),
        classes=fashion.CLASSES,
        input=InputSpec(size=(1, 28, 28), mean=fashion.MEAN, std=fashion.STD),
        weights_sha256="0" * 64,
    )


@pytest.fixture(scope="session")
def fashion_model(fashion_card: ModelCard) -> EarlyExitModel:
    """An untrained model, scaled so that confidences spread over (0, 1) and differ by exit.

    Shared by all tests: none may change it.
    """
    torch.manual_seed(0)
    model = build_model(fashion_card).eval().requires_grad_(False)
    for block in model.backbone.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            layer.weight *= 10
    for head in (*(head.fc for head in model.heads.values()), model.backbone.head):
        head.weight *= 3 / head.weight.std() / head.weight.shape[1] ** 0.5
    return model


@pytest.fixture(scope="session")
def search_images(fashion_card: ModelCard) -> Tensor:
    """The first 500 images of the bundled search split, normalized."""
    split = fashion.FashionDataset().split("search").head(500)
    return next(normalized_batches(split, fashion_card.input, batch_size=500))


@pytest.fixture(scope="session")
def calibration_images(fashion_card: ModelCard) -> Tensor:
    """The first 200 calibration images, normalized."""
    split = fashion.FashionDataset().split("calibration").head(200)
    return next(normalized_batches(split, fashion_card.input, batch_size=200))


@pytest.fixture(scope="session")
def seen(fashion_model: EarlyExitModel, calibration_images: Tensor) -> dict[str, Histogram]:
    """What one calibration of the shared model saw of every operand."""
    return calibrate(fashion_model, lambda: iter([calibration_images]))


@pytest.fixture(scope="session")
def qparams(fashion_model: EarlyExitModel, seen: dict[str, Histogram]) -> ModelQParams:
    """The shared model's quantization parameters."""
    return ModelQParams(fashion_model, seen, resolve_quantizer("mse"))


@pytest.fixture(scope="session")
def new_engine(
    fashion_model: EarlyExitModel, qparams: ModelQParams
) -> Callable[[], ReferenceEngine]:
    """Builds fresh reference engines of the shared model."""
    return lambda: ReferenceEngine(fashion_model, qparams)


@pytest.fixture(scope="session", params=sorted(ENGINES))
def new_any_engine(
    request: pytest.FixtureRequest, fashion_model: EarlyExitModel, qparams: ModelQParams
) -> Callable[[], Engine]:
    """The same of every engine."""
    kind = resolve_engine(request.param)
    assert kind.name == request.param
    return lambda: kind(fashion_model, qparams)
