"""Backbones behind the adapter: the same answers as timm's own forward, or a refusal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention

from search.models.backbones.attention import ExplicitAttention
from search.models.backbones.base import Features, FeatureShape, adapt
from search.models.early_exit import EarlyExitModel

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

    model = EarlyExitModel(backbone, exits, "linear", 10).eval()
    images = torch.randn(
        3, *backbone.patch_embed.proj.weight.shape[1:2], *backbone.patch_embed.img_size
    )
    with torch.inference_mode():
        expected = original(images)
        answers = model(images)
        early = model.read_exit(exits[0], tokens[exits[0]])
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


def masks(tokens: int) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand(2, 1, tokens, tokens, generator=generator) < 0.6
    seen[..., 0] = True
    blind = seen.clone()
    blind[1, :, 2] = False
    added = torch.randn(3, tokens, tokens, generator=generator) * 2
    return {
        "bool": {"attn_mask": seen},
        "bool-2d": {"attn_mask": seen[0, 0]},
        "a-query-that-sees-nothing": {"attn_mask": blind},
        "float": {"attn_mask": added},
        "float-infinite": {"attn_mask": added.masked_fill(~blind, -torch.inf)},
        "causal": {"is_causal": True},
    }


@pytest.mark.parametrize("case", masks(7))
def test_masked_attention_and_its_gradients_are_torchs_own(case: str):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qk_norm=True, norm_layer=torch.nn.LayerNorm).eval()
    attention.fused_attn = True  # timm then calls scaled_dot_product_attention
    tokens = (torch.randn(2, 7, 24) * 3).requires_grad_()
    expected = attention(tokens, **masks(7)[case])
    found = ExplicitAttention(attention)(tokens, **masks(7)[case])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), tokens)
    got = torch.autograd.grad((found * weights).sum(), tokens)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, attention(tokens), atol=1e-2), "the mask must matter"


def test_a_bias_is_added_to_the_scores_beside_a_mask():
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3).eval()
    attention.fused_attn = True
    tokens, bias = torch.randn(2, 7, 24) * 3, torch.randn(3, 7, 7) * 2
    seen = masks(7)["bool"]["attn_mask"]
    explicit = ExplicitAttention(attention)
    torch.testing.assert_close(
        explicit(tokens, bias=bias), attention(tokens, attn_mask=bias), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        explicit(tokens, attn_mask=seen, bias=bias),
        attention(tokens, attn_mask=bias.masked_fill(~seen, -torch.inf)),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_a_mask_and_causality_at_once_are_refused():
    explicit = ExplicitAttention(Attention(24, num_heads=3))
    with pytest.raises(ValueError, match="exclude each other"):
        explicit(torch.randn(1, 4, 24), attn_mask=torch.ones(4, 4).bool(), is_causal=True)


KINDS = {
    "class-token": {"class_token": True, "global_pool": "token"},
    "class-token-and-registers": {"class_token": True, "global_pool": "avg", "reg_tokens": 2},
    "registers": {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
    "patches-only": {"class_token": False, "global_pool": "avg"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_features_and_grid_are_timms_own(kind: str):
    torch.manual_seed(0)
    options: dict[str, Any] = {**TINY, "img_size": (32, 64), **KINDS[kind]}
    backbone = timm.create_model("vit_tiny_patch16_224", **options).eval()
    adapter = adapt(backbone)
    images = torch.randn(3, 3, 32, 64)
    with torch.inference_mode():
        # timm's own view of a block's output: the map without prefix tokens, and these beside it.
        (expected, prefix), *_ = (
            backbone.forward_intermediates(
                images, indices=[0], return_prefix_tokens=True, intermediates_only=True
            )
            if kind != "patches-only"
            else (
                (
                    backbone.forward_intermediates(images, indices=[0], intermediates_only=True)[0],
                    None,
                ),
            )
        )
        state = adapter.run_block(1, adapter.embed(images))
    features = Features(adapter, 1, state)
    has_class_token = KINDS[kind]["class_token"]
    assert adapter.shape(1) == FeatureShape(48, (2, 4), has_class_token)
    torch.testing.assert_close(features.grid, expected, rtol=0, atol=0)
    pooled = prefix[:, 0] if has_class_token else expected.mean(dim=(2, 3))
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-5, atol=1e-6)


def test_a_state_that_does_not_fill_the_grid_has_none(refused):
    backbone = timm.create_model("vit_tiny_patch16_224", **TINY, patch_drop_rate=0.5).train()
    adapter = adapt(backbone)
    state = adapter.embed(torch.randn(2, 3, 64, 64))
    assert adapter.pooled(1, state).shape == (2, 48)
    with refused("8 patches", "4x4"):
        adapter.grid(1, state)


def test_adapting_keeps_names_and_values_of_parameters():
    backbone = timm.create_model("vit_tiny_patch16_224", **TINY)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    EarlyExitModel(backbone, (3,), "linear", 1000)
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
        EarlyExitModel(backbone, exits, "linear", 1000)


@pytest.mark.parametrize("exits", [(1, 2), (2, 1, 3), (1, 1, 3), (0, 3), (1, 4), (3, 4)], ids=str)
def test_exits_that_do_not_ascend_to_the_depth_are_refused(exits: tuple[int, ...], refused):
    with refused(list(exits), "3 blocks", "end with 3"):
        EarlyExitModel(timm.create_model("vit_tiny_patch16_224", **TINY), exits, "linear", 10)
