"""Shapes, dtypes and values of single nodes: ONNX's own inference and onnxruntime, each asked about one node at a time.

A node stands alone in a model of its own: its inputs (and the outer values that its subgraphs read) are that model's inputs,
small constants among them its initializers. So a model's size never matters, and a shape that depends on a folded value is
known as soon as the value is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from .base import shape

SMALL = 1024            # bytes; larger constants are not shape data


def outer_values(node: ir.Node) -> Iterator[ir.Value]:
    """The values that subgraphs of the node read from around it."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            inside = {id(v) for v in (*graph.inputs, *graph.initializers.values())}
            for inner in graph.all_nodes():
                inside |= {id(v) for v in inner.outputs}
                for sub in (a.as_graph() for a in inner.attributes.values() if a.type == ir.AttributeType.GRAPH):
                    inside |= {id(v) for v in (*sub.inputs, *sub.initializers.values())}
            read = [v for inner in graph.all_nodes() for v in inner.inputs] + list(graph.outputs)
            yield from (v for v in read if v is not None and id(v) not in inside)


def reads(node: ir.Node) -> list[ir.Value]:
    """All values that a node reads, each once: its inputs and what its subgraphs read from around it."""
    return list({id(v): v for v in (*node.inputs, *outer_values(node)) if v is not None}.values())


def alone(node: ir.Node, opsets: dict[str, int], *, data: bool) -> onnx.ModelProto:
    """The node as a model. data: small constant inputs are initializers; otherwise all are inputs."""
    model = onnx.ModelProto(ir_version=10)
    for domain, version in opsets.items():
        model.opset_import.add(domain=domain, version=version)
    graph = model.graph
    graph.name = "node"
    graph.node.append(ir.to_proto(node))
    for value in reads(node):
        tensor = value.const_value
        if data and tensor is not None and tensor.nbytes <= SMALL:
            graph.initializer.append(ir.to_proto(tensor))
            graph.initializer[-1].name = value.name
        else:
            graph.input.append(ir.to_proto(value))
    graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in node.outputs if v.name)
    return model


def infer(node: ir.Node, opsets: dict[str, int], functions: Iterable[ir.Function] = ()) -> bool:
    """Gives the outputs of the node their inferred dtype and shape, in place. True if that says more than was known. functions:
    those that the node may call.

    What is known already stays where inference knows nothing, or a dimension less.
    """
    if node.op_type == "STFT" and "onesided" not in node.attributes:    # ONNX's inference takes the default, 1, for 0
        node.attributes["onesided"] = ir.AttrInt64("onesided", 1)
    try:
        # onnx takes every 1-D value for shape data, and makes an object for each element: 100 GB for 2^31 of them.
        long = any(len(dims) == 1 and dims[0] > SMALL for v in reads(node) if (dims := shape(v)) is not None)
        model = alone(node, opsets, data=True)
        model.functions.extend(map(ir.serde.serialize_function, functions))
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=not long)
    except onnx.shape_inference.InferenceError:
        return False
    types = {v.name: v.type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    like = _not_inferred(node)
    if like is not None and typed(like):
        types[node.outputs[0].name] = ir.serde.serialize_value(like).type
    changed = False
    for value in node.outputs:
        if value.name and types.get(value.name) is not None and types[value.name].WhichOneof("value"):
            changed |= _learn(value, types[value.name])
    return changed


def _not_inferred(node: ir.Node) -> ir.Value | None:
    """A value like the output, for ops that onnx 1.23 does not infer."""
    match node.domain, node.op_type, list(node.inputs):
        case "", "GroupNormalization", [ir.Value() as x, *_]:
            return x
        case "", "MaxUnpool", [ir.Value() as x, _, ir.Value() as size] if size.const_value is not None:
            return ir.Value(name=x.name, type=x.type, shape=ir.Shape(size.const_value.numpy().tolist()))
    return None


def _learn(value: ir.Value, proto: onnx.TypeProto) -> bool:
    found = ir.serde.deserialize_type_proto_for_type(proto)
    dims = ir.serde.deserialize_type_proto_for_shape(proto)
    changed = False
    if found is not None and value.type != found:
        if isinstance(found, ir.TensorType) and found.dtype == ir.DataType.UNDEFINED:
            return False
        value.type, changed = found, True
    if dims is None:
        return changed
    if value.shape is not None and len(value.shape) == len(dims):
        merged = [new if isinstance(new, int) else old for new, old in zip(dims, value.shape, strict=True)]
    else:
        merged = list(dims)
    if value.shape is None or list(value.shape) != merged:
        known = sum(isinstance(d, int) for d in value.shape) if value.shape is not None else -1
        value.shape = ir.Shape(merged)
        changed |= sum(isinstance(d, int) for d in merged) > known or known < 0
    return changed


def typed(value: ir.Value) -> bool:
    """Are dtype and static shape known?"""
    return value.dtype is not None and shape(value) is not None


def evaluate(node: ir.Node, opsets: dict[str, int]) -> list[np.ndarray] | None:
    """The outputs of a node whose inputs are all constants: by onnxruntime, or by ONNX's reference where that has no kernel."""
    model = alone(node, opsets, data=False)
    feeds: dict[str, np.ndarray] = {}
    for value in reads(node):
        assert value.const_value is not None
        feeds[value.name or ""] = value.const_value.numpy()
    if all(a.dtype.kind in "biuf" and a.dtype.itemsize > 0 for a in feeds.values()) and not _traps(node):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            typed_model = onnx.shape_inference.infer_shapes(model)
            session = ort.InferenceSession(typed_model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return [np.asarray(a) for a in session.run(None, feeds)]
        except Exception:
            pass    # no kernel for these dtypes or this opset: onnxruntime has a dozen exception types for that
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:
        return None


def _traps(node: ir.Node) -> bool:
    """Might the processor end the process? onnxruntime 1.31 does not look out for the smallest integer divided by -1."""
    if node.op_type not in ("Div", "Mod"):
        return False
    tensor = node.inputs[1].const_value if len(node.inputs) == 2 and node.inputs[1] is not None else None
    return tensor is not None and tensor.dtype in (ir.DataType.INT32, ir.DataType.INT64) and bool((tensor.numpy() == -1).any())
