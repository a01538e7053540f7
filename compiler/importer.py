"""minimal"""
from pathlib import Path

import onnx_ir as ir


def load(path, shapes=None):
    m = ir.load(str(Path(path).resolve()))
    return m
