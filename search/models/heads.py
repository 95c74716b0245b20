"""Exit heads: from the features after a block to the model's answer. A registry by name.

A head sees pooled features and the grid, and never what the backbone's own state looks like.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from search.models.backbones.base import Features, FeatureShape
from search.registry import Registry


class LinearHead(nn.Module):
    """LayerNorm and one linear layer on the pooled features: cheap, and timm's own final head."""

    def __init__(self, shape: FeatureShape, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.fc = nn.Linear(shape.width, outputs)

    def forward(self, features: Features) -> Tensor:
        """Map features to logits ``[B, outputs]``."""
        logits: Tensor = self.fc(self.norm(features.pooled))
        return logits


class MlpHead(nn.Module):
    """A stronger head: the class token and the patch mean together, through one hidden layer.

    At an early block the class token has gathered little, so the patch mean is read beside it.
    """

    def __init__(self, shape: FeatureShape, outputs: int) -> None:
        super().__init__()
        width = shape.width
        self.class_token = shape.class_token
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width * (2 if shape.class_token else 1), width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, features: Features) -> Tensor:
        """Map features to logits ``[B, outputs]``."""
        patches = features.grid.flatten(2).transpose(1, 2)
        pooled = self.norm(patches).mean(dim=1)
        if self.class_token:
            pooled = torch.cat([self.norm(features.pooled), pooled], dim=-1)
        logits: Tensor = self.fc2(self.act(self.fc1(pooled)))
        return logits


HeadFactory = Callable[[FeatureShape, int], nn.Module]

HEADS = Registry(
    "exit head",
    "exitbits.heads",
    {"linear": "search.models.heads:LinearHead", "mlp": "search.models.heads:MlpHead"},
)


def resolve_head(name: str) -> HeadFactory:
    """Return the head factory called ``name``.

    It takes the shape of the features and the number of outputs, and gives a module that is called
    with :class:`~search.models.backbones.base.Features`.

    Raises:
        BadInput: when the name is unknown.
    """
    factory: HeadFactory = HEADS.resolve(name)
    return factory
