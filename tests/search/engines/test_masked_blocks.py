"""The fast engine where attention is masked: what its kernels do not know runs as it stands."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from search.engines.cpu.engine import FastEngine, is_known
from search.engines.reference import ReferenceEngine
from search.models.backbones.attention import ExplicitAttention
from search.models.early_exit import EarlyExitModel
from search.quantize.calibration import calibrate
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer

SEEN = torch.ones(17, 17, dtype=torch.bool).tril(3)
MASKS: dict[str, dict[str, Any]] = {
    "bool": {"attn_mask": SEEN},
    "float": {"attn_mask": torch.zeros(17, 17).masked_fill(~SEEN, -3.0)},
    "causal": {"is_causal": True},
}


@pytest.fixture(scope="module")
def engines() -> tuple[ReferenceEngine, FastEngine]:
    torch.manual_seed(1)
    backbone = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, num_heads=2, depth=2,
        num_classes=5,
    )  # fmt: skip
    model = EarlyExitModel(backbone, (1, 2), "linear", 5).eval().requires_grad_(False)
    for block in model.backbone.blocks:
        block.attn.qkv.weight *= 12
    seen = calibrate(model, lambda: iter([torch.randn(8, 3, 32, 32)]))
    qparams = ModelQParams(model, seen, resolve_quantizer("mse"))
    widths = {op.name: (6, 6) for op in model.ledger((3, 32, 32)).ops}
    built = ReferenceEngine(model, qparams), FastEngine(model, qparams)
    for engine in built:
        engine.set_bits(widths)
    return built


@pytest.mark.parametrize("case", MASKS)
def test_a_masked_block_runs_as_in_the_reference_engine(engines, case: str) -> None:
    reference, fast = engines
    tokens = torch.randn(3, 17, 64, generator=torch.Generator().manual_seed(2))
    block, (fast_block, _) = reference.model.backbone.blocks[0], fast.fast_blocks
    with torch.inference_mode():
        expected = block(tokens, **MASKS[case])
        assert torch.equal(fast_block(tokens, **MASKS[case]), expected)
        plain = fast_block(tokens)
        assert not torch.allclose(plain, expected, atol=1e-2), "the mask must matter"
        torch.testing.assert_close(plain, block(tokens), rtol=0, atol=0.1)


def test_a_kind_of_attention_with_something_more_is_not_known(engines) -> None:
    class BiasedAttention(ExplicitAttention):
        pass

    block = engines[0].model.backbone.blocks[0]
    assert is_known(block)
    block.attn.__class__ = BiasedAttention
    assert not is_known(block)
    block.attn.__class__ = ExplicitAttention
