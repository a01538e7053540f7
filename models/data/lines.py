"""Lines of text as a text recogniser sees them: words in fonts of this machine or matplotlib's, a little rotated, noisy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT = """total amount due invoice number street order date receipt customer price tax paid change cash card item quantity open
close north river garden market light seven green house paper window summer winter between through thousand"""
HEIGHT, WIDTH = 48, 320


def fonts() -> list[Path]:
    """DejaVu's and Liberation's, of the system or of matplotlib."""
    import matplotlib

    folders = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/truetype/liberation"),
               Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    found = [p for folder in folders for p in sorted(folder.glob("*.ttf"))
             if p.stem.startswith(("DejaVuSans", "DejaVuSerif", "Liberation")) and "Display" not in p.stem]
    return list({p.name: p for p in found}.values())


def lines(count: int, seed: int) -> Iterator[np.ndarray]:
    """float32 [1,3,48,320] in -1..1, as PP-OCR's recogniser takes them."""
    rng, faces, words = np.random.default_rng(seed), fonts(), TEXT.split()
    for _ in range(count):
        text = " ".join([*rng.choice(words, rng.integers(1, 4)), *([str(rng.integers(10, 9999))] if rng.random() < 0.4 else [])])
        face = ImageFont.truetype(str(faces[rng.integers(len(faces))]), int(rng.integers(24, 36)))
        low, high = rng.integers(0, 90), rng.integers(160, 256)
        page = Image.new("L", (900, 96), int(high))
        ImageDraw.Draw(page).text((20, 24), text, fill=int(low), font=face)
        page = page.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=int(high))
        ink = Image.fromarray((np.asarray(page) < high - 30).astype(np.uint8))
        box = ink.getbbox() or (0, 0, WIDTH, HEIGHT)
        line = page.crop(box).resize((min(WIDTH, max(1, (box[2] - box[0]) * HEIGHT // max(1, box[3] - box[1]))), HEIGHT),
                                     Image.Resampling.BILINEAR)
        pixels = np.full((HEIGHT, WIDTH), float(high), np.float32)
        pixels[:, :line.width] = np.asarray(line, np.float32)
        pixels += rng.normal(0, rng.uniform(0, 10), pixels.shape)
        yield np.repeat((np.clip(pixels, 0, 255) / 127.5 - 1).astype(np.float32)[None, None], 3, axis=1)
