"""Exit heads against their formulas, with and without a class token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from search.models.heads import resolve_head

WIDTH, CLASSES, PREFIX = 24, 5, 3


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(4, PREFIX + 9, WIDTH, generator=torch.Generator().manual_seed(1))


def new_head(name: str, has_class_token: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    head = resolve_head(name)(WIDTH, CLASSES, PREFIX, has_class_token)
    for parameter in head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return head


@pytest.mark.parametrize("has_class_token", [True, False])
def test_linear_head_is_norm_and_linear_of_the_pooled_tokens(tokens, has_class_token: bool):
    head = new_head("linear", has_class_token)
    pooled = tokens[:, 0] if has_class_token else tokens[:, PREFIX:].mean(1)
    normed = F.layer_norm(pooled, (WIDTH,), head.norm.weight, head.norm.bias)
    expected = normed @ head.fc.weight.T + head.fc.bias
    assert head(tokens).shape == (4, CLASSES)
    torch.testing.assert_close(head(tokens), expected)


@pytest.mark.parametrize("has_class_token", [True, False])
def test_mlp_head_reads_class_token_and_patch_mean_through_one_hidden_layer(
    tokens, has_class_token: bool
):
    head = new_head("mlp", has_class_token)
    normed = F.layer_norm(tokens, (WIDTH,), head.norm.weight, head.norm.bias)
    pooled = normed[:, PREFIX:].mean(1)
    if has_class_token:
        pooled = torch.cat([normed[:, 0], pooled], dim=1)
    hidden = F.gelu(pooled @ head.fc1.weight.T + head.fc1.bias)
    torch.testing.assert_close(head(tokens), hidden @ head.fc2.weight.T + head.fc2.bias)


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("has_class_token", [True, False])
def test_only_the_class_token_among_the_prefix_tokens_is_read(tokens, name, has_class_token):
    head = new_head(name, has_class_token)
    answers = head(tokens)
    registers, class_token = tokens.clone(), tokens.clone()
    registers[:, 1:PREFIX] += 1
    class_token[:, 0] += torch.arange(WIDTH) % 3
    assert torch.equal(head(registers), answers)
    assert torch.equal(head(class_token), answers) != has_class_token


def test_an_unknown_head_is_refused(refused):
    with refused("exit head 'deep'", "linear, mlp"):
        resolve_head("deep")
