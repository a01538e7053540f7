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


def shift(model: ir.Model, treatments: Mapping[str, Treatment], data: Calibration | None = None, *,
          progress: Progress = silent) -> list[LayerReport]:
    """Gives every layer whose treatment has one or two terms of powers of two such weights, in place and in order; the model is
    in canonical form.

    With data each layer learns to make of its input, which earlier layers have changed, what it made in the float model, and its
    bias takes back what is left of the mean. Without, weights are rounded as they are, and the error is that of the weights.
    Raises OracleError where onnxruntime cannot run the model.
    """
    chosen = [x for x in layers(model) if (t := treatments.get(x.name)) is not None and t.shift]
    if data is None:
        return [_coded(model, layer, treatments[layer.name].shift, None) for layer in chosen]
    original, reports = model.clone(), []
    for stage in stages(chosen):
        found, _ = gather(model, stage, data, original, what="observe for shifts", progress=progress)
        for done, layer in enumerate(stage, 1):
            reports.append(_coded(model, layer, treatments[layer.name].shift, found[layer.name]))
            progress("shift", done, len(stage))
    return reports


def _coded(model: ir.Model, layer: Layer, terms: int, seen: Moments | None) -> LayerReport:
    before = layer.matrix.astype(np.float64)
    coded, note = [], ""
    for g, w in enumerate(before):
        if seen is None:
            coded.append(shifts.rounded(w, terms))
        else:
            h = obs.damped(seen.hessian(g))
            coded.append(shifts.swept(w + obs.solve(h, seen.pull(g, w)), terms, h))
    after = np.stack([c.matrix for c in coded])
    if seen is None:
        error, note = float(np.linalg.norm(after - before) / max(np.linalg.norm(before), 1e-300)), "error of the weights: no data"
    else:
        error = seen.error(after)
        if seen.centred:
            bias.write(model, layer, (0 if layer.is_conv else bias.read(layer)) + seen.bias(after))
    size = shifts.write(model, layer, coded)
    return LayerReport(layer.name, f"{terms}-term shift", error, layer.matrix.nbytes, size, note)
