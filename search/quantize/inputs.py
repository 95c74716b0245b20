"""What enters every linear layer, sampled over calibration images. Needs torch.

A histogram forgets how channels go together; weights that are fitted to a layer's inputs need
their second moments, and those of the inputs as codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.models.counted import counted_modules
from search.quantize.calibration import Batches
from search.quantize.qparams import ActivationQParams

ROWS = 2**15  # of one layer, where memory allows
ROWS_A_CHANNEL = 4  # and at least so many, or moments would be those of the sample alone
LIMIT_BYTES = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class InputMoments:
    """Second moments of a layer's inputs x and of the same as codes, x^.

    Attributes:
        coded: E[x^ x^T], float64 ``[K, K]``.
        crossed: E[x x^T] with the codes on the right, float64 ``[K, K]``.
    """

    coded: Tensor
    crossed: Tensor


def moments_of(rows: Tensor, qparams: ActivationQParams | None) -> InputMoments:
    """The moments of sampled inputs ``[R, K]`` under quantization parameters, None for none."""
    plain = rows.double()
    coded = plain if qparams is None else qparams.quantized(rows).double()
    return InputMoments(coded.T @ coded / len(rows), plain.T @ coded / len(rows))


@torch.inference_mode()
def sample_inputs(model: nn.Module, batches: Batches, images: int) -> dict[str, Tensor]:
    """Rows ``[R, K]`` that enter every linear layer of a full-precision model.

    Of every image as many tokens, evenly spaced, and of the next image others.

    Args:
        model: in evaluation mode.
        batches: gives the normalized calibration images ``[B, C, H, W]``.
        images: how many they are.
    """
    layers = dict(_linear_layers(model))
    widest = max((layer.in_features for layer in layers.values()), default=1)
    row_bytes = 4 * sum(layer.in_features for layer in layers.values())
    rows = max(ROWS_A_CHANNEL * widest, min(ROWS, LIMIT_BYTES // max(1, row_bytes)))
    an_image = max(1, -(-rows // images))
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    seen = 0

    def take(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].float()
            tokens = value.reshape(len(value), -1, value.shape[-1])
            found[name].append(_spaced(tokens, an_image, seen))

        return hook

    handles = [layer.register_forward_pre_hook(take(name)) for name, layer in layers.items()]
    try:
        for batch in batches():
            model(batch)
            seen += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _spaced(tokens: Tensor, count: int, first: int) -> Tensor:
    """``count`` tokens of every image of ``[B, N, K]``; ``first`` is the number of the first."""
    images, available, _ = tokens.shape
    if count >= available:
        return tokens.flatten(0, 1).clone()
    steps = torch.arange(count, device=tokens.device) * available // count
    starts = torch.arange(first, first + images, device=tokens.device)
    chosen = (starts[:, None] + steps) % available
    return tokens[torch.arange(images, device=tokens.device)[:, None], chosen].flatten(0, 1)


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in counted_modules(model):
        if isinstance(module, nn.Linear):
            yield name, module
