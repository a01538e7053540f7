"""Inference runtimes behind one signature: what the benchmark times and what accuracy is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from .. import load, models
from ..models.litert import NoConversion, tflite

Runner = Callable[[dict[str, np.ndarray]], list[np.ndarray]]     # inputs by name -> outputs in the model's order


class Unavailable(Exception):
    """Why a peer does not take part."""


@dataclass(frozen=True)
class Peer:
    """`load(name, threads)` gives a runner of a model of the zoo in float32, or raises Unavailable. `package` is PyPI's name."""

    name: str
    package: str
    load: Callable[[str, int], Runner]

    @property
    def version(self) -> str:
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "not installed"


def onnxruntime_runner(path: Path, threads: int | None = None, optimize: bool = True) -> Runner:
    """All of onnxruntime's optimisations (or none), on the CPU; `threads=None` leaves their number to it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def burnish_runner(artifact: Path, threads: int | None = None) -> Runner:
    """A compiled artifact, called as a user of the Python API does."""
    model = load(artifact, threads=threads)

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = model(**inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]
    return run


def _onnxruntime(name: str, threads: int) -> Runner:
    return onnxruntime_runner(models.build(name), threads)


def _openvino(name: str, threads: int) -> Runner:
    try:
        import openvino
    except ImportError:
        raise Unavailable("openvino is not installed") from None
    core = openvino.Core()
    model = core.read_model(models.build(name))
    if model.is_dynamic():
        model.reshape({key: list(shape) for key, shape in models.ZOO[name].inputs.items()})
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[port] for port in compiled.outputs]
    return run


def _litert(name: str, threads: int) -> Runner:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise Unavailable("ai-edge-litert is not installed") from None
    try:
        interpreter = Interpreter(str(tflite(name)), num_threads=threads)
    except NoConversion as reason:
        raise Unavailable(f"no .tflite: {reason}") from None
    interpreter.allocate_tensors()
    places = sorted(interpreter.get_input_details(), key=lambda d: d["name"])     # serving_default_args_0, …_1, …
    results = [d["index"] for d in interpreter.get_output_details()]

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        for place, array in zip(places, inputs.values(), strict=True):
            interpreter.set_tensor(place["index"], array.astype(place["dtype"], copy=False))
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in results]
    return run


ONNXRUNTIME = Peer("onnxruntime", "onnxruntime", _onnxruntime)
PEERS = (ONNXRUNTIME, Peer("OpenVINO", "openvino", _openvino), Peer("LiteRT/XNNPACK", "ai-edge-litert", _litert))
