"""Ops that ONNX itself defines by other ops."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from ..base import GraphPass, Stage
from ..shapes import alone
from .fold_constants import FoldConstants
from .infer_shapes import InferShapes
from .inline_if import splice
from .lift_constants import LiftConstants
from .upgrade_opset import OPSET, UpgradeOpset

Ops = frozenset[tuple[str, str]]

KEPT: Ops = frozenset(("", name) for name in (
    "Attention", "Celu", "Clip", "DepthToSpace", "DynamicQuantizeLinear", "Elu", "Gelu", "GreaterOrEqual",
    "GroupNormalization", "HardSigmoid", "HardSwish", "LayerNormalization", "LeakyRelu", "LessOrEqual", "LogSoftmax", "Mish",
    "PRelu", "RMSNormalization", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Relu",
    "RotaryEmbedding", "Selu", "Shrink", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Swish", "ThresholdedRelu"))


class ExpandFunctions(GraphPass):
    """A node whose op ONNX defines as a function becomes the body of the function, made for the node's types and attributes
    and brought to our opset, again and again until only primitives and the ops to keep remain.

    keep: (domain, op) of the ops that stay as they are, such as those that have a lowering of their own, except in rare forms.
    """

    stage = Stage.CANONICAL

    def __init__(self, keep: Ops = KEPT) -> None:
        super().__init__()
        self.keep = keep

    def run(self, model: ir.Model) -> bool:
        changed = False
        work = list(model.graph)
        while work:
            node = work.pop()
            if ((node.domain, node.op_type) in self.keep and not rare(node)) or node.graph is None:
                continue
            found = self._body(node, model)
            if found is None:
                continue
            body, names = found
            inner, made = list(body.graph), dict(zip(names, body.graph.outputs, strict=True))
            splice(body.graph, [made.get(v.name or "") for v in node.outputs], node, model)
            work += inner
            changed = True
        return changed

    def _body(self, node: ir.Node, model: ir.Model) -> tuple[ir.Model, list[str]] | None:
        """The body, and which output of the node each of its outputs is, by name."""
        function = definition(node, model.opset_imports)
        if function is None:
            return None
        if any(a.type == onnx.AttributeProto.GRAPH for n in function.node for a in n.attribute if n.op_type in ("Loop", "Scan")):
            self.miss(node, "its function is a loop")
            return None
        body = ir.from_proto(instance(function, node, model.opset_imports))
        names = [v.name or "" for v in body.graph.outputs]
        given = {v.name: v for v in node.inputs if v is not None}
        for value in body.graph.inputs:
            value.const_value = given[value.name].const_value
        LiftConstants()(body)
        InferShapes()(body)
        UpgradeOpset()(body)
        FoldConstants()(body)       # before functions inside are expanded: a Range of constants would become a loop
        for value in body.graph.inputs:
            value.replace_all_uses_with(given[value.name], replace_graph_outputs=True)
        return body, names


def rare(node: ir.Node) -> bool:
    """A form that no kernel serves of an op that is kept otherwise: attention with softcap, in another type than float32 and
    float16, or that also returns keys, values or scores."""
    if node.domain != "" or node.op_type != "Attention":
        return False
    query = node.inputs[0]
    served = query is not None and query.dtype is not None and query.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    return not served or node.attributes.get_float("softcap", 0.0) != 0 or any(v.name for v in node.outputs[1:])


def instance(function: onnx.FunctionProto, node: ir.Node, opsets: dict[str, int]) -> onnx.ModelProto:
    """A call of the function as a model: the body with the node's attributes (or their defaults) and types; inputs and outputs
    bear the node's names, an input left out is left out in the body."""
    model = alone(node, {**opsets, **{o.domain: o.version for o in function.opset_import}}, data=False)
    (call,) = model.graph.node
    attributes = {a.name: a for a in function.attribute_proto}
    if onnx.defs.has(call.op_type, call.domain):
        schema = onnx.defs.get_schema(call.op_type, call.domain)
        attributes |= {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    attributes |= {a.name: a for a in call.attribute}
    names = dict(zip(function.input, [*call.input, *[""] * len(function.input)], strict=False))
    names |= {inner: outer for inner, outer in zip(function.output, call.output, strict=False) if outer}
    taken = set(names.values())
    for inner in (o for n in function.node for o in n.output if o and o not in names):
        names[inner] = inner if inner not in taken else f"{inner}/inner"
    del model.graph.node[:]
    model.graph.node.extend(_renamed(inner, names, attributes) for inner in function.node)
    made = {name for n in model.graph.node for name in n.output}
    kept = [v for v in model.graph.output if v.name in made]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _renamed(node: onnx.NodeProto, names: dict[str, str], attributes: dict[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A copy of the node with other names of values, also in its subgraphs, and with the attributes that it refers to."""
    new = onnx.NodeProto()
    new.CopyFrom(node)
    new.input[:] = [names.get(name, name) for name in node.input]
    new.output[:] = [names.get(name, name) for name in node.output]
    del new.attribute[:]
    for attribute in node.attribute:
        source = attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if source is None:
            continue            # refers to an attribute that the call does not have
        copy = new.attribute.add()
        copy.CopyFrom(source)
        copy.name = attribute.name
        if copy.type == onnx.AttributeProto.GRAPH:
            nodes = [_renamed(inner, names, attributes) for inner in copy.g.node]
            del copy.g.node[:]
            copy.g.node.extend(nodes)
            for output in copy.g.output:
                output.name = names.get(output.name, output.name)
    return new


def definition(node: ir.Node, opsets: dict[str, int]) -> onnx.FunctionProto | None:
    """The function by which ONNX defines the node's op, in the newest body that this opset may use; None for a primitive."""
    version = min(opsets.get(node.domain, OPSET), OPSET) if node.domain == "" else opsets.get(node.domain, 1)
    if not onnx.defs.has(node.op_type, version, node.domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)     # its stubs lack the functions
    function = onnx.FunctionProto()
    if schema.has_function:
        text = schema.get_function_with_opset_version(max(v for v in schema.function_opset_versions if v <= version))
    elif schema.has_context_dependent_function:
        types = []
        for value in node.inputs:
            proto = ir.to_proto(value).type if value is not None else onnx.TypeProto()
            types.append(proto.SerializeToString())
        text = schema.get_context_dependent_function_with_opset_version(
            max(v for v in schema.context_dependent_function_opset_versions if v <= version),
            ir.to_proto(node).SerializeToString(), types)
    else:
        return None
    function.ParseFromString(text)
    return function if function.node else None
