"""Classification on raw logits: cross entropy, KL divergence. Needs torch."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from search.tasks.classification import Classification


class TorchClassification:
    """Heads return logits ``[B, classes]``."""

    def reduce(self, outputs: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # By NumPy, so that every device and the plain half give the same digits.
        plain, logits = Classification(), outputs.float().cpu().numpy()
        return plain.confidence(logits), plain.statistic(logits, targets)

    def exit_losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(
            outputs.transpose(1, 2),
            targets[:, None].expand(-1, outputs.shape[1]),
            reduction="none",
            label_smoothing=label_smoothing,
        ).mean(dim=0)

    def divergence(self, expected: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
        """KL(expected || found) of the softened answers."""
        # In logarithms throughout, so that equal answers give exactly 0.
        target = F.log_softmax(expected / temperature, dim=-1)
        answer = F.log_softmax(found / temperature, dim=-1)
        return F.kl_div(answer, target, reduction="none", log_target=True).sum(-1)
