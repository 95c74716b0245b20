"""Backbone adapters: one view of every timm family, in blocks that an exit can follow.

An adapter says how a backbone turns images into tokens, how it runs one block, how it ends, and
which part of the network a module belongs to. Everything above it (heads, ledger, quantizers,
traces) sees only this Protocol.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from search.cost import Part
from search.errors import BadInput
from search.models.backbones.attention import make_attention_explicit


class BackboneAdapter(Protocol):
    """What an early-exit model needs of a backbone."""

    num_blocks: int
    prefix_tokens: int
    has_class_token: bool

    def width(self, block: int) -> int:
        """Token width after block ``block`` (1-based)."""

    def embed(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the tokens ``[B, N, D]`` that enter block 1."""

    def run_block(self, block: int, tokens: Tensor) -> Tensor:
        """Tokens through block ``block`` (1-based)."""

    def finish(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block to logits, by the backbone's own norm, pool and head."""

    def place(self, name: str) -> tuple[Part, int]:
        """Part of the network and block (0 for the embedding) of the submodule ``name``."""


class VitAdapter:
    """timm's ``VisionTransformer`` and ``VisionTransformerDistilled``.

    Class, register and distillation tokens are supported; attention pooling is not, since its
    products could be neither counted nor quantized here.
    """

    def __init__(self, backbone: Any) -> None:
        if backbone.attn_pool is not None or not backbone.global_pool:
            raise BadInput(
                f"global pool {backbone.global_pool!r} is not supported: "
                "choose a model with 'token' or 'avg' pooling"
            )
        if make_attention_explicit(backbone) != len(backbone.blocks):
            kinds = sorted({type(block).__name__ for block in backbone.blocks})
            raise BadInput(
                f"blocks of kind {', '.join(kinds)} are not supported: choose a VisionTransformer "
                "with standard blocks, such as vit_tiny_patch16_224 or deit_tiny_patch16_224"
            )
        self.backbone = backbone
        self.num_blocks = len(backbone.blocks)
        self.prefix_tokens = int(backbone.num_prefix_tokens)
        self.has_class_token = bool(backbone.has_class_token)

    def width(self, block: int) -> int:
        return int(self.backbone.embed_dim)

    def embed(self, images: Tensor) -> Tensor:
        model = self.backbone
        tokens: Tensor = model.norm_pre(
            model.patch_drop(model._pos_embed(model.patch_embed(images)))
        )
        return tokens

    def run_block(self, block: int, tokens: Tensor) -> Tensor:
        out: Tensor = self.backbone.blocks[block - 1](tokens)
        return out

    def finish(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.backbone.forward_head(self.backbone.norm(tokens))
        return logits

    def place(self, name: str) -> tuple[Part, int]:
        if name.startswith("patch_embed"):
            return "embed", 0
        if match := re.match(r"blocks\.(\d+)\.", name):
            return "block", int(match.group(1)) + 1
        return "head", self.num_blocks


ADAPTERS: dict[type[nn.Module], Callable[[Any], BackboneAdapter]] = {
    VisionTransformer: VitAdapter,
    VisionTransformerDistilled: VitAdapter,
}


def adapt(backbone: nn.Module) -> BackboneAdapter:
    """Wrap a timm backbone.

    Raises:
        BadInput: when no adapter knows its class.
    """
    factory = ADAPTERS.get(type(backbone))
    if factory is None:
        known = ", ".join(sorted(kind.__name__ for kind in ADAPTERS))
        raise BadInput(
            f"no adapter for timm models of class {type(backbone).__name__}: supported are {known}"
        )
    return factory(backbone)
