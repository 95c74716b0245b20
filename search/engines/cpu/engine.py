"""The fast engine: the reference engine with its transformer blocks run by compiled kernels.

A block's kernel takes bits, scales and zero points as data, so a new policy compiles nothing. Its
products are the reference's own integers. What differs is the rounding of what lies between them
(layer norm, softmax, GELU, one multiplication by the inverse scale in place of a division), which
now and then moves a code by one.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import LayerScale
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from search.engines.cpu import native
from search.engines.reference import (
    ActivationCodes,
    QuantizedProduct,
    ReferenceEngine,
)
from search.models.backbones.attention import ExplicitAttention
from search.models.early_exit import EarlyExitModel, Read
from search.policy import FULL_PRECISION
from search.quantize.kept import KeptTensors
from search.quantize.qparams import ModelQParams

log = logging.getLogger(__name__)

GROUP_ROWS = 200  # tokens that go through a block together, so that they stay in the cache
COLUMNS = 16  # of a packed panel


class FastEngine(ReferenceEngine):
    """The reference engine, faster; see the module.

    Blocks that the kernels do not know, and blocks where a layer stays in full precision, run as in
    the reference engine.

    Args:
        model: full precision, in evaluation mode, on a CPU; it is copied, not changed.
        qparams: its quantization parameters.

    Attributes:
        fast_blocks: the blocks that the kernels run.
        packed: their weights as the kernels take them, within a memory limit.

    Raises:
        KernelsUnavailable: when there are no kernels.
    """

    name = "fast"
    version = 2

    @classmethod
    def unavailable(cls, device: str) -> str | None:
        """It needs a CPU, and kernels built for it."""
        if torch.device(device).type != "cpu":
            return f"engine {cls.name!r} is for CPUs: on {device} the reference engine runs"
        kernels = native.load_kernels()
        return str(kernels) if isinstance(kernels, native.KernelsUnavailable) else None

    def __init__(self, model: EarlyExitModel, qparams: ModelQParams) -> None:
        kernels = native.load_kernels()
        if isinstance(kernels, native.KernelsUnavailable):
            raise kernels
        super().__init__(model, qparams)
        self.packed = KeptTensors()
        self.fast_blocks: list[FastBlock] = []
        for name, module in list(self.model.named_modules()):
            if is_known(module):
                block = FastBlock(module, kernels, self.packed)
                parent = self.model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], block)
                self.fast_blocks.append(block)
        self._tell()

    def _tell(self) -> None:
        """Say how much of the model the kernels run: a name alone promises too much."""
        covered, depth = len(self.fast_blocks), self.model.adapter.num_blocks
        if covered == depth:
            log.info("engine 'fast' runs all %d blocks in compiled kernels", depth)
        else:
            log.warning(
                "engine 'fast' runs %d of %d blocks in compiled kernels; the others run as in the "
                "reference engine, several times slower", covered, depth,
            )  # fmt: skip

    def set_bits(self, widths: Mapping[str, tuple[int, int]]) -> None:
        super().set_bits(widths)
        for block in self.fast_blocks:
            block.refresh()

    def run(self, images: Tensor, read: Read) -> None:
        with self._in_place():
            super().run(images, read)

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
        type(attention) is ExplicitAttention
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
        packed: where packed weights are kept.

    Attributes:
        in_place: whether the tokens given may be overwritten.
    """

    in_place = False

    def __init__(self, block: Any, kernels: ctypes.CDLL, packed: KeptTensors) -> None:
        super().__init__()
        self.block, self._kernels, self._packed = block, kernels, packed
        self._parameters_now: native.Block | None = None
        self._alive: list[object] = []  # what the structure points to
        self._room = torch.empty(0, dtype=torch.uint8)

    def forward(
        self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens ``[B, N, D]`` through the block; the kernels know no masks."""
        if self._parameters_now is None or attn_mask is not None or is_causal:
            answer: Tensor = self.block(tokens, attn_mask=attn_mask, is_causal=is_causal)
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
        norm1, norm2 = self.block.norm1, self.block.norm2
        self._parameters_now = native.Block(
            width=attention.proj.source.in_features,
            heads=attention.num_heads,
            head_width=attention.head_dim,
            hidden=mlp.fc1.source.out_features,
            epsilon1=norm1.eps,
            epsilon2=norm2.eps,
            query_scale=attention.scale,
            norm1_weight=self._pointer(norm1.weight),
            norm1_bias=self._pointer(norm1.bias),
            norm2_weight=self._pointer(norm2.weight),
            norm2_bias=self._pointer(norm2.bias),
            branch1_scale=self._branch_scale(self.block.ls1),
            branch2_scale=self._branch_scale(self.block.ls2),
            qkv=self._linear(attention.qkv),
            proj=self._linear(attention.proj),
            fc1=self._linear(mlp.fc1),
            fc2=self._linear(mlp.fc2),
            qkv_input=_levels(attention.qkv.inputs),
            query=_levels(attention.scores.left),
            key=_levels(attention.scores.right),
            probability=_levels(attention.context.left),
            value=_levels(attention.context.right),
            proj_input=_levels(attention.proj.inputs),
            fc1_input=_levels(mlp.fc1.inputs),
            fc2_input=_levels(mlp.fc2.inputs),
            scores_scale=attention.scores.left.scale * attention.scores.right.scale,
            context_scale=attention.context.left.scale * attention.context.right.scale,
            scores_steps=_steps(attention.scores.left.bits, attention.scores.right.bits),
            context_steps=_steps(attention.context.left.bits, attention.context.right.bits),
            key_middle=_middle(attention.scores.right),
            value_middle=_middle(attention.context.right),
        )

    def _pointer(self, tensor: Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._alive.append(kept)
        return int(kept.data_ptr())

    def _branch_scale(self, scale: nn.Module) -> int | None:
        return self._pointer(scale.gamma) if isinstance(scale, LayerScale) else None

    def _linear(self, layer: QuantizedProduct) -> native.Linear:
        qparams = layer.qparams()
        key = layer, qparams.bits, qparams.fitted_to
        panels, sums = self._packed.get(key, lambda: self._pack(qparams.codes))
        offsets = sums * layer.inputs.lowest
        self._alive += [panels, offsets]
        bias = layer.source.bias
        outputs, inputs = layer.source.weight.shape
        return native.Linear(
            weights=panels.data_ptr(),
            offsets=offsets.data_ptr(),
            scale=self._pointer(qparams.scale * layer.inputs.scale),
            bias=self._pointer(torch.zeros(outputs) if bias is None else bias),
            inputs=inputs,
            outputs=outputs,
            steps=_steps(layer.inputs.bits, qparams.bits),
        )

    def _pack(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        codes = codes.contiguous()
        panels, sums = torch.empty_like(codes), torch.empty(len(codes), dtype=torch.int32)
        self._kernels.exitbits_pack(
            codes.data_ptr(), *codes.shape, panels.data_ptr(), sums.data_ptr()
        )
        return panels, sums


def _levels(codes: ActivationCodes) -> native.Levels:
    return native.Levels(inverse=1 / codes.scale, lowest=codes.lowest, highest=codes.highest)


def _middle(codes: ActivationCodes) -> int:
    """What is subtracted from codes to make them signed."""
    return int(2 ** (codes.bits - 1))


def _steps(left_bits: int, right_bits: int) -> int:
    """How often two products of an unsigned and a signed code can be added up in 16 bits."""
    return int((2**15 - 1) // ((2**left_bits - 1) * 2**right_bits))
