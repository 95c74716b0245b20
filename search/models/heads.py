"""Exit heads: from the tokens after a block to the class scores. A registry by name.

Every head starts from the *pooled* tokens: the class token where the backbone has one, else the
mean of the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from search.registry import Registry


class LinearHead(nn.Module):
    """LayerNorm and one linear layer on the pooled tokens: cheap, and timm's own final head."""

    def __init__(self, width: int, classes: int, prefix_tokens: int, has_class_token: bool) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.has_class_token = has_class_token
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, N, D]`` to logits ``[B, classes]``."""
        if self.has_class_token:
            pooled = tokens[:, 0]
        else:
            pooled = tokens[:, self.prefix_tokens :].mean(dim=1)
        logits: Tensor = self.fc(self.norm(pooled))
        return logits


class MlpHead(nn.Module):
    """A stronger head: the class token and the patch mean together, through one hidden layer.

    At an early block the class token has gathered little, so the patch mean is read beside it.
    """

    def __init__(self, width: int, classes: int, prefix_tokens: int, has_class_token: bool) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.has_class_token = has_class_token
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width * (2 if has_class_token else 1), width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, N, D]`` to logits ``[B, classes]``."""
        normed = self.norm(tokens)
        pooled = normed[:, self.prefix_tokens :].mean(dim=1)
        if self.has_class_token:
            pooled = torch.cat([normed[:, 0], pooled], dim=-1)
        logits: Tensor = self.fc2(self.act(self.fc1(pooled)))
        return logits


HeadFactory = Callable[[int, int, int, bool], nn.Module]

HEADS = Registry(
    "exit head",
    "exitbits.heads",
    {"linear": "search.models.heads:LinearHead", "mlp": "search.models.heads:MlpHead"},
)


def resolve_head(name: str) -> HeadFactory:
    """Return the head factory called ``name``; it takes
    ``(width, classes, prefix_tokens, has_class_token)``."""
    factory: HeadFactory = HEADS.resolve(name)
    return factory
