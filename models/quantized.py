"""Models of the zoo in int8, made by onnxruntime.quantization: what arrives at a compiler from there."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from .packages import CACHE, cached

SAMPLES = 8
TEXT = {"input_ids", "attention_mask", "token_type_ids"}
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scheme:
    """form: of the result; activations, weights: "u8" or "s8" (activations have a zero point of their own); per_channel: a scale
    for each output channel."""

    form: Literal["QDQ", "QOperator"] = "QDQ"
    activations: Literal["u8", "s8"] = "u8"
    weights: Literal["u8", "s8"] = "s8"
    per_channel: bool = True

    def __str__(self) -> str:
        return f"{self.form.lower()}_{self.activations}{self.weights}_{'channel' if self.per_channel else 'tensor'}"


DEFAULT = Scheme()


def make(name: str, scheme: Scheme = DEFAULT) -> Callable[[], Path]:
    """What makes a model of the zoo in int8, in the form that the zoo asks for."""
    return lambda: build(name, scheme)


def build(name: str, scheme: Scheme = DEFAULT) -> Path:
    """`~/.cache/burnish/zoo/<name>_<scheme>.onnx`, statically quantised with the ranges (min, max) of a few samples: pictures or
    lines of text where the weights are trained, random ones where they are random. Raises as `zoo.build`."""
    from .zoo import ZOO

    source = inspect.getsource(sys.modules[__name__])
    recipe = hashlib.sha256(f"{ZOO[name].recipe}{onnxruntime.__version__}{source}".encode()).hexdigest()[:16]
    return cached(CACHE / "zoo" / f"{name}_{scheme}.onnx", recipe, lambda path: quantize(name, scheme, path))


def quantize(name: str, scheme: Scheme, path: Path) -> None:
    """Writes a model of the zoo, quantised."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from .zoo import ZOO
    from .zoo import build as build_float

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    form = QuantFormat.QDQ if scheme.form == "QDQ" else QuantFormat.QOperator
    source = build_float(name)
    with contextlib.redirect_stdout(io.StringIO()):     # it prints types of values that it cannot quantise
        quantize_static(source, path, _Reader(islice(samples(name), SAMPLES)), quant_format=form,
                        activation_type=types[scheme.activations], weight_type=types[scheme.weights],
                        per_channel=scheme.per_channel, **(_products_only(source) if set(ZOO[name].inputs) == TEXT else {}))


def _products_only(path: Path) -> dict[str, Any]:
    """All but the products with weights stays in float: with a mask of -3e38 in eight bits nothing is left of the scores."""
    import onnx

    graph = onnx.load(path).graph
    weights = {t.name for t in graph.initializer}
    computed = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
    return {"op_types_to_quantize": ["MatMul"], "nodes_to_exclude": computed,
            "extra_options": {"OpTypesToExcludeOutputQuantization": ["MatMul"]}}


def samples(name: str) -> Iterator[Feed]:
    """Inputs to take the ranges from."""
    from .zoo import ZOO

    shapes = ZOO[name].inputs
    if name == "efficientnet_lite0":
        from .data import imagenet

        return ({"image": imagenet.preprocess(picture)} for picture, _ in imagenet.labelled())
    if set(shapes) == TEXT:
        return _texts()
    return _pictures(shapes)


def _texts() -> Iterator[Feed]:
    from .data import text

    feeds: list[Feed] = []

    def keep(feed: Feed) -> np.ndarray:
        feeds.append(feed)
        return np.zeros((1, feed["input_ids"].shape[1], 1), np.float32) + np.arange(1, 3, dtype=np.float32)

    documents, _ = text.lee_documents()
    text.embeddings(keep, documents[:SAMPLES])
    return iter(feeds)


def _pictures(shapes: dict[str, tuple[int, ...]]) -> Iterator[Feed]:
    """Smooth random pictures, as `export.image`: bilinear noise of a sixteenth of the size, and a little white noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    while True:
        feed = {}
        for key, (n, c, h, w) in shapes.items():
            coarse = rng.standard_normal((n * c, max(2, h // 16), max(2, w // 16))).astype(np.float32)
            planes = [np.asarray(Image.fromarray(plane).resize((w, h), Image.Resampling.BICUBIC)) for plane in coarse]
            feed[key] = (np.stack(planes).reshape(n, c, h, w) + 0.3 * rng.standard_normal((n, c, h, w))).astype(np.float32)
        yield feed


class _Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)
