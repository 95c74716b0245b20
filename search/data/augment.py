"""Training images, changed a little each time they are seen. The same seed gives the same pixels.

``light`` suits a backbone that knows images already, ``strong`` one that begins from noise: its
crops are those of "Going Deeper with Convolutions" (arXiv 1409.4842), as timm's are by default.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from search.data.images import fit, resampling_of
from search.errors import unknown_choice
from search.models.card import InputSpec

ATTEMPTS = 10  # draws of a crop before the whole image is taken


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for an image.

    Attributes:
        area: lowest share of its area that a crop takes, up to 1.
        stretch: most that a crop's sides are stretched against each other, 1 up.
        flip: whether half of the images are mirrored.
        jitter: most that brightness, contrast and saturation change, each way, as a share.
    """

    area: float = 1.0
    stretch: float = 1.0
    flip: bool = False
    jitter: float = 0.0


AUGMENTATIONS = {
    "none": None,
    "light": Augmentation(area=0.6, stretch=1.1, flip=True),
    "strong": Augmentation(area=0.08, stretch=4 / 3, flip=True, jitter=0.4),
}


def resolve_augmentation(name: str) -> Augmentation | None:
    """The augmentation called ``name``; None where images are as in evaluation.

    Raises:
        BadInput: when the name is unknown.
    """
    if name not in AUGMENTATIONS:
        raise unknown_choice("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def augment(
    image: Image.Image, spec: InputSpec, how: Augmentation | None, draw: random.Random
) -> np.ndarray:
    """An image as a model is trained on it: uint8 ``[H, W, C]``."""
    if how is None:
        return fit(image, spec)
    channels, height, width = spec.size
    box = _crop(image, how, width / height, draw)
    image = image.resize((width, height), resampling_of(spec), box=box)
    if how.flip and draw.random() < 0.5:
        image = ImageOps.mirror(image)
    if how.jitter:
        changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        draw.shuffle(changes)
        for change in changes:
            image = change(image).enhance(draw.uniform(1 - how.jitter, 1 + how.jitter))
    return np.asarray(image).reshape(height, width, channels)


def _crop(
    image: Image.Image, how: Augmentation, aspect: float, draw: random.Random
) -> tuple[int, int, int, int]:
    """A random crop of about the model's aspect, or the largest one where none fits."""
    for _ in range(ATTEMPTS):
        area = image.width * image.height * draw.uniform(how.area, 1)
        stretch = math.log(how.stretch)
        ratio = aspect * math.exp(draw.uniform(-stretch, stretch))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
            return left, top, left + width, top + height
    width = min(image.width, max(1, round(image.height * aspect)))
    height = min(image.height, max(1, round(image.width / aspect)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return left, top, left + width, top + height
