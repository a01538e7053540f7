"""Where does an artifact first differ from onnxruntime? Pass by pass, then kernel by kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..schedules.device import Device
from ..targets.cpu import artifact, loader
from .driver import Compiled, Lowered, Progress, build_model, lower, prepare, silent
from .partition import partition
from .sample import oracle, reference
from .verify import Difference, difference


@dataclass(frozen=True)
class Layer:
    """One kernel's output against onnxruntime's value of the same name; nodes: the source ONNX nodes."""

    nodes: tuple[str, ...]
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """passes: outputs of the prepared graph against those of the model as imported, both in onnxruntime; layers: in the order in
    which they run."""

    passes: tuple[Difference, ...]
    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer | None:
        """The first kernel whose output is past its tolerance."""
        return next((x for x in self.layers if not x.difference.ok), None)

    @property
    def guilty_passes(self) -> bool:
        return any(not d.ok for d in self.passes)


def compare(load: Callable[[], ir.Model], inputs: Mapping[str, np.ndarray], device: Device,
            progress: Progress = silent) -> Comparison:
    """Compiles the model with every kernel's output exposed, and runs it beside onnxruntime. `load` imports the model anew."""
    expected = oracle(load(), inputs)
    model, applied = prepare(load(), progress)
    names = [str(v.name) for v in model.graph.outputs]
    passes = tuple(difference(*x) for x in zip(names, reference(model, inputs), expected.outputs, expected.noise, strict=True))
    made = {str(v.name): (v, tuple(f"{n.op_type} {n.name}" for n in g.nodes))
            for g in partition(model).groups for v in g.outputs}
    shown = set(model.graph.outputs)
    model.graph.outputs.extend(v for v, _ in made.values() if v not in shown)
    names = [str(v.name) for v in model.graph.outputs]
    wanted = oracle(model, inputs)
    _, groups = lower(model)
    compiled = build_model(Lowered(model, applied, tuple(groups)), [device], "compare", progress)
    got = run(compiled, list(inputs.values()), wanted.outputs)
    found = {x[0]: difference(*x) for x in zip(names, got, wanted.outputs, wanted.noise, strict=True)}
    return Comparison(passes, tuple(Layer(nodes, found[name]) for name, (_, nodes) in made.items()))


def run(compiled: Compiled, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The compiled model's outputs, through an artifact that is thrown away. outputs: arrays of the right shapes and dtypes."""
    with tempfile.TemporaryDirectory(prefix="burnish-compare-") as folder:
        path = artifact.write(compiled.plan, compiled.builds[0], compiled.weights, inputs, outputs, compiled.devices[0],
                              Path(folder) / "out")
        with loader.load(path) as model:
            got = model(*inputs)
    return got if isinstance(got, tuple) else (got,)
