"""A model that answers without torch: for tests of what works with traces, not with networks.

Services, samplers and launchers only see traces, costs and digests, so a real model would be
nothing but waiting. This one is a stand-in of the same interface (``search.evaluate.TracedModel``):
six blocks with an exit each, deeper exits right more often, and every layer group pushing the
margins from its block on by an amount that halves with every bit. The same bits give the same
trace in every process. A study names it as the checkpoint ``recorded:NAME``; NAME seeds it, and
``recorded:NAME@SECONDS`` takes so long for a batch, for tests of what happens meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search.cost import Ledger, Op
from search.data.splits import SPLITS, Split
from search.digest import digest_of
from search.errors import BadInput, unknown_choice
from search.models.card import Architecture, Exits, InputSpec, ModelCard
from search.opening import OpenedModel
from search.policy import Bits
from search.tasks import Task, resolve_task
from search.trace import ExitTrace

BLOCKS, WIDTH, TOKENS = 6, 32, 16
CLASSES = tuple("abcd")
BATCH = 100
SAMPLES = {"search": 600, "order": 300, "certify": 300, "calibration": 64}


def recorded_ledger() -> Ledger:
    """The operations of a small ViT: ``BLOCKS`` blocks of width ``WIDTH`` with an exit each."""
    ops = [Op("patch_embed.proj", "conv", "embed", 0, TOKENS * 16 * WIDTH, "patch_embed.proj")]
    product = TOKENS * WIDTH * WIDTH
    for block in range(1, BLOCKS + 1):
        name = f"blocks.{block - 1}"
        for layer, factor in (("attn.qkv", 3), ("attn.proj", 1), ("mlp.fc1", 4), ("mlp.fc2", 4)):
            path = f"{name}.{layer}"
            ops.append(Op(path, "linear", "block", block, factor * product, path))
            if layer == "attn.qkv":
                for matmul in ("scores", "context"):
                    macs = TOKENS * TOKENS * WIDTH
                    path = f"{name}.attn.{matmul}"
                    ops.append(Op(path, "matmul", "block", block, macs, f"{name}.attn"))
        head = "head" if block == BLOCKS else f"heads.{block}.fc"
        ops.append(Op(head, "linear", "head", block, WIDTH * len(CLASSES), head))
    return Ledger(tuple(ops), tuple(range(1, BLOCKS + 1)))


@dataclass(frozen=True)
class RecordedDataset:
    """Samples that are nothing but their numbers.

    Attributes:
        name: seeds the model, and so names the samples.
    """

    name: str
    classes: tuple[str, ...] = CLASSES

    def split(self, name: str) -> Split:
        """Return one of ``search``, ``order``, ``certify``, ``calibration``."""
        if name not in SPLITS:
            raise unknown_choice("split", name, SPLITS)
        first = sum(SAMPLES[other] for other in SPLITS[: SPLITS.index(name)])
        numbers = np.arange(first, first + SAMPLES[name])
        targets = numbers % len(self.classes)
        digest = digest_of(["recorded", self.name, name, SAMPLES[name]])
        return Split(name, digest, targets, lambda indices: numbers[indices])


class RecordedModel:
    """See the module.

    Args:
        name: seeds it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.pause_s = float(name.partition("@")[2] or 0)
        except ValueError:
            raise BadInput(f"recorded model {name!r}: give NAME or NAME@SECONDS") from None
        self.ledger = recorded_ledger()
        self.task: Task = resolve_task("classification")
        self.calibration = RecordedDataset(name).split("calibration")

    @cached_property
    def card(self) -> ModelCard:
        """A card like any other; its weights are the name."""
        return ModelCard(
            name=f"recorded {self.name}",
            task="classification",
            architecture=Architecture(timm="recorded"),
            exits=Exits(blocks=self.ledger.exit_blocks),
            classes=CLASSES,
            input=InputSpec(size=(1, 1, 1), mean=(0.0,), std=(1.0,)),
            weights_sha256=digest_of(["recorded", self.name]),
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on."""
        return {
            "model": self.card.digest,
            "calibration": self.calibration.digest,
            "quantizer": "recorded",
            "engine": ["recorded", 1],
            "device": "cpu",
        }

    def run(self, bits: Bits, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split at ``bits``.

        Raises:
            BadInput: when the bits do not fit the model.
        """
        widths = self.ledger.widths(bits)
        amounts = np.zeros((2, BLOCKS))
        for op in self.ledger.ops:
            if op.part == "block":
                left, right = widths[op.name]
                amounts[0, op.block - 1] += 2.0**-left
                amounts[1, op.block - 1] += 2.0**-right if op.kind != "matmul" else 0.0
        for batch in self._batches(split, amounts, "recorded"):
            time.sleep(self.pause_s)
            yield batch

    def run_full_precision(self, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split without quantization."""
        return self._batches(split, np.zeros((2, BLOCKS)), "reference")

    def _batches(self, split: Split, amounts: np.ndarray, engine: str) -> Iterator[ExitTrace]:
        margins, doubts, pushes = self._samples
        for start in range(0, len(split), BATCH):
            stop = min(start + BATCH, len(split))
            numbers = split.samples(np.arange(start, stop))
            moved = np.cumsum((amounts[:, :, None] * pushes[:, :, numbers]).sum(axis=0), axis=0)
            margin = margins[:, numbers] + moved  # [E, n]: above 0 where the exit is right
            sure = 1 / (1 + np.exp(-2 * np.abs(margin + doubts[:, numbers])))
            targets = split.targets[start:stop]
            predicted = np.where(margin > 0, targets, (targets + 1) % len(CLASSES))
            statistic = np.stack([predicted, np.broadcast_to(targets, predicted.shape)], axis=-1)
            yield ExitTrace(
                np.ascontiguousarray(sure.T, dtype=np.float32),
                np.ascontiguousarray(statistic.transpose(1, 0, 2), dtype=np.int32),
                self.ledger.exit_blocks,
                engine,
            )

    @cached_property
    def _samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Margins and doubts ``[E, N]`` and pushes ``[2, E, N]`` of every sample there is."""
        rng = np.random.default_rng(int(digest_of(["recorded", self.name])[:8], 16))
        count = sum(SAMPLES.values())
        depth = np.linspace(0.7, 1.6, BLOCKS)[:, None]
        margins = depth - rng.normal(size=count) + 0.4 * rng.normal(size=(BLOCKS, count))
        doubts = 0.3 * rng.normal(size=(BLOCKS, count))
        return margins, doubts, rng.normal(size=(2, BLOCKS, count))


def open_recorded(name: str) -> OpenedModel[RecordedModel]:
    """What the checkpoint ``recorded:NAME`` stands for."""
    return OpenedModel(RecordedModel(name), RecordedDataset(name))
