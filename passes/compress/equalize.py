"""Channels of alike range: what one layer multiplies a channel by, the layers that read it divide by.

One scale for a whole value leaves few integers to a channel that is small beside the others. Scaling a channel where it is made
and back where it is read changes nothing else, as long as all ops in between commute with it (Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", section 4.1, for pairs of layers and their weights; here for all
the layers that a residual sum ties together, and by what activations were on calibration data, as in SmoothQuant, Xiao et al.
2023). A ReLU6 does not commute, and leaves ranges that are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..base import constant, initializer, shape
from .layers import Layer

SCALABLE = frozenset(("Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity"))
LIMIT = 64.0        # the largest factor between channels


@dataclass
class Tied:
    """Values whose channels can be scaled together. makers, readers: the layers at both ends; norms: LayerNorms that make them;
    biases: Adds of a constant to a matrix product."""

    values: list[ir.Value] = field(default_factory=list)
    makers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    norms: list[ir.Node] = field(default_factory=list)
    biases: list[tuple[ir.Node, int]] = field(default_factory=list)

    @property
    def axis(self) -> int:
        """Of the channels."""
        return 1 if self.readers[0].is_conv else -1


def tied(model: ir.Model, layers: Iterable[Layer]) -> list[Tied]:
    """The groups of values that lie between these layers only, and that nothing else reads or makes."""
    search = _Search({layer.node: layer for layer in layers})
    for node in model.graph:
        search.visit(node)
    for value in (*model.graph.inputs, *model.graph.outputs):
        search.block(value)
    return [g for g in search.groups() if g.readers and (g.makers or g.norms)]


class _Search:
    def __init__(self, layers: Mapping[ir.Node, Layer]) -> None:
        self.layers, self.parent, self.blocked = layers, dict[ir.Value, ir.Value](), set[ir.Value]()
        self.found: list[tuple[ir.Value, str, object]] = []

    def head(self, v: ir.Value) -> ir.Value:
        while self.parent.setdefault(v, v) is not v:
            v = self.parent[v]
        return v

    def tie(self, *values: ir.Value) -> None:
        for v in values[1:]:
            self.parent[self.head(v)] = self.head(values[0])

    def block(self, value: ir.Value | None) -> None:
        if value is not None and value.const_value is None:
            self.blocked.add(value)
            self.head(value)

    def note(self, value: ir.Value, what: str, thing: object) -> None:
        self.head(value)
        self.found.append((value, what, thing))

    def visit(self, node: ir.Node) -> None:
        out, first = node.outputs[0], node.inputs[0] if node.inputs else None
        if node in self.layers:
            layer = self.layers[node]
            self.note(layer.input, "readers", layer)
            self.note(out, "makers", layer)
        elif node.domain == "" and first is not None and node.op_type in SCALABLE:
            self.tie(first, out)
            for extra in node.outputs[1:]:      # MaxPool's indices
                self.block(extra)
        elif node.domain == "" and node.op_type == "Add" and not self._tie_add(node):
            self._block_all(node)
        elif node.domain == "" and node.op_type == "LayerNormalization" and constant(node.inputs[1]) is not None and (
                len(node.inputs) < 3 or constant(node.inputs[2]) is not None) and len(shape(node.inputs[1]) or ()) == 1:
            self.block(first)
            self.note(out, "norms", node)
        elif not (node.domain == "" and node.op_type == "Add"):
            self._block_all(node)

    def _tie_add(self, node: ir.Node) -> bool:
        """Of two computed values of one shape, or of a constant to a matrix product."""
        out, (a, b) = node.outputs[0], node.inputs
        assert a is not None and b is not None
        for i, (v, c) in enumerate(((b, a), (a, b))):
            maker = v.producer()
            if maker is not None and maker in self.layers and self.layers[maker].bias == (node, i):
                size = constant(c)
                assert size is not None
                if size.size == self.layers[maker].matrix.shape[-1]:
                    self.tie(v, out)
                    self.note(out, "biases", (node, i))
                    return True
        if a.const_value is None and b.const_value is None and shape(a) == shape(b):
            self.tie(a, b, out)
            return True
        return False

    def _block_all(self, node: ir.Node) -> None:
        for v in (*node.inputs, *node.outputs):
            self.block(v)

    def groups(self) -> list[Tied]:
        found: dict[ir.Value, Tied] = {}
        for v in list(self.parent):
            found.setdefault(self.head(v), Tied()).values.append(v)
        for v, what, thing in self.found:
            getattr(found[self.head(v)], what).append(thing)
        for v in self.blocked:
            found.pop(self.head(v), None)
        return [g for g in found.values() if len({layer.is_conv for layer in (*g.makers, *g.readers)}) == 1
                and not (g.norms and g.readers[0].is_conv)]


def factors(group: Tied, largest: np.ndarray, migration: float) -> np.ndarray:
    """What to multiply each channel by: (largest activation)^-migration * (largest weight that meets it)^(1 - migration), so that
    the whole value's range stays. A depthwise reader has a scale for each channel, so its weights do not count; even so channels
    keep some distance to the end of the range, where what calibration did not see would be clipped: in EfficientNet-Lite0 that
    cost more than equal channels gained.

    largest: [channels], the largest |x| of each over the values of the group.
    """
    full = [Layer(layer.node) for layer in group.readers if not layer.depthwise]
    dead = largest <= 0
    x = np.where(dead, 1.0, largest / max(largest.max(), 1e-30))
    weight = np.max([_weight_of_inputs(layer) for layer in full], axis=0) if full else np.ones(x.size)
    s = x ** -migration * np.where(weight > 0, weight, 1.0) ** (1 - migration)
    s = np.where(dead, 1.0, s)
    s /= max(1e-30, (s * x)[~dead].max(initial=1e-30))      # the largest channel keeps its range
    return np.clip(s, 1 / LIMIT, LIMIT).astype(np.float32)


def _weight_of_inputs(layer: Layer) -> np.ndarray:
    """The largest |w| that meets each input channel, as a share of the largest of its output channel: [channels]."""
    w = np.abs(layer.matrix)
    share = w / np.maximum(w.max(axis=1, keepdims=True), 1e-30)
    groups, k, _ = w.shape
    channels = layer.weight.shape[1] if layer.is_conv else k
    return share.max(axis=2).reshape(groups, -1, channels).max(axis=1).reshape(-1)


def gain(group: Tied, s: np.ndarray) -> float:
    """By how much the factors lessen what rounding the value does to its readers' outputs, where each of these counts alike."""
    noise = np.zeros(s.size)
    for layer in (Layer(old.node) for old in group.readers):
        w = layer.matrix.astype(np.float64) ** 2
        share = w / np.maximum(w.sum(axis=1, keepdims=True), 1e-30)
        noise += share.sum(axis=2).reshape(w.shape[0], -1, s.size // w.shape[0]).sum(axis=1).reshape(-1)
    return float(np.sqrt(noise.sum() / max(1e-30, (noise / s.astype(np.float64) ** 2).sum())))


def scale(model: ir.Model, group: Tied, s: np.ndarray) -> None:
    """Multiplies the channels of all values of the group by s, and nothing else."""
    for layer in (Layer(old.node) for old in group.makers):     # another group may have changed its weights
        layer.replaced(model, layer.matrix * s.reshape(layer.groups, 1, -1))
        if layer.is_conv and layer.bias is not None:
            _multiply(model, layer.node, 2, s)
    for node, i in group.biases:
        _multiply(model, node, i, s)
    for norm in group.norms:
        for i in range(1, len(norm.inputs)):
            _multiply(model, norm, i, s)
    for layer in (Layer(old.node) for old in group.readers):
        groups, k, n = layer.matrix.shape
        channels = layer.weight.shape[1] if layer.is_conv else k
        divided = layer.matrix.reshape(groups, -1, channels, n) / s.reshape(groups, 1, channels, 1)
        layer.replaced(model, divided.reshape(groups, k, n))


def _multiply(model: ir.Model, node: ir.Node, i: int, s: np.ndarray) -> None:
    value = constant(node.inputs[i])
    assert value is not None
    node.replace_input_with(i, initializer(model, (value * s).astype(np.float32), f"{node.name}_scaled"))
