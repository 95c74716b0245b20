"""Image stems that turn pixels into tokens: a registry of timm ``embed_layer`` classes.

A convolutional stem learns small images much faster than one bare patch projection (Xiao et al.,
"Early Convolutions Help Transformers See Better", arXiv 2106.14881).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from search.errors import BadInput
from search.registry import Registry


class ConvStem(nn.Module):
    """Strided 3x3 convolutions down to the patch grid, then a 1x1 projection.

    Each stage halves the resolution; the widths double up to half of ``embed_dim``.

    Args:
        img_size: side of the square input in pixels.
        patch_size: pixels per token side; a power of two that divides ``img_size``.
        in_chans: input channels.
        embed_dim: width D of the tokens.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        stages = patch_size.bit_length() - 1
        if patch_size != 1 << stages or stages < 1 or img_size % patch_size:
            raise BadInput(
                f"a conv stem cannot make {patch_size}-pixel patches of a {img_size}-pixel image: "
                "the patch must be a power of two from 2 up that divides the image"
            )
        factory = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        width = in_chans
        for stage in range(stages):
            out = embed_dim >> (stages - stage)
            layers += [
                nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False, **factory),
                nn.BatchNorm2d(out, **factory),
                nn.ReLU(),
            ]
            width = out
        self.stages = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, embed_dim, 1, bias=bias, **factory)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to tokens ``[B, N, D]``."""
        tokens: Tensor = self.proj(self.stages(images)).flatten(2).transpose(1, 2)
        return tokens


STEMS = Registry(
    "stem",
    "exitbits.stems",
    {"patch": "timm.layers.patch_embed:PatchEmbed", "conv": "search.models.stems:ConvStem"},
)


def resolve_stem(name: str) -> type[nn.Module]:
    """Return the ``embed_layer`` class called ``name``."""
    stem: type[nn.Module] = STEMS.resolve(name)
    return stem
