"""Do the types and shapes of a model fit together, all the way from its inputs? ONNX's own inference says, in one sweep.

It is native code, and broken models can crash it (LayerNormalization with an axis past 31 bits ends the process in onnx 1.23),
so it runs in a process of its own: this module as a program, which reads a model and answers with what is wrong.
"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto
from onnx.defs import get_schema, has
from onnx.shape_inference import InferenceError, infer_shapes

from .errors import ImportRefused
from .limits import GIB, Deadline

SMALL = 1024            # bytes; larger constants say nothing about shapes
MEMORY = 4 * GIB        # of address space


def check(model: ModelProto, deadline: Deadline, isolated: bool = True) -> None:
    """Raises ImportRefused where an op cannot take what comes to it. Inputs have static shapes; the structure is sound.
    isolated: in a process of its own, which takes 0.3 s to start."""
    bare = skeleton(model)
    wrong = _isolated(bare.SerializeToString(), deadline) if isolated else explain(bare)
    if wrong:
        raise ImportRefused(f"does not fit together: {wrong}")


def _isolated(model: bytes, deadline: Deadline) -> str:
    try:
        done = subprocess.run([sys.executable, "-m", __name__], input=model, capture_output=True, check=False,
                              timeout=deadline.left())
    except subprocess.TimeoutExpired:
        deadline.check()
        raise
    if done.returncode < 0:
        return f"it crashes onnx's shape inference ({signal.Signals(-done.returncode).name})"
    if done.returncode > 0:
        return f"onnx's shape inference fails: {done.stderr.decode(errors='replace').strip().splitlines()[-1][:200]}"
    return done.stdout.decode()


def explain(model: ModelProto) -> str:
    """What does not fit; empty where all does."""
    try:
        try:
            infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except MemoryError:     # onnx makes an object for each element of a 1-D value, which might be shape data
            infer_shapes(model, check_type=True, strict_mode=True)
    except (InferenceError, ValueError, TypeError) as e:
        ops = re.findall(r"op_type:(\w+)", str(e))
        if len(ops) > 1 and defined_by_function(ops[0]):
            return ""       # onnx 1.23 stumbles over bodies of its own (MeanVarianceNormalization's)
        return readable(str(e))
    return ""


def defined_by_function(op: str) -> bool:
    """Is it an op of ONNX's that is written in other ops?"""
    if not has(op):
        return False
    schema: Any = get_schema(op)        # onnx's stub lacks these two
    return bool(schema.has_function or schema.has_context_dependent_function)


def readable(text: str) -> str:
    """The first error of onnx's list, on one line and without its tags."""
    text = re.sub(r"\[\w+\]|Inference error\(s\):", "", text)
    text = re.sub(r"\(op_type:(\w+)(?:, node name: ([^)]*))?\)", lambda m: f"{m[1]} {m[2] or ''}".strip(), text)
    parts = [" ".join(p.split()) for p in text.split("\n") if p.strip()]
    return parts[0][:300] if parts else "shape inference failed"


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


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(explain(ModelProto.FromString(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
