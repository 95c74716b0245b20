"""The torch half of the made-up task of several labels a sample."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from made_tasks import Labels
from torch import Tensor


class TorchLabels:
    """Heads give a logit a class ``[B, classes]``; targets are 0 or 1 a class."""

    def reduce(self, outputs: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = outputs.float().cpu().numpy()
        return Labels().confidence(logits), Labels().statistic(logits, targets)

    def exit_losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        wanted = targets[:, None].float().expand_as(outputs)
        wanted = wanted * (1 - label_smoothing) + label_smoothing / 2
        each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        return each.mean(dim=(0, 2))

    def divergence(self, expected: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
        """Of both outcomes of every label, summed over labels."""
        expected, found = expected / temperature, found / temperature
        yes = expected.sigmoid() * (F.logsigmoid(expected) - F.logsigmoid(found))
        no = (-expected).sigmoid() * (F.logsigmoid(-expected) - F.logsigmoid(-found))
        return (yes + no).sum(dim=-1)
