"""Do the types and shapes of a model fit together, all the way from its inputs? ONNX's own inference says, in one sweep."""

from __future__ import annotations

import re

import onnx
from onnx import GraphProto, ModelProto, TensorProto
from onnx.defs import get_schema, has
from onnx.shape_inference import InferenceError, infer_shapes

from .errors import ImportRefused

SMALL = 1024        # bytes; larger constants say nothing about shapes


def check(model: ModelProto) -> None:
    """Raises ImportRefused where an op cannot take what comes to it. Inputs have static shapes; the structure is sound."""
    try:
        infer_shapes(skeleton(model), check_type=True, strict_mode=True, data_prop=True)
    except (InferenceError, ValueError, TypeError) as e:
        ops = re.findall(r"op_type:(\w+)", str(e))
        if len(ops) > 1 and defined_by_function(ops[0]):
            return      # onnx 1.23 stumbles over bodies of its own (MeanVarianceNormalization's)
        raise ImportRefused(f"does not fit together: {_readable(str(e))}") from None


def defined_by_function(op: str) -> bool:
    """Is it an op of ONNX's that is written in other ops?"""
    return has(op) and (get_schema(op).has_function or get_schema(op).has_context_dependent_function)


def skeleton(model: ModelProto) -> ModelProto:
    """The model without the data of its large constants: they are inputs. What it says of values between is left out, too."""
    bare = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = "skeleton"
    graph.input.extend(model.graph.input)
    for v in model.graph.output:        # without the shape: it may be wrong, and is inferred anew anyway
        graph.output.add(name=v.name, type=v.type).type.tensor_type.ClearField("shape")
    for t in model.graph.initializer:
        _add(graph, t, t.name)
    for n in model.graph.node:
        value = n.attribute[0].t if n.op_type == "Constant" and n.domain in ("", "ai.onnx") and len(n.attribute) == 1 else None
        if value is not None and value.ByteSize() > SMALL:
            _add(graph, value, n.output[0])
        else:
            graph.node.append(n)
    return bare


def _add(graph: GraphProto, t: TensorProto, name: str) -> None:
    if t.ByteSize() <= SMALL:
        graph.initializer.append(t)
        graph.initializer[-1].name = name
    else:
        graph.input.append(onnx.helper.make_tensor_value_info(name, t.data_type, t.dims))


def _readable(text: str) -> str:
    """The first error of onnx's list, on one line and without its tags."""
    text = re.sub(r"\[\w+\]|Inference error\(s\):", "", text)
    text = re.sub(r"\(op_type:(\w+)(?:, node name: ([^)]*))?\)", lambda m: f"{m[1]} {m[2] or ''}".strip(), text)
    parts = [" ".join(p.split()) for p in text.split("\n") if p.strip()]
    return parts[0][:300] if parts else "shape inference failed"
