"""The fast engine: the reference engine with its transformer blocks run by compiled kernels.

A block's kernel takes bits, scales and zero points as data, so a new policy compiles nothing. Its
products are the reference's own integers. What differs is the rounding of what lies between them
(layer norm, softmax, GELU, one multiplication by the inverse scale in place of a division), which
now and then moves a code by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import LayerScale
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from search.engines.cpu import native
from search.engines.kept import KeptTensors
from search.engines.reference import (
    ActivationCodes,
    QuantizedProduct,
    ReferenceEngine,
)
from search.errors import ExitbitsError
from search.models.backbones.attention import ExplicitAttention
from search.models.early_exit import EarlyExitModel
from search.policy import FULL_PRECISION
from search.quantize.histograms import Histogram
from search.quantize.ranges import Quantizer, weight_codes

GROUP_ROWS = 200  # tokens that go through a block together, so that they stay in the cache
COLUMNS = 16  # of a packed panel


class FastEngine(ReferenceEngine):
    """The reference engine, faster; see the module.

    Blocks that the kernels do not know, and blocks where a layer stays in full precision, run as in
    the reference engine.

    Args:
        model: full precision, in evaluation mode, on a CPU; it is copied, not changed.
        seen: what calibration saw of every operand.
        quantizer: how ranges are chosen.

    Attributes:
        fast_blocks: the blocks that the kernels run.

    Raises:
        ExitbitsError: when there are no kernels.
    """

    name = "fast"
    version = 2

    def __init__(
        self, model: EarlyExitModel, seen: Mapping[str, Histogram], quantizer: Quantizer
    ) -> None:
        kernels = native.load_kernels()
        if kernels is None:
            raise ExitbitsError("the fast engine's kernels are missing: use the reference engine")
        super().__init__(model, seen, quantizer)
        self.fast_blocks: list[FastBlock] = []
        for name, module in list(self.model.named_modules()):
            if is_known(module):
                block = FastBlock(module, kernels, self.kept)
                parent = self.model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], block)
                self.fast_blocks.append(block)

    def set_bits(self, bits: Mapping[str, tuple[int, int]]) -> None:
        super().set_bits(bits)
        for block in self.fast_blocks:
            block.refresh()

    def run(self, images: Tensor) -> Tensor:
        with self._in_place():
            return super().run(images)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Blocks overwrite tokens that only they see: fresh memory costs an eighth of a pass."""
        for block in self.fast_blocks:
            block.in_place = True
        try:
            yield
        finally:
            for block in self.fast_blocks:
                block.in_place = False


def is_known(block: Any) -> bool:
    """Whether the kernels compute what this block of the reference engine computes."""
    if type(block) is not TimmBlock:
        return False
    attention, mlp = block.attn, block.mlp
    return bool(
        isinstance(attention, ExplicitAttention)
        and type(mlp) is Mlp
        and all(_is_plain_norm(norm) for norm in (block.norm1, block.norm2))
        and all(isinstance(scale, (nn.Identity, LayerScale)) for scale in (block.ls1, block.ls2))
        and all(
            isinstance(one, nn.Identity)
            for one in (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
        )
        and attention.gate is None
        and isinstance(mlp.act, nn.GELU)
        and mlp.act.approximate == "none"
        and all(isinstance(one, QuantizedProduct) for one in (mlp.fc1, mlp.fc2))
        and all(size % COLUMNS == 0 for size in (attention.head_dim, mlp.fc1.source.out_features))
        and attention.qkv.source.out_features == 3 * attention.num_heads * attention.head_dim
        and attention.proj.source.in_features == attention.proj.source.out_features
    )


def _is_plain_norm(norm: nn.Module) -> bool:
    return (
        isinstance(norm, nn.LayerNorm)
        and len(norm.normalized_shape) == 1
        and norm.weight is not None
        and norm.bias is not None
    )


class FastBlock(nn.Module):
    """A block of the reference engine, run by the kernels where its bits allow.

    Args:
        block: quantized, and :func:`is_known`.
        kernels: the loaded library.
        kept: where packed weights are kept.

    Attributes:
        in_place: whether the tokens given may be overwritten.
    """

    in_place = False

    def __init__(self, block: Any, kernels: ctypes.CDLL, kept: KeptTensors) -> None:
        super().__init__()
        self.block, self._kernels, self._kept = block, kernels, kept
        self._parameters_now: native.Block | None = None
        self._alive: list[object] = []  # what the structure points to
        self._room = torch.empty(0, dtype=torch.uint8)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, N, D]`` through the block."""
        if self._parameters_now is None:
            answer: Tensor = self.block(tokens)
            return answer
        out = tokens.float().contiguous()
        if out is tokens and not self.in_place:
            out = tokens.clone()
        images, count, _ = out.shape
        threads = torch.get_num_threads()
        group = max(1, min(GROUP_ROWS // count, -(-images // threads)))
        pointer = ctypes.byref(self._parameters_now)
        # 64 more: the room begins on a cache line.
        needed = self._kernels.exitbits_room(pointer, group, count) * threads + 64
        if len(self._room) < needed:
            self._room = torch.empty(needed, dtype=torch.uint8)
        room = -(-self._room.data_ptr() // 64) * 64
        self._kernels.exitbits_run_block(
            pointer, out.data_ptr(), images, count, group, threads, room
        )
        return out

    def refresh(self) -> None:
        """Take over the bits that the block's layers have now."""
        self._alive = []
        attention, mlp = self.block.attn, self.block.mlp
        layers = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
        matmuls = (attention.scores, attention.context)
        widths = [bits for layer in layers for bits in (layer.inputs.bits, layer.weight_bits)]
        widths += [bits for one in matmuls for bits in (one.left.bits, one.right.bits)]
        # The kernels take probabilities to be codes that begin at zero, as those of softmax do.
        if FULL_PRECISION in widths or attention.context.left.lowest:
            self._parameters_now = None
            return
        self._parameters_now = native.Block(
            attention.proj.source.in_features,
            attention.num_heads,
            attention.head_dim,
            mlp.fc1.source.out_features,
            self.block.norm1.eps,
            self.block.norm2.eps,
            attention.scale,
            *(
                self._pointer(tensor)
                for norm in (self.block.norm1, self.block.norm2)
                for tensor in (norm.weight, norm.bias)
            ),
            *(
                self._pointer(scale.gamma) if isinstance(scale, LayerScale) else None
                for scale in (self.block.ls1, self.block.ls2)
            ),
            *(self._linear(layer) for layer in layers),
            _levels(attention.qkv.inputs),
            *(_levels(codes) for one in matmuls for codes in (one.left, one.right)),
            *(_levels(layer.inputs) for layer in layers[1:]),
            *(one.left.scale * one.right.scale for one in matmuls),
            *(_steps(one.left.bits, one.right.bits) for one in matmuls),
            *(2 ** (one.right.bits - 1) for one in matmuls),
        )

    def _pointer(self, tensor: Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._alive.append(kept)
        return int(kept.data_ptr())

    def _linear(self, layer: QuantizedProduct) -> native.Linear:
        bits = layer.weight_bits
        panels, sums = self._kept.get((layer, bits, "packed"), lambda: self._pack(layer, bits))
        offsets = sums * layer.inputs.lowest
        self._alive += [panels, offsets]
        bias = layer.source.bias
        outputs, inputs = layer.source.weight.shape
        return native.Linear(
            panels.data_ptr(),
            offsets.data_ptr(),
            self._pointer(layer.weight_scale(bits) * layer.inputs.scale),
            self._pointer(torch.zeros(outputs) if bias is None else bias),
            inputs,
            outputs,
            _steps(layer.inputs.bits, bits),
        )

    def _pack(self, layer: QuantizedProduct, bits: int) -> tuple[Tensor, Tensor]:
        rows = layer.source.weight.detach()
        codes = weight_codes(rows, layer.weight_scale(bits), bits).to(torch.int8).contiguous()
        panels, sums = torch.empty_like(codes), torch.empty(len(codes), dtype=torch.int32)
        self._kernels.exitbits_pack(
            codes.data_ptr(), *codes.shape, panels.data_ptr(), sums.data_ptr()
        )
        return panels, sums


def _levels(codes: ActivationCodes) -> native.Levels:
    return native.Levels(1 / codes.scale, codes.lowest, codes.highest)


def _steps(left_bits: int, right_bits: int) -> int:
    """How often two products of an unsigned and a signed code can be added up in 16 bits."""
    return int((2**15 - 1) // ((2**left_bits - 1) * 2**right_bits))
