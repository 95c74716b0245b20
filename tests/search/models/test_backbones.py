"""Backbones behind the adapter: the same answers as timm's own forward, or a refusal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention

from search.models.backbones.attention import ExplicitAttention
from search.models.checkpoint import attach_exits

TINY = {"img_size": 64, "embed_dim": 48, "num_heads": 3, "depth": 3}
SUPPORTED: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "vit": ("vit_tiny_patch16_224", {}, (5, 12)),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {}, (5, 12)),
    "average-pool": (
        "vit_tiny_patch16_224",
        {**TINY, "class_token": False, "global_pool": "avg"},
        (1, 3),
    ),
    "layer-scale-qk-norm": (
        "vit_tiny_patch16_224",
        {**TINY, "init_values": 0.5, "qk_norm": True},
        (2, 3),
    ),
    "registers": ("vit_tiny_patch16_224", {**TINY, "reg_tokens": 4}, (2, 3)),
    "scale-norm-pre-norm-no-bias": (
        "vit_tiny_patch16_224",
        {**TINY, "scale_attn_norm": True, "qkv_bias": False, "pre_norm": True},
        (2, 3),
    ),
}


@pytest.mark.parametrize("case", SUPPORTED)
def test_exits_answer_as_timm_does(case: str):
    name, kwargs, exits = SUPPORTED[case]
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=10, **kwargs).eval()
    for parameter in backbone.parameters():  # fresh weights hardly move the tokens
        parameter.data += 0.1 * torch.randn_like(parameter)
    original = copy.deepcopy(backbone)
    tokens = {}
    for number, block in enumerate(original.blocks, start=1):
        block.register_forward_hook(lambda *args, n=number: tokens.update({n: args[2]}))

    model = attach_exits(backbone, exits, "linear", 10).eval()
    images = torch.randn(
        3, *backbone.patch_embed.proj.weight.shape[1:2], *backbone.patch_embed.img_size
    )
    with torch.inference_mode():
        expected = original(images)
        answers = model(images)
        early = model.heads[str(exits[0])](tokens[exits[0]])
    assert answers.shape == (3, 2, 10)
    assert expected.std() > 0.1
    torch.testing.assert_close(answers[:, 1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answers[:, 0], early, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gated": True, "qkv_bias": True},
        {"scale_norm": True, "qk_norm": True, "norm_layer": torch.nn.LayerNorm},
        {"attn_head_dim": 5, "dim_out": 36, "proj_bias": False},
    ],
    ids=["plain", "gated", "norms", "head-width"],
)
def test_explicit_attention_is_timms_attention(options: dict[str, Any]):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, **options).eval()
    tokens = torch.randn(2, 7, 24) * 3
    expected = attention(tokens)
    torch.testing.assert_close(ExplicitAttention(attention)(tokens), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(NotImplementedError, match="mask"):
        ExplicitAttention(attention)(tokens, is_causal=True)


def test_adapting_keeps_names_and_values_of_parameters():
    backbone = timm.create_model("vit_tiny_patch16_224", **TINY)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    attach_exits(backbone, (3,), "linear", 1000)
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "kwargs", "exits", "words"),
    [
        ("swin_tiny_patch4_window7_224", {}, (1,), ["SwinTransformer", "VisionTransformer"]),
        ("resnet18", {}, (1,), ["ResNet", "VisionTransformer"]),
        ("test_vit_relpos", {}, (9,), ["VisionTransformerRelPos"]),
        ("test_vit", {"global_pool": "map"}, (6,), ["global pool 'map'", "'avg'"]),
        pytest.param(
            "test_vit",
            {"global_pool": ""},
            (3, 6),
            ["global pool ''"],
        ),
        (
            "test_vit",
            {"block_fn": timm.models.vision_transformer.ParallelScalingBlock},
            (6,),
            ["ParallelScalingBlock", "vit_tiny_patch16_224"],
        ),
    ],
    ids=["swin", "resnet", "relative-position", "attention-pool", "no-pool", "parallel-blocks"],
)
def test_unsupported_backbones_are_refused(name, kwargs, exits, words, refused):
    backbone = timm.create_model(name, **kwargs)
    with refused(*words):
        attach_exits(backbone, exits, "linear", 1000)


@pytest.mark.parametrize("exits", [(1, 2), (2, 1, 3), (1, 1, 3), (0, 3), (1, 4), (3, 4)], ids=str)
def test_exits_that_do_not_ascend_to_the_depth_are_refused(exits: tuple[int, ...], refused):
    with refused(list(exits), "3 blocks", "end with 3"):
        attach_exits(timm.create_model("vit_tiny_patch16_224", **TINY), exits, "linear", 10)
