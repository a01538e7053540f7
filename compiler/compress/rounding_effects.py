"""What rounding does to a layer's output, measured where the layer stands: each layer has a twin in a copy of the model, with
rounded input and weights and the float model's values for input. Only sums leave onnxruntime: one pass over the data is enough
for all layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...passes.base import initializer, op, shape
from ...passes.compress.layers import Layer
from ...passes.compress.quantize import Scale, rounding_of
from ..driver import Progress, silent
from .calibration import Calibration, observe
from .calibrators import Grid


@dataclass(frozen=True)
class Trial:
    """matrix: [groups, k, n], the rounded weights; grid: that of the input; None where it stays float."""

    layer: Layer
    matrix: np.ndarray
    grid: Grid | None


@dataclass(frozen=True)
class Effect:
    """error: |y - y'| / |y| over all samples; shift: float32 [output channels], the mean of y' - y."""

    error: float
    shift: np.ndarray


@dataclass
class _Sum:
    total: np.ndarray | float = 0.0
    count: int = 0

    def update(self, array: np.ndarray) -> None:
        self.total, self.count = self.total + np.asarray(array, np.float64), self.count + 1


def measure(model: ir.Model, trials: Sequence[Trial], data: Calibration, progress: Progress = silent) -> dict[str, Effect]:
    """By the layers' names. Raises OracleError where onnxruntime cannot run the model."""
    copy = model.clone()
    nodes = {n.name: n for n in copy.graph}
    twins = {t.layer.name: _Twin.of(copy, Layer(nodes[t.layer.name]), t) for t in trials}
    sums = {name: _Sum() for twin in twins.values() for name in (twin.shift, twin.noise, twin.signal)}
    observe(copy, sums, data, "measure rounding", progress)
    found = {}
    for name, twin in twins.items():
        noise, signal = (float(np.asarray(sums[n].total).sum()) for n in (twin.noise, twin.signal))
        mean = np.asarray(sums[twin.shift].total).ravel() / max(1, sums[twin.shift].count)
        found[name] = Effect(math.sqrt(noise / signal) if signal > 0 else 0.0, mean.astype(np.float32))
    return found


@dataclass(frozen=True)
class _Twin:
    """Names of values: the mean of y' - y for each output channel, the sums of squares of y' - y and of y."""

    shift: str
    noise: str
    signal: str

    @classmethod
    def of(cls, model: ir.Model, layer: Layer, trial: Trial) -> _Twin:
        node, out, name = layer.node, layer.output, f"{layer.name}_twin"
        dims = shape(out) or ()
        grid, new, x = trial.grid, list[ir.Node](), layer.input
        if grid is not None:
            new = rounding_of(model, x, Scale.of(model, name, grid.scale, grid.zero, grid.top), name)
            x = new[-1].outputs[0]
        weight = initializer(model, layer.as_weight(trial.matrix).astype(np.float32), f"{name}_weight")
        inputs = [x, weight, *node.inputs[2:]]

        def add(made: ir.Node) -> ir.Value:
            new.append(made)
            return made.outputs[0]
        twin = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=name,
                       outputs=[ir.Value(name=name, type=out.type, shape=out.shape)])
        change = add(op("Sub", [add(twin), out], out, name=f"{name}_change"))
        axis = 1 if layer.is_conv else len(dims) - 1
        others = [a for a in range(len(dims)) if a != axis]
        axes = initializer(model, np.array(others, np.int64), f"{name}_axes")
        ends = [add(op("ReduceMean", [change, axes], out, name=f"{name}_shift", keepdims=0, shape=[dims[axis]])),
                add(op("ReduceSumSquare", [change], out, name=f"{name}_noise", keepdims=0, shape=[])),
                add(op("ReduceSumSquare", [out], out, name=f"{name}_signal", keepdims=0, shape=[]))]
        model.graph.insert_after(node, new)
        return cls(*(str(v.name) for v in ends))
