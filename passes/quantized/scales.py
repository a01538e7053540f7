"""Scale and zero point: what QuantizeLinear and DequantizeLinear say of the bytes on their integer side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, maker, op, shape

BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True, eq=False)
class Scale:
    """value = (byte - zero) scale. scale: float32 and zero: of the bytes' dtype, both [] (per tensor) or [n] along `axis`."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 1

    @classmethod
    def of(cls, node: ir.Node) -> Scale | None:
        """That of a QuantizeLinear or DequantizeLinear of float32 and bytes with constant parameters; None for any other (blocked
        ones, too)."""
        quantizes = node.op_type == "QuantizeLinear"
        scale = constant(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else None
        side = node.outputs[0] if quantizes else node.inputs[0]
        dtype = side.dtype if side is not None and side.dtype is not None else given.dtype if given is not None else None
        zero = constant(given) if given is not None else np.zeros_like(scale, np.uint8) if scale is not None else None
        if given is None and dtype is not None and zero is not None:
            zero = zero.astype(dtype.numpy())
        if scale is None or zero is None or scale.dtype != np.float32 or dtype not in BYTES or attr(node, "block_size", 0):
            return None
        if not (np.isfinite(scale) & (scale > 0)).all() or zero.dtype != dtype.numpy() or zero.size != scale.size:
            return None
        if scale.size == 1:
            return cls(scale.reshape(()), zero.reshape(()))
        return cls(scale, zero, attr(node, "axis", 1))

    @property
    def per_tensor(self) -> bool:
        return self.scale.ndim == 0

    def same(self, other: Scale) -> bool:
        """Do equal bytes say equal values, per tensor?"""
        return bool(self.per_tensor and other.per_tensor and self.zero.dtype == other.zero.dtype
                    and self.scale == other.scale and self.zero == other.zero)

    def quantize(self, x: float) -> int:
        """The byte of a number, per tensor; of NaN the zero point."""
        info = np.iinfo(self.zero.dtype)
        steps = np.clip(np.nan_to_num(np.round(np.float64(x) / np.float64(self.scale))), -1e9, 1e9)
        return int(np.clip(steps + int(self.zero), info.min, info.max))


def dequantized(value: ir.Value | None) -> tuple[ir.Value, Scale] | None:
    """(bytes, their scale) of a value that a DequantizeLinear makes; else None."""
    node = maker(value, "DequantizeLinear")
    scale = Scale.of(node) if node is not None else None
    return (node.inputs[0], scale) if node is not None and scale is not None and node.inputs[0] is not None else None


def quantize(x: ir.Value, scale: Scale, model: ir.Model, name: str) -> ir.Node:
    return _linear("QuantizeLinear", x, scale, model, name, ir.DataType.from_numpy(scale.zero.dtype))


def dequantize(x: ir.Value, scale: Scale, model: ir.Model, name: str) -> ir.Node:
    return _linear("DequantizeLinear", x, scale, model, name, ir.DataType.FLOAT)


def _linear(kind: str, x: ir.Value, scale: Scale, model: ir.Model, name: str, dtype: ir.DataType) -> ir.Node:
    parameters = [initializer(model, scale.scale, f"{name}_scale"), initializer(model, scale.zero, f"{name}_zero")]
    node = op(kind, [x, *parameters], x, name=name, axis=None if scale.per_tensor else scale.axis)
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def bytes_like(values: Iterator[ir.Value | None]) -> bool:
    """Are all of them bytes of a known shape?"""
    return all(v is not None and v.dtype in BYTES and shape(v) is not None for v in values)
