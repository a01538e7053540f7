"""burnish compiles a trained ONNX model into a small, self-contained, tuned library.

    import burnish
    burnish.compile("model.onnx", "out")        # a folder: library, weights, header, example
    model = burnish.load("out")
    y = model(x)

    tuned = burnish.tune("model.onnx", budget=60)       # seconds; what it finds is recorded
    burnish.compile("model.onnx", "out", tuned=tuned)   # a later compile finds the records by itself

    burnish.compress("model.onnx", "small.onnx", quantize="int8", calibration_data="pictures/")
    burnish.compile("small.onnx", "out")        # smaller and faster, and `small.json` tells what that cost
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compiler.api import Artifact, compile, load, tune
    from .compiler.compress.api import compress
    from .compiler.compress.compress import Compressed
    from .compiler.errors import BurnishError, Refused
    from .targets.cpu.loader import Model

__all__ = ["Artifact", "BurnishError", "Compressed", "Model", "Refused", "compile", "compress", "load", "tune"]
HOMES = {"Artifact": "compiler.api", "BurnishError": "compiler.errors", "Model": "targets.cpu.loader",
         "Refused": "compiler.errors", "compile": "compiler.api", "load": "compiler.api", "tune": "compiler.api",
         "Compressed": "compiler.compress.compress", "compress": "compiler.compress.api"}


def __getattr__(name: str) -> object:
    """Each name is imported when it is first asked for: the command line's watching process loads nothing of it."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)
