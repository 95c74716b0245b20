"""A Vision Transformer with exits: every head's answer, or a true early stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from search.cost import Kind, Ledger, Op, Part
from search.models.backbones.base import Backbone, Features, adapt
from search.models.counted import Counted, MatMul, counted_modules
from search.models.heads import resolve_head

Read = Callable[[int, Tensor], None]
"""Takes an exit's index (0-based) and its raw outputs ``[B, ...]``."""
See = Callable[[int, Tensor], None]
"""Takes a block (1-based) and the state that leaves it."""


def all_exits(run: Callable[[Tensor, Read], None], images: Tensor) -> Tensor:
    """Raw outputs of all exits at once ``[B, E, ...]``, where ``run`` hands over one by one."""
    outputs: list[Tensor] = []
    run(images, lambda _, output: outputs.append(output))
    return torch.stack(outputs, dim=1)


class EarlyExitModel(nn.Module):
    """A timm backbone with an exit head after chosen blocks.

    The last exit always follows the last block and is the backbone's own norm, pool and head, so a
    pretrained model keeps its accuracy at full depth.

    Args:
        backbone: a timm model that :func:`search.models.backbones.base.adapt` knows.
        exit_blocks: ascending block numbers (1-based) that an exit follows; the last is the depth.
        head: name of the head used at every exit but the last.
        classes: number of classes.

    Raises:
        BadInput: for a backbone without an adapter, exits that it cannot have, an unknown head.
    """

    def __init__(
        self, backbone: nn.Module, exit_blocks: Sequence[int], head: str, classes: int
    ) -> None:
        super().__init__()
        adapter = adapt(backbone)
        adapter.attach(exit_blocks)
        self.backbone = backbone
        self.exit_blocks = tuple(exit_blocks)
        factory = resolve_head(head)
        self.heads = nn.ModuleDict(
            {str(block): factory(adapter.shape(block), classes) for block in self.exit_blocks[:-1]}
        )
        for _ in counted_modules(self):
            pass  # refuses what could not be counted
        # Kept out of the module tree: the adapter holds the backbone, which is registered already.
        object.__setattr__(self, "adapter", adapter)

    adapter: Backbone

    def read_exit(self, block: int, state: Tensor) -> Tensor:
        """Raw outputs ``[B, ...]`` of the exit after ``block``."""
        if block == self.exit_blocks[-1]:
            return self.adapter.finish(state)
        logits: Tensor = self.heads[str(block)](Features(self.adapter, block, state))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Run every exit: images ``[B, C, H, W]`` to raw outputs ``[B, E, ...]``."""
        return all_exits(self.read_exits, images)

    def read_exits(self, images: Tensor, read: Read, see: See = lambda block, state: None) -> None:
        """Run one exit after the other and keep none.

        Args:
            images: ``[B, C, H, W]``.
            read: receives every exit's raw outputs, before the next block runs.
            see: receives the state that leaves every block.
        """
        state = self.adapter.embed(images)
        for block in range(1, self.adapter.num_blocks + 1):
            state = self.adapter.run_block(block, state)
            see(block, state)
            if block in self.exit_blocks:
                read(self.exit_blocks.index(block), self.read_exit(block, state))

    @torch.inference_mode()
    def stop_early(
        self,
        images: Tensor,
        thresholds: Sequence[float],
        confidence: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Really stop each sample at the first exit whose confidence reaches its threshold.

        Samples that have left are taken out of the batch, so deeper blocks never see them.

        Args:
            images: ``[B, C, H, W]``.
            thresholds: one per exit; the last is not consulted.
            confidence: maps raw outputs ``[n, ...]`` to confidences ``[n]`` in [0, 1].

        Returns:
            exit index of each sample ``[B]`` (0-based) and its raw outputs there ``[B, ...]``.
        """
        remaining = np.arange(len(images))
        taken = np.full(len(images), len(self.exit_blocks) - 1)
        answers: np.ndarray | None = None
        tokens = self.adapter.embed(images)
        for block in range(1, self.adapter.num_blocks + 1):
            tokens = self.adapter.run_block(block, tokens)
            if block not in self.exit_blocks:
                continue
            exit_index = self.exit_blocks.index(block)
            outputs = self.read_exit(block, tokens).float().cpu().numpy()
            if answers is None:
                answers = np.zeros((len(images), *outputs.shape[1:]), dtype=np.float32)
            answers[remaining] = outputs
            if block == self.exit_blocks[-1]:
                break
            stops = confidence(outputs) >= np.float64(thresholds[exit_index])
            taken[remaining[stops]] = exit_index
            remaining = remaining[~stops]
            if not len(remaining):
                break
            tokens = tokens[torch.from_numpy(~stops).to(tokens.device)]
        assert answers is not None  # there is always a last exit
        return taken, answers

    def ledger(self, image_shape: tuple[int, int, int]) -> Ledger:
        """List every counted operation for one image of shape ``(C, H, W)``.

        The shapes are read off one forward pass, so the count follows whatever the backbone does.
        """
        ops: list[Op] = []
        handles = []

        def watch(name: str, module: Counted) -> None:
            def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                ops.append(self._describe(name, module, inputs, output))

            handles.append(module.register_forward_hook(note))

        for name, module in counted_modules(self):
            watch(name, module)
        was_training = self.training
        self.eval()
        try:
            device = next(self.parameters()).device
            with torch.inference_mode():
                self(torch.zeros(1, *image_shape, device=device))
        finally:
            self.train(was_training)
            for handle in handles:
                handle.remove()
        return Ledger(tuple(ops), self.exit_blocks)

    def _describe(
        self, name: str, module: Counted, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Op:
        part: Part
        if name.startswith("heads."):
            short, part, block = name, "head", int(name.split(".")[1])
        else:
            short = name.removeprefix("backbone.")
            part, block = self.adapter.place(short)
        if isinstance(module, MatMul):
            macs = output.numel() * inputs[0].shape[-1]
            return Op(short, "matmul", part, block, macs, short.rpartition(".")[0])
        kind: Kind = "linear" if isinstance(module, nn.Linear) else "conv"
        fan_in = module.weight[0].numel()
        return Op(
            short, kind, part, block, output.numel() * fan_in, short, module.weight.numel()
        )  # fmt: skip
