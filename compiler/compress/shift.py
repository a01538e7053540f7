"""Weights become sums of powers of two, where their treatment says so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ...passes.compress import bias, obs
from ...passes.compress import shift as shifts
from ...passes.compress.layers import Layer, layers
from ...passes.compress.treatment import Treatment
from ..driver import Progress, silent
from .calibration import Calibration
from .hessian import Moments, gather, stages
from .report import LayerReport

HELD = 4                        # each HELD-th sample only judges how much the others can be trusted
DAMPINGS = (0.01, 0.1, 1.0)     # of the mean of H's diagonal


def shift(model: ir.Model, treatments: Mapping[str, Treatment], data: Calibration | None = None, *,
          progress: Progress = silent) -> list[LayerReport]:
    """Gives every layer whose treatment has one or two terms of powers of two such weights, in place and in order; the model is
    in canonical form.

    With data each layer learns to make of its input, which earlier layers have changed, what it made in the float model, and its
    bias takes back what is left of the mean. Without, weights are rounded as they are, and the error is that of the weights.
    Depthwise convolutions stay: their weights are few, and with a handful of taps nothing makes up for rounding (all of
    EfficientNet-Lite0 in two terms: 88 % agree with float32, without those 96 %; 256 photos to calibrate on, 206 others). Raises
    OracleError where onnxruntime cannot run the model.
    """
    wanted = [x for x in layers(model) if (t := treatments.get(x.name)) is not None and t.shift]
    chosen, reports = [x for x in wanted if not x.depthwise], [_left(x) for x in wanted if x.depthwise]
    if data is None:
        return reports + [_coded(model, layer, treatments[layer.name].shift, None) for layer in chosen]
    original = model.clone()
    for stage in stages(chosen):
        found, held = gather(model, stage, data, original, HELD, "observe for shifts", progress)
        for done, layer in enumerate(stage, 1):
            reports.append(_coded(model, layer, treatments[layer.name].shift, found[layer.name], held[layer.name]))
            progress("shift", done, len(stage))
    return reports


def _left(layer: Layer) -> LayerReport:
    size = layer.weight.nbytes
    return LayerReport(layer.name, "dense", 0.0, size, size, "depthwise: its few weights round badly and save little")


def _coded(model: ir.Model, layer: Layer, terms: int, seen: Moments | None, judge: Moments | None = None) -> LayerReport:
    before = layer.matrix.astype(np.float64)
    if seen is None or judge is None:
        coded, note = shifts.rounded(before, terms), "error of the weights: no data"
        error = float(np.linalg.norm(coded.matrix - before)) / max(float(np.linalg.norm(before)), 1e-300)
    else:
        tried = [_fitted(before, terms, seen, damping) for damping in DAMPINGS]
        errors, note = [judge.error(c.matrix) for c in tried], ""
        error = min(errors)
        coded = tried[errors.index(error)]
        if seen.centred:
            bias.write(model, layer, (0 if layer.is_conv else bias.read(layer)) + seen.bias(coded.matrix))
    size = shifts.write(model, layer, coded)
    return LayerReport(layer.name, f"{terms}-term shift", error, before.size * 4, size, note)


def _fitted(w: np.ndarray, terms: int, seen: Moments, damping: float) -> shifts.Coded:
    """The weights that come nearest to what the layer made in the float model, in codes. What few samples say is damped more."""
    h = np.stack([obs.damped(seen.hessian(g), damping) for g in range(len(w))])
    pull = np.stack([seen.pull(g, x) for g, x in enumerate(w)])
    return shifts.swept(w + np.linalg.solve(h, pull), terms, h)
