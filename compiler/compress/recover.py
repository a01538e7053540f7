"""Layer after layer, the weights that compression has left are set anew, so that the layer makes of what it now reads what it
made in the float model. No labels are needed.

For a layer by itself the error is a quadratic form in its weights, whose sums are gathered once (hessian.py). So the best values
of remaining weights are a linear system, not an optimisation, and rounding is a sweep through the same matrix (GPTQ). Adaptive
rounding (Nagel et al. 2020) minimises the same form: with 500 steps of Adam, on two matrices of 384x384 of MiniLM, it took a
hundred times as long, and erred by 1.3 to 1.6 times as much (8 and 4 bits; nearest: 1.5 to 1.7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...passes.base import attr, constant, initializer, maker, shape
from ...passes.compress import bias, obs
from ...passes.compress.layers import Layer, layers
from ...passes.compress.prune_units import columns
from ...passes.compress.rounding import INT4, INT8
from ...passes.compress.treatment import GROUP
from ..driver import Progress, silent
from .calibration import Calibration
from .hessian import MEMORY, STAGES, Moments, gather, stages
from .report import LayerReport

HELD = 4        # each HELD-th sample only judges: what fits the others alone is not taken
MOVED = 1.3     # a channel that is so much larger or smaller than it was has been scaled,
ALIKE = 0.99    # and if it is otherwise so much like what it was, by how much is known


@dataclass(frozen=True)
class Coded(Layer):
    """A layer whose weight a DequantizeLinear makes of an int8 constant, with a zero point of 0."""

    @property
    def maker(self) -> ir.Node:
        node = maker(self.node.inputs[1], "DequantizeLinear")
        assert node is not None
        return node

    @property
    def codes(self) -> np.ndarray:
        value = constant(self.maker.inputs[0])
        assert value is not None
        return value

    @property
    def steps(self) -> np.ndarray:
        """What a code of one stands for: float32, in the shape of the codes."""
        scale = constant(self.maker.inputs[1])
        assert scale is not None
        axis, codes = attr(self.maker, "axis", 1), self.codes
        block = attr(self.maker, "block_size", 0)
        if block:
            return np.take(np.repeat(scale, block, axis=axis), range(codes.shape[axis]), axis=axis)
        wide = scale.reshape([-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]) if scale.ndim else scale
        return np.broadcast_to(wide, codes.shape)

    @property
    def weight(self) -> np.ndarray:
        return self.codes * self.steps

    @property
    def grid(self) -> np.ndarray:
        """The steps as a matrix [groups, k, n]."""
        return self.as_matrix(self.steps)

    def replaced(self, model: ir.Model, matrix: np.ndarray) -> Layer:
        codes = np.rint(self.as_weight(matrix) / self.steps).astype(np.int8)
        self.maker.replace_input_with(0, initializer(model, codes, f"{self.name}_codes"))
        return Coded(self.node)


def recover(original: ir.Model, compressed: ir.Model, data: Calibration, progress: Progress = silent, *,
            passes: int = STAGES, group: int = GROUP) -> list[LayerReport]:
    """Changes the layers of `compressed` in place that have a layer of the same name and output in `original`, both in the form
    of `passes.canonicalize`. Weights that are zero stay zero, integers stay integers. New weights are taken only where they bring
    the output nearer to the original's on samples that they were not made from.

    Channels that equalisation has scaled in a quantised model (passes/compress/equalize.py) keep their scale. It can be told from
    an original that is as sparse; from another, layers so scaled are left as they are.

    group: of integer weights, how many output channels share what pruning made zero. Raises OracleError.
    """
    reports = []
    quantized = any(isinstance(x, Coded) for x in recoverable(compressed))
    known = {x.name: x for x in recoverable(original)}
    pairs = [x for x in recoverable(compressed) if x.name in known and shape(x.output) == shape(known[x.name].output)]
    for stage in stages(pairs, passes, MEMORY // 2):
        seen, held = gather(compressed, stage, data, original, HELD, "observe to recover", progress)
        for done, layer in enumerate(stage, 1):
            of, judged = seen[layer.name], held[layer.name]
            factors = _scaling(of, layer) if quantized else np.ones(of.outputs.shape)
            if factors is None:
                size = layer.matrix.nbytes
                why = "its channels are scaled, and differ too much from the original's to tell by how much"
                reports.append(LayerReport(layer.name, "recovery", of.error(layer.matrix), size, size, why))
                continue
            outside = np.zeros(1) if layer.is_conv else bias.read(known[layer.name]) * factors.reshape(-1)
            reports.append(_recovered(compressed, layer, outside, of.scaled(factors), judged.scaled(factors), group))
            progress("recover", done, len(stage))
    return reports


def recoverable(model: ir.Model) -> list[Layer]:
    """The layers with constant weights, float32 or int8, in the order of execution."""
    plain = {layer.node: layer for layer in layers(model)}
    return [plain[n] if n in plain else Coded(n) for n in model.graph if n in plain or _is_coded(n)]


def _is_coded(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in ("Conv", "MatMul") or shape(node.outputs[0]) is None:
        return False
    weight = maker(node.inputs[1], "DequantizeLinear")
    if weight is None or constant(weight.inputs[1]) is None or len(shape(node.inputs[0]) or ()) < 2:
        return False
    codes, zero = constant(weight.inputs[0]), constant(weight.inputs[2]) if len(weight.inputs) > 2 else None
    return codes is not None and codes.dtype == np.int8 and codes.ndim >= 2 and (zero is None or not zero.any())


def _scaling(seen: Moments, layer: Layer) -> np.ndarray | None:
    """What each channel of the layer's output has been multiplied by: [groups,n]; None if that cannot be told."""
    factors, alike = seen.factors(layer.matrix)
    if ((factors > 1 / MOVED) & (factors < MOVED)).all():
        return np.ones(factors.shape)
    return factors if alike.min() > ALIKE else None


def _recovered(model: ir.Model, layer: Layer, outside: np.ndarray, seen: Moments, held: Moments, group: int) -> LayerReport:
    """outside: the original's bias, where it is added behind what the layer makes."""
    before = layer.matrix.astype(np.float64)
    after = before.copy()
    for g, w in enumerate(before):
        h, pull = seen.damped(g), seen.pull(g, w)
        steps = layer.grid[g] if isinstance(layer, Coded) else None
        for kept, some in _patterns(w, group if isinstance(layer, Coded) else 1):
            here, at = h[np.ix_(kept, kept)], np.ix_(kept, some)
            best = w[at] + obs.solve(here, pull[at])
            after[g][at] = best if steps is None else _rounded(best, steps[at], _codes(layer), here)
    was, now = held.error(before), held.error(after)
    taken = now < was
    new = layer.replaced(model, after) if taken else layer
    if seen.centred:
        bias.write(model, new, outside + seen.bias(after if taken else before))
    note = f"was {was:.4f}" if taken else f"weights stay: new ones would err by {now:.4f} on samples they have not seen"
    return LayerReport(layer.name, "recovery", min(was, now), layer.matrix.nbytes, layer.matrix.nbytes, note)


def _patterns(w: np.ndarray, group: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows that are not zero, columns that have just these): indices; a row counts as zero where it is for a whole group."""
    zeros = np.concatenate([np.repeat((w[:, c] == 0).all(axis=1, keepdims=True), c.stop - c.start, axis=1)
                            for c in columns(w.shape[1], group)], axis=1)
    patterns, which = np.unique(zeros, axis=1, return_inverse=True)
    for i, zero in enumerate(patterns.T):
        if not zero.all():
            yield np.flatnonzero(~zero), np.flatnonzero(which.reshape(-1) == i)


def _codes(layer: Layer) -> tuple[int, int]:
    assert isinstance(layer, Coded)
    small = layer.codes.min(initial=0) >= INT4[0] and layer.codes.max(initial=0) <= INT4[1]
    return INT4 if small else INT8


def _rounded(w: np.ndarray, steps: np.ndarray, codes: tuple[int, int], h: np.ndarray) -> np.ndarray:
    """Multiples of the steps, near to w [k,n] by what h says of the output."""
    return obs.sweep(w, obs.factor_of(obs.inverse(h)), lambda i, row: np.clip(np.rint(row / steps[i]), *codes) * steps[i])
