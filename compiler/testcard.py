"""A synthetic picture as sample input for image models: a gradient, two shapes, two lines of text, and a little noise.

White noise drives detectors and segmenters to outputs of 1e-7, of which nothing can be learned; a picture makes them answer.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 16       # pixels: below that a picture shows nothing


def is_image(shape: tuple[int, ...], dtype: str) -> bool:
    """Does [N,C,H,W] or [N,H,W,C] of floats with 1 or 3 channels look like images?"""
    return (dtype.startswith("float") and len(shape) == 4 and shape[0] > 0 and (
        (shape[1] in (1, 3) and min(shape[2:]) >= SMALLEST) or (shape[3] in (1, 3) and min(shape[1:3]) >= SMALLEST)))


def picture(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Float64 in about -1..1, of a `shape` that looks like images."""
    first = shape[1] in (1, 3)
    n, c, h, w = shape if first else (shape[0], shape[3], shape[1], shape[2])
    pixels = np.stack([test_card(h, w)] * n) + rng.normal(0, 4, (n, h, w, 3))
    pixels = pixels if c == 3 else pixels.mean(-1, keepdims=True)
    return (pixels.transpose(0, 3, 1, 2) if first else pixels) / 127.5 - 1


def test_card(height: int, width: int) -> np.ndarray:
    """[height, width, 3] in 0..255."""
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    image = Image.fromarray((170 + 76 * np.stack([x, y, 1 - x], -1)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([width * 0.55, height * 0.5, width * 0.95, height * 0.9], fill=(200, 60, 40))
    draw.rectangle([width * 0.1, height * 0.6, width * 0.4, height * 0.9], fill=(30, 80, 180))
    font = ImageFont.load_default(size=max(8, min(height, width) // 8))
    for n, line in enumerate(("burnish 0123", "test card")):
        draw.text((width * 0.05, height * (0.06 + 0.22 * n)), line, fill=(10, 10, 10), font=font)
    return np.asarray(image, np.float64)
