"""Human judgements of how alike words and documents are, from gensim's test data, and MiniLM's way to an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import minilm
from ..packages import Package, fetch

GENSIM = Package("wheel", "gensim", "4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8")

Encoder = Callable[[dict[str, np.ndarray]], np.ndarray]


def _file(name: str) -> Path:
    return fetch(GENSIM) / "gensim" / "test" / "test_data" / name


def word_pairs() -> list[tuple[str, str, float]]:
    """WordSim353 (Finkelstein et al. 2001): two words and how related 13 people found them, 0..10."""
    lines = (line for line in _file("wordsim353.tsv").read_text().splitlines() if line and not line.startswith("#"))
    return [(a, b, float(score)) for a, b, score in (line.split("\t") for line in lines)]


def lee_documents() -> tuple[list[str], np.ndarray]:
    """50 news summaries (Lee et al. 2005) and the mean judged likeness of each two, float64 [50,50] in 0..1."""
    texts = _file("lee.cor").read_text(encoding="latin1").splitlines()
    return [text for text in texts if text.strip()], np.loadtxt(_file("similarities0-1.txt"))


def embeddings(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts,384] of unit length: `encoder` on the padded tokens of one text at a time, the mean over its true tokens.

    `encoder` maps input_ids, attention_mask and token_type_ids (int64 [1,128]) to hidden states [1,128,384].
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(fetch(minilm.PACKAGE) / minilm.FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(minilm.TOKENS)
    tokenizer.enable_padding(length=minilm.TOKENS)
    vectors = {}
    for text in set(texts):
        tokens = tokenizer.encode(text)
        inputs = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
        hidden = encoder({name: np.asarray([row], np.int64) for name, row in inputs.items()})
        mask = np.asarray(tokens.attention_mask, np.float32)
        vector = mask @ hidden[0] / mask.sum()
        vectors[text] = vector / np.linalg.norm(vector)
    return np.stack([vectors[text] for text in texts])
