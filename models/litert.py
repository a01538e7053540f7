"""The zoo as .tflite files, for the benchmark's LiteRT peer: the same torch modules with the same weights, another converter."""

from __future__ import annotations

from pathlib import Path

from .export import TorchModel
from .packages import CACHE, cached
from .zoo import ZOO


class NoConversion(Exception):
    """Why there is no .tflite of a model."""


def tflite(name: str) -> Path:
    """`~/.cache/burnish/zoo/<name>.tflite`, made at first use with litert-torch (extra `[bench]`).

    Its inputs stand in the order of the ONNX file's, integers as int32. Raises NoConversion.
    """
    return cached(CACHE / "zoo" / f"{name}.tflite", ZOO[name].recipe, lambda path: _convert(name, path))


def _convert(name: str, path: Path) -> None:
    model = ZOO[name].make()
    if not isinstance(model, TorchModel):
        raise NoConversion("it is not made from a torch module")
    try:
        import litert_torch
    except ImportError:
        raise NoConversion("litert-torch is not installed") from None
    litert_torch.convert(model.module, tuple(model.inputs.values())).export(str(path))
