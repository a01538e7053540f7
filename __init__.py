"""burnish compiles a trained ONNX model into a small, self-contained, tuned library.

    import burnish
    burnish.compile("model.onnx", "out")        # a folder: library, weights, header, example
    model = burnish.load("out")
    y = model(x)
"""

from .compiler.api import Artifact, compile, load
from .compiler.errors import BurnishError, Refused
from .targets.cpu.loader import Model

__all__ = ["Artifact", "BurnishError", "Model", "Refused", "compile", "load"]
