"""Which modules are counted by the ledger, watched by calibration and replaced by quantizers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from search.errors import BadInput


class MatMul(nn.Module):
    """The product of two activations, ``left @ right``, without parameters."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right


Counted = nn.Linear | nn.Conv2d | MatMul


def counted_modules(model: nn.Module) -> Iterator[tuple[str, Counted]]:
    """Every counted module by name.

    Raises:
        BadInput: for a layer with weights that would be neither counted nor quantized, such as a
            subclass of a convolution with a forward of its own.
    """
    for name, module in model.named_modules():
        # By exact type: a subclass may compute something else than the layer it derives from.
        if type(module) in (nn.Linear, nn.Conv2d, MatMul):
            yield name, module
        elif isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)):
            raise BadInput(
                f"layer {name!r} of kind {type(module).__name__} can be neither counted nor "
                "quantized: choose a model of plain linear and 2d convolution layers"
            )
