"""One image file of every kind: read as a person sees it, or refused with its reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.data.images import UnreadableImage, decode, open_image, read_bytes

RED = (200, 10, 30)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corner(content: bytes) -> tuple[int, ...]:
    return decode(content).getpixel((0, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF"])
def test_every_format_is_read(kind: str):
    image = decode(saved(Image.new("RGB", (8, 6), RED), kind))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    np.testing.assert_allclose(image.getpixel((4, 3)), RED, atol=8)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_stand_upright(kind: str, orientation: int):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(np.rot90(upright, turns).copy()), kind, exif=exif)
    read = decode(content)
    assert read.size == (32, 16)
    np.testing.assert_allclose(np.asarray(read)[2:6, 2:14], 255, atol=9)
    np.testing.assert_allclose(np.asarray(read)[10:, 18:], 0, atol=9)


def test_damaged_metadata_beside_whole_pixels_do_no_harm():
    content = saved(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_allclose(corner(content), RED, atol=8)


def test_cmyk_is_converted():
    content = saved(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG")
    np.testing.assert_allclose(corner(content), RED, atol=12)


def test_transparent_places_are_white_not_what_hides_below():
    clear = Image.new("RGBA", (4, 4), (*RED, 0))
    assert corner(saved(clear, "PNG")) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    np.testing.assert_allclose(corner(saved(half, "PNG")), 127, atol=1)
    assert corner(saved(Image.new("LA", (4, 4), (9, 0)), "PNG")) == (255, 255, 255)
    palette = Image.new("RGB", (4, 4), RED).quantize(4)
    assert corner(saved(palette, "PNG")) == RED
    index = palette.getpixel((0, 0))
    assert corner(saved(palette, "PNG", transparency=index)) == (255, 255, 255)
    assert corner(saved(palette, "GIF", transparency=index)) == (255, 255, 255)


def test_of_several_frames_the_first_counts():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 255, 0))]
    for kind in ("GIF", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(corner(content), RED, atol=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str):
    shades = np.array([[0, 257 * 100, 65535]], np.uint16)
    read = np.asarray(decode(saved(Image.fromarray(shades), kind)))
    assert read[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused_not_black(mode: str):
    with pytest.raises(UnreadableImage, match="32-bit or floating-point pixels"):
        decode(saved(Image.new(mode, (4, 4), 70_000), "TIFF"))


def noise(size: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return saved(Image.fromarray(pixels), "JPEG")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"junk", "no image of the formats JPEG, PNG"),
        (noise()[:1000], "truncated"),
        (EPS, "no image of the formats"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of the formats"),
        (saved(Image.new("RGB", (4, 4)), "ICO"), "no image of the formats"),
    ],
    ids=["empty", "junk", "cut", "eps", "svg", "ico"],
)
def test_what_is_not_read_is_refused_with_its_reason(content: bytes, reason: str):
    with pytest.raises(UnreadableImage, match=reason):
        decode(content)


def test_no_more_pixels_than_pillow_allows(monkeypatch: pytest.MonkeyPatch):
    content = saved(Image.new("L", (50, 50)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert decode(content).size == (50, 50)  # within twice the limit, without a warning
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="million pixels: make it smaller"):
        decode(content)


def test_a_pipe_is_not_waited_for(tmp_path: Path, refused):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="no regular file"):
        read_bytes(tmp_path / "a.jpg")
    with refused("cannot read image", "a.jpg", "no regular file"):
        open_image(tmp_path / "a.jpg", 3)
