"""Sample inputs for a model, and its reference outputs by onnxruntime: the oracle of verify and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..targets.plan import Signature


def sample_inputs(signatures: Sequence[Signature], seed: int = 0) -> dict[str, np.ndarray]:
    """One array for each input: floats are standard normal, unsigned bytes the whole range, other integers 0 or 1 (valid as
    token, mask, class or index in any model), booleans a fair coin."""
    rng = np.random.default_rng(seed)
    return {s.name: _sample(s, rng) for s in signatures}


def _sample(s: Signature, rng: np.random.Generator) -> np.ndarray:
    if s.dtype.startswith("float"):
        return rng.standard_normal(s.shape).astype(s.dtype)
    if s.dtype == "bool":
        return rng.integers(0, 2, s.shape).astype(bool)
    top = {"uint8": 256, "int8": 128}.get(s.dtype, 2)
    return rng.integers(-128 if s.dtype == "int8" else 0, top, s.shape).astype(s.dtype)


def session(model: ir.Model, threads: int = 0, optimize: bool = True) -> ort.InferenceSession:
    """onnxruntime on a graph at any stage. threads: 0 for as many as it likes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def reference(model: ir.Model, inputs: Mapping[str, np.ndarray], optimize: bool = True) -> list[np.ndarray]:
    """What onnxruntime makes of the inputs, in the order of the graph's outputs."""
    s = session(model, optimize=optimize)
    wanted = {i.name for i in s.get_inputs()}
    return [np.asarray(o) for o in s.run(None, {k: v for k, v in inputs.items() if k in wanted})]
