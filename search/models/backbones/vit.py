"""timm's Vision Transformers whose state is a row of tokens of one width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from search.cost import Part
from search.errors import BadInput
from search.models.backbones.attention import make_attention_explicit
from search.models.backbones.base import FeatureShape, check_exits


class VitBackbone:
    """timm's ``VisionTransformer`` and ``VisionTransformerDistilled``; states are ``[B, N, D]``.

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
        height, width = backbone.patch_embed.grid_size
        self._shape = FeatureShape(
            int(backbone.embed_dim), (int(height), int(width)), bool(backbone.has_class_token)
        )
        self._prefix = int(backbone.num_prefix_tokens)

    def attach(self, exit_blocks: Sequence[int]) -> None:
        check_exits(exit_blocks, self.num_blocks)

    def shape(self, block: int) -> FeatureShape:
        return self._shape

    def embed(self, images: Tensor) -> Tensor:
        model = self.backbone
        tokens: Tensor = model.norm_pre(
            model.patch_drop(model._pos_embed(model.patch_embed(images)))
        )
        return tokens

    def run_block(self, block: int, state: Tensor) -> Tensor:
        out: Tensor = self.backbone.blocks[block - 1](state)
        return out

    def finish(self, state: Tensor) -> Tensor:
        logits: Tensor = self.backbone.forward_head(self.backbone.norm(state))
        return logits

    def pooled(self, block: int, state: Tensor) -> Tensor:
        if self._shape.class_token:
            return state[:, 0]
        return state[:, self._prefix :].mean(dim=1)

    def grid(self, block: int, state: Tensor) -> Tensor:
        patches, (height, width) = state[:, self._prefix :], self._shape.grid
        if patches.shape[1] != height * width:
            raise BadInput(
                f"{patches.shape[1]} patches do not fill the model's grid of {height}x{width}, "
                "which its exit heads read: give images of the model's size, without dropping "
                "patches"
            )
        return patches.transpose(1, 2).reshape(len(patches), -1, height, width)

    def place(self, name: str) -> tuple[Part, int]:
        if name.startswith("patch_embed"):
            return "embed", 0
        if match := re.match(r"blocks\.(\d+)\.", name):
            return "block", int(match.group(1)) + 1
        return "head", self.num_blocks
