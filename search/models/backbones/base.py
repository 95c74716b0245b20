"""Backbones behind one view: blocks that an exit can follow, and what a head reads after each.

An adapter says how a backbone turns images into the state that enters block 1, how it runs one
block, how it ends, and which part of the network a module belongs to. Everything above it (heads,
ledger, quantizers, traces) sees only this Protocol, so tokens and maps look the same there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from search.cost import Part
from search.errors import BadInput
from search.registry import Registry


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """What the head after a block is built for.

    Attributes:
        width: D, of pooled features and of every place of the grid.
        grid: its height and width ``(H, W)``.
        class_token: whether the pooled features are a class token's, which are not the grid's mean.
    """

    width: int
    grid: tuple[int, int]
    class_token: bool


class Backbone(Protocol):
    """What an early-exit model needs of a backbone.

    A state is a tensor, samples first; what else it looks like only the adapter knows. Blocks are
    counted from 1.
    """

    num_blocks: int

    def attach(self, exit_blocks: Sequence[int]) -> None:
        """Learn, before the first pass, after which blocks there are exits.

        Raises:
            BadInput: when no exits can follow these blocks; see :func:`check_exits`.
        """

    def shape(self, block: int) -> FeatureShape:
        """What the head after ``block`` is built for."""

    def embed(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the state that enters block 1."""

    def run_block(self, block: int, state: Tensor) -> Tensor:
        """The state through ``block``."""

    def finish(self, state: Tensor) -> Tensor:
        """The state after the last block to logits, by the backbone's own norm, pool and head."""

    def pooled(self, block: int, state: Tensor) -> Tensor:
        """One vector a sample ``[B, D]``: its class token, or the mean over the grid."""

    def grid(self, block: int, state: Tensor) -> Tensor:
        """The features of all places ``[B, D, H, W]``, without class and other prefix tokens.

        Raises:
            BadInput: when the state does not fill the grid.
        """

    def place(self, name: str) -> tuple[Part, int]:
        """Part of the network and block (0 for the embedding) of the submodule ``name``."""


@dataclass(frozen=True, slots=True)
class Features:
    """The state after a block as its head reads it, worked out when it is asked for."""

    backbone: Backbone
    block: int
    state: Tensor

    @property
    def pooled(self) -> Tensor:
        """See :meth:`Backbone.pooled`."""
        return self.backbone.pooled(self.block, self.state)

    @property
    def grid(self) -> Tensor:
        """See :meth:`Backbone.grid`."""
        return self.backbone.grid(self.block, self.state)


def check_exits(exit_blocks: Sequence[int], depth: int) -> None:
    """Raise ``BadInput`` unless ``exit_blocks`` ascend within 1..depth and end at the depth."""
    ascending = list(exit_blocks) == sorted(set(exit_blocks))
    if not exit_blocks or not ascending or exit_blocks[0] < 1 or exit_blocks[-1] != depth:
        raise BadInput(
            f"exits after blocks {list(exit_blocks)} do not fit a model of {depth} blocks: "
            f"give ascending numbers from 1 that end with {depth}"
        )


# By the exact class of the timm model: a subclass may compute something else.
BACKBONES = Registry(
    "backbone",
    "exitbits.backbones",
    {
        "VisionTransformer": "search.models.backbones.vit:VitBackbone",
        "VisionTransformerDistilled": "search.models.backbones.vit:VitBackbone",
    },
)


def adapt(backbone: nn.Module) -> Backbone:
    """Wrap a timm backbone.

    Raises:
        BadInput: when no adapter knows its class, or its adapter refuses it.
    """
    kind = type(backbone).__name__
    if kind not in BACKBONES:
        raise BadInput(
            f"no adapter for timm models of class {kind}: supported are {', '.join(BACKBONES)}"
        )
    adapted: Backbone = BACKBONES.resolve(kind)(backbone)
    return adapted
