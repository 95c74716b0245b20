"""What an interrupted training or recovery needs to go on to the same outcome. Needs torch."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from search.files import replacing


@dataclass(frozen=True)
class TrainingState:
    """A file with a model, its optimizer's moments, and how far they are.

    Attributes:
        path: a safetensors file, or None to keep nothing.
        key: digest of what the outcome depends on; a state of another key is not taken up.
    """

    path: Path | None
    key: str

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Take the state up; returns how much is done, 0 where there is none to take.

        Moments of parameters that the optimizer does not move are left where they are.
        """
        found = self._read()
        if found is None:
            return 0
        header, tensors = found
        moved = {id(one) for group in optimizer.param_groups for one in group["params"]}
        with torch.no_grad():
            # Buffers as well: a normalization's running figures decide the ranges.
            for name, value in model.state_dict().items():
                value.copy_(tensors[f"model.{name}"])
            for name, parameter in model.named_parameters():
                if id(parameter) in moved and f"first.{name}" in tensors:
                    optimizer.state[parameter] = {
                        "step": torch.tensor(float(header["updates"])),
                        "exp_avg": tensors[f"first.{name}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"second.{name}"].to(parameter.device),
                    }
        return header["done"]

    def store(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int, updates: int
    ) -> None:
        """Write the state in one atomic step.

        Args:
            model, optimizer: as they are.
            done: how much is done, in whatever is counted; nothing is written for 0.
            updates: how often the optimizer has moved the parameters.
        """
        if self.path is None or not done:
            return
        header = json.dumps({"key": self.key, "done": done, "updates": updates}).encode()
        tensors = {"header": torch.tensor(list(header), dtype=torch.uint8)}
        for name, value in model.state_dict().items():
            tensors[f"model.{name}"] = value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters():
            if kept := optimizer.state.get(parameter):
                tensors[f"first.{name}"] = kept["exp_avg"].cpu().contiguous()
                tensors[f"second.{name}"] = kept["exp_avg_sq"].cpu().contiguous()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as partial:
            save_file(tensors, partial)

    def remove(self) -> None:
        """Forget the state."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _read(self) -> tuple[dict[str, int], dict[str, Tensor]] | None:
        """Header and tensors of a state with our key; None where it is damaged or another's."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            tensors = load_file(self.path)
            header = json.loads(bytes(tensors.pop("header").tolist()))
            if header["key"] != self.key:
                return None
            return {name: int(header[name]) for name in ("done", "updates")}, tensors
        except (SafetensorError, KeyError, TypeError, ValueError):
            return None
