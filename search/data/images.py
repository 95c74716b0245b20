"""Reading one image file, whoever wrote it: known formats only, regular files only, upright, RGB.

Raise :data:`READING` whenever the same file may give other pixels: splits are named by it.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from search.errors import BadInput
from search.models.card import InputSpec

READING = 2

# Pillow knows many more, some of which start other programs (EPS) or are hardly tested.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff",
     ".ppm", ".pgm", ".pbm", ".pnm"}
)  # fmt: skip
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".eps", ".psd", ".ico", ".tga",
     ".dng", ".cr2", ".nef", ".arw", ".raw", ".exr", ".hdr", ".dcm"}
)  # fmt: skip

# Pillow warns of images within its limit and of metadata that are not needed; what cannot be read
# is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(ValueError):
    """An image file that cannot be used; the message is the reason alone."""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        UnreadableImage: for anything else; a pipe is never waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnreadableImage("no regular file")
            return file.read()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error


def decode(content: bytes) -> Image.Image:
    """An image file's pixels, upright, as RGB.

    16-bit grey is scaled to 8 bits, transparent places are white, of several frames the first
    counts.

    Raises:
        UnreadableImage: for another format, damage, more pixels than Pillow allows, or pixels
            whose range nobody can know (32-bit and floating-point ones).
    """
    if not content:
        raise UnreadableImage("an empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as raw:
            raw.load()
            image = _upright(raw)
            if image.mode == "F" or (image.mode == "I" and raw.format not in ("PPM", "PNG")):
                raise UnreadableImage(
                    "32-bit or floating-point pixels, whose range is not known: convert it to 8 or "
                    "16 bits"
                )
            if image.mode.startswith("I"):
                # 16-bit grey: Pillow would cut it off at 255 instead of scaling it.
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image).convert("RGB")
            return image.convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:
        # A decoder that reads whatever strangers wrote can end in any error.
        raise UnreadableImage(_reason(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say, where those can be read."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # damaged metadata beside whole pixels
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return f"more than {limit} million pixels: make it smaller"
    if isinstance(error, UnidentifiedImageError):
        return f"no image of the formats {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__


def open_image(path: Path, channels: int) -> Image.Image:
    """Read an image file as grey (one channel) or RGB.

    Raises:
        BadInput: naming the file that cannot be read, and why.
    """
    try:
        return decode(read_bytes(path)).convert("L" if channels == 1 else "RGB")
    except UnreadableImage as error:
        raise BadInput(
            f"cannot read image {str(path)!r} ({error}): remove or replace it"
        ) from error


def resampling_of(spec: InputSpec) -> Image.Resampling:
    """How images are resized for a model."""
    return {
        "bilinear": Image.Resampling.BILINEAR,
        "nearest": Image.Resampling.NEAREST,
    }.get(spec.interpolation, Image.Resampling.BICUBIC)


def read_image(path: Path, spec: InputSpec) -> np.ndarray:
    """Read an image file as a model is evaluated on it: uint8 ``[H, W, C]``."""
    return fit(open_image(path, spec.size[0]), spec)


def fit(image: Image.Image, spec: InputSpec) -> np.ndarray:
    """Resize the shorter side, crop the centre: uint8 ``[H, W, C]``.

    The shorter side becomes the crop size divided by ``spec.crop_pct``, with the rounding of timm's
    evaluation transform.
    """
    channels, height, width = spec.size
    short = math.floor(max(height, width) / spec.crop_pct)
    if image.width <= image.height:
        size = (short, int(short * image.height / image.width))
    else:
        size = (int(short * image.width / image.height), short)
    image = image.resize(size, resampling_of(spec))
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels.reshape(height, width, channels)
