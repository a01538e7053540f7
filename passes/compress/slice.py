"""Rotation and slicing of pre-norm transformers (SliceGPT: Ashkboos et al., ICLR 2024, sections 3.1 to 3.4).

The residual stream may be turned by any orthogonal Q without changing the model, once its LayerNorms are RMSNorms: the centring
M = I - 11'/d goes into what writes to the stream, scale and bias of a norm into what reads it, and RMS(X Q) Q' = RMS(X). With Q
of the principal components of what a norm reads, the last columns of the turned stream hold next to nothing, and all matrices
that touch them become smaller. Each norm has a Q of its own: between two of them, the stream is turned by Q' Q.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, only_use, op, replace, shape
from . import bias
from .layers import Layer, layers

WIDTH = 16          # widths are multiples of it
KEEPS_LAST = frozenset({"Gather", "Identity", "ReduceMean", "Slice", "Squeeze", "Unsqueeze"})   # along other axes than the last


class NotPreNorm(Exception):
    """Why a model's residual stream cannot be turned: one line for the user."""


@dataclass(frozen=True)
class Write:
    """add: the Add of a branch to the stream `source`; layer: the branch's last matrix product."""

    add: ir.Node
    source: ir.Value
    layer: Layer

    @property
    def result(self) -> ir.Value:
        return self.add.outputs[0]


@dataclass(frozen=True)
class Norm:
    """node: a LayerNormalization of the stream; layers: what multiplies its output; between: the ops on the way there."""

    node: ir.Node
    layers: tuple[Layer, ...]
    between: tuple[ir.Node, ...]

    @property
    def source(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def scale(self) -> np.ndarray:
        value = constant(self.node.inputs[1])
        assert value is not None
        return value.astype(np.float64)

    @property
    def offset(self) -> np.ndarray:
        value = constant(self.node.inputs[2]) if len(self.node.inputs) > 2 else None
        return np.zeros_like(self.scale) if value is None else value.astype(np.float64)


@dataclass(frozen=True)
class Stream:
    """The residual stream of width `width`: where it begins, what writes to it and what reads it, in order."""

    origin: ir.Value
    writes: tuple[Write, ...]
    norms: tuple[Norm, ...]

    @property
    def width(self) -> int:
        return int((shape(self.origin) or ())[-1])


def stream(model: ir.Model) -> Stream:
    """The stream of a model in canonical form; raises NotPreNorm."""
    products = {x.node: x for x in layers(model) if not x.is_conv}
    norms = [n for n in model.graph if n.op_type == "LayerNormalization" and n.domain == "" and _over_last(n)]
    if not norms:
        raise NotPreNorm("it has no LayerNorm over its last axis")
    writes: list[Write] = []
    value = norms[-1].inputs[0]
    while value is not None and (write := _write(value, products)) is not None:
        writes.append(write)
        value = write.source
    if value is None or not writes:
        raise NotPreNorm("no branch is added to what its last LayerNorm reads")
    values = [value, *(w.result for w in reversed(writes))]
    inside = [n for n in norms if n.inputs[0] in values]
    maker = value.producer()
    wide = (shape(value) or ())[-1]
    if maker in norms and len(inside) + 1 < sum((shape(n.inputs[0]) or ())[-1] == wide for n in norms):
        raise NotPreNorm("its LayerNorms stand behind the residual additions (post-norm), so the stream passes through them; "
                         "only that of pre-norm transformers can be turned")
    found = Stream(value, tuple(reversed(writes)), tuple(_norm(n, products) for n in inside))
    known = {n.node for n in found.norms} | {w.add for w in found.writes}
    for v in values:
        if v.is_graph_output() or any(use.node not in known for use in v.uses()):
            raise NotPreNorm(f"its residual stream is also read by something else, at {v.name}")
    return found


def _over_last(node: ir.Node) -> bool:
    rank = len(shape(node.inputs[0]) or ())
    return rank > 1 and attr(node, "axis", -1) % rank == rank - 1 and constant(node.inputs[1]) is not None \
        and not any(v.uses() for v in node.outputs[1:])


def _write(value: ir.Value, products: Mapping[ir.Node, Layer]) -> Write | None:
    """The Add of a branch that makes the value: the branch's product is read by nothing else, the stream is."""
    add = value.producer()
    if add is None or add.op_type != "Add" or add.domain != "":
        return None
    for branch, source in (tuple(add.inputs), tuple(reversed(add.inputs))):
        if branch is None or source is None or shape(source) != shape(value) or len(source.uses()) < 2 or not only_use(branch):
            continue
        node = branch.producer()
        if node is not None and node.op_type == "Add":
            node = next((p for v in node.inputs if v is not None and (p := v.producer()) in products and only_use(v)), None)
        if node is not None and node in products:
            return Write(add, source, products[node])
    return None


def _norm(node: ir.Node, products: Mapping[ir.Node, Layer]) -> Norm:
    found: list[Layer] = []
    between: list[ir.Node] = []
    work = [node.outputs[0]]
    while work:
        value = work.pop()
        if value.is_graph_output():
            raise NotPreNorm(f"what LayerNorm {node.name} makes is an output of the model")
        for use in value.uses():
            if use.node in products and use.idx == 0:
                found.append(products[use.node])
            elif use.idx == 0 and _keeps_last(use.node):
                between.append(use.node)
                work.append(use.node.outputs[0])
            else:
                raise NotPreNorm(f"what LayerNorm {node.name} makes is read by {use.node.op_type} {use.node.name}, not by a "
                                 "matrix product")
    return Norm(node, tuple(found), tuple(between))


def _keeps_last(node: ir.Node) -> bool:
    """Does it work on other axes than the last?"""
    source, made = shape(node.inputs[0]), shape(node.outputs[0])
    if node.domain != "" or node.op_type not in KEEPS_LAST or not source or not made or source[-1] != made[-1]:
        return False
    axes = {"Gather": [attr(node, "axis", 0)], "Identity": []}.get(node.op_type)
    if axes is None:
        at = 3 if node.op_type == "Slice" else 1
        given = constant(node.inputs[at]) if len(node.inputs) > at else None
        if given is None:
            return False
        axes = [int(a) for a in given.reshape(-1)]
    return all(a % len(made if node.op_type == "Unsqueeze" else source) != (len(source) - 1) for a in axes)


def sliced_width(width: int, fraction: float) -> int:
    """What is left of a width without this fraction, in whole vectors."""
    return min(width, max(1, round((1 - fraction) * width / WIDTH)) * WIDTH)


def centring(width: int) -> np.ndarray:
    return np.eye(width) - 1 / width


def turn(model: ir.Model, found: Stream, bases: Mapping[ir.Value, np.ndarray]) -> None:
    """bases: [width, less] orthonormal columns for what each norm reads; the model is changed in place."""
    width, less = found.width, next(iter(bases.values())).shape[1]
    center, basis = centring(width), dict[ir.Value, np.ndarray]()
    basis[found.origin] = bases.get(found.origin, next(iter(bases.values())))
    for write in found.writes:      # a value that no norm reads stays turned as what it was made of
        basis[write.result] = bases.get(write.result, basis[write.source])
    for norm in found.norms:
        _read_turned(model, norm, basis[norm.source], width, less)
    for write in found.writes:
        q, layer = basis[write.result], write.layer
        layer.replaced(model, (layer.matrix[0] @ center @ q)[None])
        if layer.bias is not None:
            bias.write(model, layer, bias.read(layer) @ center @ q)
    for value in _made(found, width):
        value.shape = ir.Shape([*(shape(value) or ())[:-1], less])
    for write in found.writes:
        before = basis[write.source]
        if before is not basis[write.result]:
            _insert(model, write.add, write.source, before.T @ basis[write.result])
    _begin(model, found.origin, center @ basis[found.origin], less)


def _read_turned(model: ir.Model, norm: Norm, q: np.ndarray, width: int, less: int) -> None:
    """An RMSNorm over what is left, which divides by the root of the mean over that: sqrt(width / less) more than over all."""
    ones = initializer(model, np.ones(less, np.float32), f"{norm.node.name}_scale")
    epsilon = attr(norm.node, "epsilon", 1e-5) * width / less
    name = norm.node.name or "norm"
    new = op("RMSNormalization", [norm.source, ones], norm.node.outputs[0], name=name, axis=-1, epsilon=epsilon)
    matrix, offset = np.sqrt(width / less) * q.T * norm.scale, norm.offset
    for layer in norm.layers:
        w = layer.matrix[0].astype(np.float64)
        moved = offset @ w
        if np.any(moved):
            if bias.movable(layer):
                bias.write(model, layer, bias.read(layer) + moved)
            else:
                _biased(model, layer, moved)
        layer.replaced(model, (matrix @ w)[None])
    replace(norm.node, [new], new.outputs[0])


def _biased(model: ir.Model, layer: Layer, value: np.ndarray) -> None:
    """Adds to what a product without a bias makes, in place of all its readers."""
    made = layer.output
    add = op("Add", [made, initializer(model, value.astype(np.float32), f"{layer.name}_bias")], made, name=f"{layer.name}_biased")
    layer.node.append(add)
    for use in list(made.uses()):
        if use.node is not add:
            use.node.replace_input_with(use.idx, add.outputs[0])
    if made.is_graph_output():
        model.graph.outputs[list(model.graph.outputs).index(made)] = add.outputs[0]
        made.name, add.outputs[0].name = f"{made.name}_product", made.name


def _made(found: Stream, width: int) -> Iterator[ir.Value]:
    """All values whose last axis becomes shorter."""
    for write in found.writes:
        yield write.result
        yield write.layer.output
        if write.layer.bias is not None:
            yield write.layer.bias[0].outputs[0]
    for norm in found.norms:
        yield from (node.outputs[0] for node in norm.between)
    for node in (use.node for v in (found.origin, *(w.result for w in found.writes)) for use in v.uses()):
        if node.op_type == "RMSNormalization":
            yield node.outputs[0]


def _insert(model: ir.Model, reader: ir.Node, value: ir.Value, matrix: np.ndarray) -> None:
    """reader reads value times matrix."""
    name = f"{reader.name or value.name}_turn"
    turned = op("MatMul", [value, initializer(model, matrix.astype(np.float32), f"{name}_weight")], value, name=name)
    turned.outputs[0].shape = ir.Shape([*(shape(value) or ())[:-1], matrix.shape[1]])
    assert reader.graph is not None
    reader.graph.insert_before(reader, turned)
    for i, v in enumerate(reader.inputs):
        if v is value:
            reader.replace_input_with(i, turned.outputs[0])


def _begin(model: ir.Model, origin: ir.Value, matrix: np.ndarray, less: int) -> None:
    """All that reads the origin reads it turned."""
    uses = list(origin.uses())
    name = f"{origin.name}_turn"
    turned = op("MatMul", [origin, initializer(model, matrix.astype(np.float32), f"{name}_weight")], origin, name=name,
                shape=[*(shape(origin) or ())[:-1], less])
    for use in uses:
        use.node.replace_input_with(use.idx, turned.outputs[0])
    maker = origin.producer()
    if maker is not None:
        maker.append(turned)
    else:
        model.graph.insert_before(model.graph[0], turned)
