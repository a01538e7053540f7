"""The zoo: `models.build(name)` gives the ONNX file of any model of `ZOO`; `models.data` loads the data to measure them on."""

from .zoo import ZOO, ZooModel, build

__all__ = ["ZOO", "ZooModel", "build"]
