"""The zoo as .tflite files, for the benchmark's LiteRT peer: the same torch modules with the same weights, another converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .export import TorchModel
from .packages import CACHE, cached
from .zoo import ZOO

SAMPLES = 8


class NoConversion(Exception):
    """Why there is no .tflite of a model."""


def tflite(name: str) -> Path:
    """`~/.cache/burnish/zoo/<name>.tflite`, made at first use with litert-torch (extra `[bench]`).

    Its inputs stand in the order of the ONNX file's, integers as int32. Raises NoConversion.
    """
    return cached(CACHE / "zoo" / f"{name}.tflite", ZOO[name].recipe, lambda path: _convert(name, path))


def tflite_int8(name: str) -> Path:
    """The same with weights and activations in int8, inputs and outputs in float32, as LiteRT.js has no tensors of int8: by
    ai-edge-quantizer (extra `[bench]`) and the ranges of random samples, for models of random weights. Raises NoConversion."""
    source = tflite(name)
    return cached(CACHE / "zoo" / f"{name}_int8.tflite", ZOO[name].recipe, lambda path: _quantize(name, source, path))


def _quantize(name: str, source: Path, path: Path) -> None:
    try:
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as e:
        raise NoConversion(f"{e.name} is not installed") from None
    (key, signature), = Interpreter(str(source)).get_signature_list().items()
    made = quantizer.Quantizer(str(source))
    ends: list[dict[str, object]] = [
        {"regex": ".*", "operation": end, "algorithm_key": "no_quantize", "op_config": {}} for end in ("INPUT", "OUTPUT")]
    made.load_quantization_recipe([*recipe.static_wi8_ai8(), *ends])
    rng = np.random.default_rng(0)
    shapes = ZOO[name].inputs.values()
    samples = [{n: rng.random(s, np.float32) for n, s in zip(signature["inputs"], shapes, strict=True)} for _ in range(SAMPLES)]
    made.quantize(made.calibrate({key: samples})).export_model(str(path), overwrite=True)


def _convert(name: str, path: Path) -> None:
    model = ZOO[name].make()
    if not isinstance(model, TorchModel):
        raise NoConversion("it is not made from a torch module")
    try:
        import litert_torch
    except ImportError:
        raise NoConversion("litert-torch is not installed") from None
    litert_torch.convert(model.module, tuple(model.inputs.values())).export(str(path))
