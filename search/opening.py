"""From what a study names to a model with its data: checkpoints, and models of other kinds.

A checkpoint is ``bundled:NAME`` or a file; another scheme before a colon names another kind of
model. Plain: torch is loaded with the first real checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic

from search.caching import expanded
from search.data import open_dataset
from search.data.splits import DataOptions, Dataset, Split
from search.errors import BadInput
from search.evaluate import Model, TracedModel
from search.models.bundled import BUNDLED_SCHEME, checkpoint_digest, checkpoint_path
from search.models.card import ModelCard, card_path, read_card
from search.registry import Registry

MODELS = Registry("kind of model", "exitbits.models", {"recorded": "search.testing:open_recorded"})


@dataclass(frozen=True)
class OpenedModel(Generic[Model]):
    """A model and the data set that it is for.

    Attributes:
        quantized: the model.
        dataset: whose samples it reads; the calibration samples are of its training part.
    """

    quantized: Model
    dataset: Dataset

    def split(self, name: str) -> Split:
        """A held-out part of the data set: ``search``, ``order`` or ``certify``."""
        return self.dataset.split(name)


def is_path(checkpoint: str) -> bool:
    """Whether a checkpoint's name is a file's, not one with a scheme."""
    scheme, colon, _ = checkpoint.partition(":")
    return not colon or (scheme != BUNDLED_SCHEME and scheme not in MODELS)


def open_model(
    checkpoint: str, dataset: str | None = None, path: str | None = None, **options: Any
) -> OpenedModel[Any]:
    """Open whatever model a checkpoint's name stands for, with its data.

    Args:
        checkpoint: ``bundled:NAME``, a safetensors file with its card beside it, or the name of a
            model of another kind, such as ``recorded:NAME``.
        dataset, path, options: as :func:`search.loading.open_checkpoint` takes them; other kinds
            bring their own data.

    Raises:
        BadInput: when model or data cannot be used, or they do not belong together.
    """
    other = _other_kind(checkpoint)
    if other is not None:
        return other
    load: Callable[..., OpenedModel[Any]] = import_module("search.loading").open_checkpoint
    return load(checkpoint, dataset, path, **options)


def open_data(
    checkpoint: str, dataset: str | None, path: str | None, options: DataOptions
) -> Dataset:
    """Open the data set of a checkpoint, without the model.

    Raises:
        BadInput: when the checkpoint's card or the data cannot be used.
    """
    other = _other_kind(checkpoint)
    if other is not None:
        return other.dataset
    card = read_card(card_path(checkpoint_path(checkpoint)))
    return open_data_of(checkpoint, card, dataset, path, options)


def open_data_of(
    checkpoint: str, card: ModelCard, dataset: str | None, path: str | None, options: DataOptions
) -> Dataset:
    """Open the data set called ``dataset``, or the one that a checkpoint's card names.

    Raises:
        BadInput: when there is none, or it does not belong to the model.
    """
    name = dataset or card.data.get("dataset")
    if name is None:
        raise BadInput(f"the card of {checkpoint!r} names no data set: give one")
    opened = open_dataset(name, expanded(path) if path else None, card.input, options)
    if opened.classes != card.classes:
        odd = sorted(set(opened.classes) ^ set(card.classes))[:5]
        raise BadInput(
            f"the model knows {len(card.classes)} classes, the data {len(opened.classes)}"
            + (f"; only one of them has {', '.join(map(repr, odd))}" if odd else "")
            + ": they must be the same, in the same order"
        )
    return opened


def model_digest(checkpoint: str) -> str:
    """Digest of the model that a checkpoint's name stands for as it is now.

    Raises:
        BadInput: when a file of it cannot be read.
    """
    other = _other_kind(checkpoint)
    return checkpoint_digest(checkpoint) if other is None else other.quantized.card.digest


def _other_kind(checkpoint: str) -> OpenedModel[TracedModel] | None:
    """The model that a scheme of the registry names; None for bundled ones and files."""
    scheme, _, name = checkpoint.partition(":")
    if scheme == BUNDLED_SCHEME or is_path(checkpoint):
        return None
    opened: OpenedModel[TracedModel] = MODELS.resolve(scheme)(name)
    return opened
