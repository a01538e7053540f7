"""Sample inputs for a model, and its reference outputs by onnxruntime: the oracle of verify and compare."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..passes.base import initializer, op
from ..passes.canonical.lift_constants import LiftConstants
from ..passes.quantized.expand_qlinear import ExpandQLinear
from ..schedules.numerics import relative_error
from ..targets.plan import Signature
from .errors import OracleError
from .testcard import is_image, picture

RUN_LIMIT_S = 600
ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
NUDGES = tuple(1 + sign * 2.0**-bits for bits in (22, 21) for sign in (1, -1))     # two or four roundings of float32
STEP = 1 / 400      # a quarter of what `verify` then allows: a step of eight bits is up to 1/127 of an output's scale


def sample_inputs(signatures: Sequence[Signature], seed: int = 0) -> dict[str, np.ndarray]:
    """One array for each input: images are a test card, other floats standard normal, unsigned bytes the whole range, other
    integers 0 or 1 (valid as token, mask, class or index in any model), booleans a fair coin."""
    rng = np.random.default_rng(seed)
    return {s.name: _sample(s, rng) for s in signatures}


def _sample(s: Signature, rng: np.random.Generator) -> np.ndarray:
    if is_image(s.shape, s.dtype):
        return picture(s.shape, rng).astype(s.dtype)
    if s.dtype.startswith("float"):
        return rng.standard_normal(s.shape).astype(s.dtype)
    if s.dtype == "bool":
        return rng.integers(0, 2, s.shape).astype(bool)
    top = {"uint8": 256, "int8": 128}.get(s.dtype, 2)
    return rng.integers(-128 if s.dtype == "int8" else 0, top, s.shape).astype(s.dtype)


def session(model: ir.Model, threads: int = 0, optimize: bool = True, as_written: bool = False) -> ort.InferenceSession:
    """onnxruntime on a graph at any stage. threads: 0 for as many as it likes; as_written: DequantizeLinear and QuantizeLinear
    are computed as they stand, where onnxruntime by itself makes integer ops of what is between them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)      # its errors are exceptions, too, and ours to show
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:      # onnxruntime has a dozen types of exception
        raise OracleError(f"onnxruntime, whose outputs are the reference, cannot load this model: {_one_line(e)}") from None


@dataclass(frozen=True)
class Oracle:
    """onnxruntime's outputs, and its own rounding noise for each: the largest difference between running the graph with and
    without its optimisations, relative to the output's scale. No comparison can be finer than that.

    A model that quantises values is discontinuous: where a value lies in the middle between two bytes, the last bit of a float
    decides, and one byte that is another one early may change many later. So its noise is also what onnxruntime makes of the
    model when all that is quantised is a few units in the last place larger or smaller (NUDGES), and at least STEP, which a
    single byte at the end may take. Integer outputs have noise only if they are bytes of such a model."""

    outputs: tuple[np.ndarray, ...]
    noise: tuple[float, ...]


def oracle(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> Oracle:
    """Runs the model twice in onnxruntime, one that quantises six times."""
    fast, others = reference(model, inputs), [reference(model, inputs, optimize=False)]
    quantises = any(n.op_type in ROUNDING or n.op_type.startswith("QLinear") for n in model.graph)
    if quantises:
        others += [reference(nudged(model, by), inputs, optimize=False) for by in NUDGES]
    noise = []
    for n, output in enumerate(fast):
        found = max(relative_error(output, other[n]) for other in others)
        inexact = output.dtype.kind == "f" or (quantises and output.dtype.itemsize == 1)
        noise.append(max(found, STEP if quantises else 0.0) if inexact else 0.0)
    return Oracle(tuple(fast), tuple(noise))


def nudged(model: ir.Model, by: float) -> ir.Model:
    """The model with everything that it quantises multiplied by a number."""
    result = model.clone()
    LiftConstants()(result)
    ExpandQLinear()(result)
    factor = initializer(result, np.array(by, np.float32), "nudge")
    for node in list(result.graph):
        x = node.inputs[0] if node.op_type in ROUNDING else None
        if x is not None and x.dtype in (ir.DataType.FLOAT, None):
            near = op("Mul", [x, factor], x, name=f"{x.name}_{node.outputs[0].name}_nudged")
            result.graph.insert_before(node, near)
            node.replace_input_with(0, near.outputs[0])
    return result


def reference(model: ir.Model, inputs: Mapping[str, np.ndarray], optimize: bool = True) -> list[np.ndarray]:
    """What onnxruntime makes of the inputs, in the order of the graph's outputs."""
    s = session(model, optimize=optimize)
    wanted = {i.name for i in s.get_inputs()}
    options = ort.RunOptions()
    alarm = threading.Timer(RUN_LIMIT_S, lambda: setattr(options, "terminate", True))
    alarm.daemon = True
    alarm.start()
    try:
        return [np.asarray(o) for o in s.run(None, {k: v for k, v in inputs.items() if k in wanted}, options)]
    except Exception as e:
        why = f"takes more than {RUN_LIMIT_S} s" if options.terminate else f"cannot run this model: {_one_line(e)}"
        raise OracleError(f"onnxruntime, whose outputs are the reference, {why}") from None
    finally:
        alarm.cancel()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
