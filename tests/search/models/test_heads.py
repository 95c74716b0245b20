"""Exit heads against their formulas on the tokens of a real backbone, of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F

from search.models.backbones.base import Features, adapt
from search.models.early_exit import EarlyExitModel
from search.models.heads import resolve_head

WIDTH, CLASSES, PREFIX = 24, 5, 3

FeaturesOf = Callable[[torch.Tensor], Features]


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(4, PREFIX + 9, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[True, False], ids=["class-token", "no-class-token"])
def has_class_token(request: pytest.FixtureRequest) -> bool:
    flag: bool = request.param
    return flag


@pytest.fixture
def features_of(has_class_token: bool) -> FeaturesOf:
    """How heads see tokens of three prefix tokens and a grid of 3x3."""
    backbone = timm.create_model(
        "vit_tiny_patch16_224", img_size=24, patch_size=8, embed_dim=WIDTH, num_heads=2, depth=1,
        class_token=has_class_token, global_pool="avg", reg_tokens=PREFIX - has_class_token,
    )  # fmt: skip
    adapter = adapt(backbone)
    return lambda tokens: Features(adapter, 1, tokens)


def new_head(name: str, features_of: FeaturesOf) -> torch.nn.Module:
    torch.manual_seed(0)
    head = resolve_head(name)(features_of(torch.empty(0)).backbone.shape(1), CLASSES)
    for parameter in head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return head


def test_linear_head_is_norm_and_linear_of_the_pooled_tokens(tokens, has_class_token, features_of):
    head = new_head("linear", features_of)
    pooled = tokens[:, 0] if has_class_token else tokens[:, PREFIX:].mean(1)
    normed = F.layer_norm(pooled, (WIDTH,), head.norm.weight, head.norm.bias)
    expected = F.linear(normed, head.fc.weight, head.fc.bias)
    assert expected.shape == (4, CLASSES)
    assert torch.equal(head(features_of(tokens)), expected)


def test_mlp_head_reads_class_token_and_patch_mean_through_one_hidden_layer(
    tokens, has_class_token, features_of
):
    head = new_head("mlp", features_of)
    normed = F.layer_norm(tokens, (WIDTH,), head.norm.weight, head.norm.bias)
    pooled = normed[:, PREFIX:].mean(1)
    if has_class_token:
        pooled = torch.cat([normed[:, 0], pooled], dim=1)
    hidden = F.gelu(F.linear(pooled, head.fc1.weight, head.fc1.bias))
    expected = F.linear(hidden, head.fc2.weight, head.fc2.bias)
    assert torch.equal(head(features_of(tokens)), expected)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_only_the_class_token_among_the_prefix_tokens_is_read(
    tokens, name, has_class_token, features_of
):
    head = new_head(name, features_of)
    answers = head(features_of(tokens))
    registers, class_token = tokens.clone(), tokens.clone()
    registers[:, int(has_class_token) : PREFIX] += 1
    class_token[:, 0] += torch.arange(WIDTH) % 3
    assert torch.equal(head(features_of(registers)), answers)
    assert torch.equal(head(features_of(class_token)), answers) != has_class_token


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("linear", ["norm.weight", "norm.bias", "fc.weight", "fc.bias"]),
        ("mlp", ["norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]),
    ],
)
def test_parameters_keep_the_names_that_checkpoints_have(name: str, parameters: list[str]):
    backbone = timm.create_model("vit_tiny_patch16_224", embed_dim=24, num_heads=2, depth=2)
    names = [*EarlyExitModel(backbone, (1, 2), name, 10).state_dict()]
    assert [one for one in names if one.startswith("heads.")] == [
        f"heads.1.{parameter}" for parameter in parameters
    ]


def test_an_unknown_head_is_refused(refused):
    with refused("exit head 'deep'", "linear, mlp"):
        resolve_head("deep")
