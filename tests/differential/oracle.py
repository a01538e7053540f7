"""What onnxruntime makes of a random graph, and how exactly that can be asked of anyone.

Rounding in front of a discontinuity (a comparison, a cast to an integer, the position of a maximum) shows as large differences.
So onnxruntime runs a second time on inputs that differ by a few units in the last place: what that changes, nobody can be held
to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

LARGEST = 1e5       # values beyond it overflow the half precision and the integers of a graph
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 1e-2}     # float64 graphs have float32 inputs


class NotComparable(Exception):
    """onnxruntime cannot run the graph, or some value in it is not finite."""


@dataclass(frozen=True)
class Expected:
    """An output of the graph; tolerance: absolute, for each element; infinite where it is all noise."""

    name: str
    value: np.ndarray
    tolerance: np.ndarray

    def check(self, got: np.ndarray) -> None:
        """Raises AssertionError."""
        want = self.value
        found, wanted = (f"{a.dtype}{list(a.shape)}" for a in (got, want))
        assert found == wanted, f"{self.name}: {found}, not {wanted}"
        off = np.abs(got.astype("f8") - want.astype("f8"))
        bad = ~(off <= self.tolerance) & np.isfinite(self.tolerance)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise AssertionError(f"{self.name} {wanted}: {int(bad.sum())} of {want.size} elements are wrong, "
                                 f"the first at {list(at)}: {got[at]}, not {want[at]}")


def expect(model: ModelProto, inputs: Mapping[str, np.ndarray], every: Sequence[str] = ()) -> list[Expected]:
    """The graph's outputs. every: names of values that must be finite and not too large."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names = [o.name for o in model.graph.output]
    copy.graph.output.extend(v for v in model.graph.value_info if v.name in every and v.name not in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values, near = session.run(None, dict(inputs)), session.run(None, {n: _nudged(a) for n, a in inputs.items()})
    except Exception as e:
        raise NotComparable(str(e)) from None
    for v in values:
        if v.dtype.kind == "f" and not (np.abs(v.astype("f8")) <= LARGEST).all():
            raise NotComparable("a value is too large")
    return [Expected(n, v, _tolerance(v, o)) for n, v, o in zip(names, values, near, strict=False)]


def _nudged(a: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "f":
        return a
    signs = np.where(np.random.default_rng(1).random(a.shape) < 0.5, -1, 1)
    return np.asarray(a * (1 + 4 * np.finfo(np.float32).eps * signs), a.dtype)


def _tolerance(value: np.ndarray, near: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f":
        return np.where(value == near, 0, np.inf)
    scale = np.abs(value.astype("f8")).max(initial=0)
    noise = np.abs(value.astype("f8") - near.astype("f8"))
    base = TOLERANCE[str(value.dtype)] * max(float(scale), 0.1)
    return np.where(noise > 10 * base, np.inf, base + 8 * noise.max(initial=0, where=noise <= 10 * base))
